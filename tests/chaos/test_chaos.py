"""Roles killed at random and at the worst moments; the ledger says what must have been learnt."""

import json
from pathlib import Path
from typing import Any

import pytest
import starting
from copies import ORIGINAL
from paths import ROOT


def run(kind: str, seed: int, kills: int, folder: Path, rate: float, *more: str) -> dict[str, Any]:
    told = folder / "told.json"
    arguments = ["--seed", str(seed), "--kills", str(kills), "--rate", str(rate), "--log", kind, *more]
    done = starting.run(
        *arguments, "--json", str(told), "--keep", str(folder / "kept"),
        program=str(ROOT / "tests" / "chaos" / "chaos.py"),
        env=starting.environment(**{ORIGINAL: starting.original()}),
        timeout=550.0,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(told.read_text())
    assert result["kills"] >= kills
    assert result["sent"]["late"] > 20 and result["sent"]["copies"] > 20
    assert result["came_back_without_state"] > 0 or "--shards" in more
    assert not any(result["books"].values())
    return result


def check_points(result: dict[str, Any]) -> None:
    """Which points roles come to hangs on the machine too: a member may never be asked to take over."""
    assert any(not point.endswith("time") for point in result["killed_at"])
    assert result["slowest_take_over_s"] > 0.0


@pytest.mark.process
@pytest.mark.timeout(600)
def test_ledger_balances_after_twelve_kills(tmp_path: Path) -> None:
    check_points(run("sqlite", 5, 12, tmp_path, 500.0))  # what is tried is dying, and not how fast they are


# Long: half a minute; the simulator kills roles of three targets every day.
@pytest.mark.long
@pytest.mark.process
@pytest.mark.timeout(600)
def test_every_action_of_three_targets_counts_once_after_four_kills(tmp_path: Path) -> None:
    run("sqlite", 66, 4, tmp_path, 300.0, "--targets")


# Long: five minutes, most of which go by while a broker starts again and the roles catch up.
@pytest.mark.long
@pytest.mark.process
@pytest.mark.timeout(600)
def test_ledger_balances_after_twenty_kills_on_a_broker_that_fails_too(
    kafka_broker: str, tmp_path: Path
) -> None:
    # on a broker of its own; the other says whether there can be one
    check_points(run("kafka", 6, 20, tmp_path, 1500.0))


# Long: three minutes, for the same reason.
@pytest.mark.long
@pytest.mark.process
@pytest.mark.timeout(600)
def test_every_action_of_three_targets_counts_once_on_a_broker_that_fails_too(
    kafka_broker: str, tmp_path: Path
) -> None:
    run("kafka", 31, 12, tmp_path, 500.0, "--targets")


# Long: about two minutes, in which shards start again.
@pytest.mark.long
@pytest.mark.process
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "more", [[], ["--shard-by", "user"], ["--reshard"]], ids=["by request", "by user", "resharding"]
)
def test_ledger_balances_after_shards_were_killed(tmp_path: Path, more: list[str]) -> None:
    pytest.importorskip("torch")
    told = tmp_path / "recoveries.jsonl"
    result = run("sqlite", 7, 12, tmp_path, 300.0, "--shards", "2", *more, "--recoveries", str(told))
    assert any(point.startswith("shard ") for point in result["killed_at"])
    assert result["resharded"] == (2 if "--reshard" in more else 0)
    recoveries = [json.loads(line) for line in told.read_text().splitlines()]
    assert {one["kind"].partition(" ")[0] for one in recoveries} <= {"starter", "shard"}
    assert recoveries and all(one["seconds"] > 0.0 and one["seed"] == 7 for one in recoveries)


# Long: a minute each.
@pytest.mark.long
@pytest.mark.process
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("seed", "more"), [(42, []), (3, ["--shards", "2"])], ids=["one learner", "shards"])
def test_what_is_kept_of_ids_counts_once_after_six_kills(tmp_path: Path, seed: int, more: list[str]) -> None:
    result = run("sqlite", seed, 6, tmp_path, 300.0, "--known", *more)
    assert result["sent"]["entity events"] > 300

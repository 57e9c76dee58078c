"""Roles killed at random and at the worst moments; the ledger says what must have been learnt."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT


def run(kind: str, seed: int, kills: int, folder: Path) -> None:
    told = folder / "told.json"
    command = [
        sys.executable,
        str(ROOT / "tests" / "chaos" / "chaos.py"),
        "--seed",
        str(seed),
        "--kills",
        str(kills),
    ]
    done = subprocess.run(
        [*command, "--log", kind, "--json", str(told), "--keep", str(folder / "kept")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=550.0,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(told.read_text())
    assert result["kills"] >= kills and len(result["killed_at"]) >= 4
    assert result["sent"]["late"] > 100 and result["sent"]["copies"] > 100
    assert result["slowest_take_over_s"] > 0.0 and result["came_back_without_state"] > 0
    assert not any(result["books"].values())


@pytest.mark.process
@pytest.mark.timeout(600)
def test_ledger_balances_after_twelve_kills(tmp_path: Path) -> None:
    run("sqlite", 5, 12, tmp_path)


# Long: five minutes, most of which go by while a broker starts again and the roles catch up.
@pytest.mark.long
@pytest.mark.process
@pytest.mark.timeout(600)
def test_ledger_balances_after_twenty_kills_on_a_broker_that_fails_too(
    kafka_broker: str, tmp_path: Path
) -> None:
    run("kafka", 6, 20, tmp_path)  # on a broker of its own; the other says whether there can be one

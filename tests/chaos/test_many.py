"""What many runs of chaos are summed up to."""

import json
from pathlib import Path
from typing import Any

import many
import pytest


def test_recoveries_are_counted_by_who_was_killed_and_how_long_they_took() -> None:
    took = [("shard time", 0.4), ("shard inside-checkpoint", 1.6), ("shard time", 1.9), ("starter", 70.0)]
    lines = many.histogram({"kind": kind, "seconds": seconds} for kind, seconds in took)
    assert [line.rstrip("# ").split() for line in lines] == [
        ["shard:", "3", "recoveries,", "median", "1.6", "s,", "longest", "1.9", "s"],
        ["to", "1", "s", "1"],
        ["to", "2", "s", "2"],
        ["starter:", "1", "recoveries,", "median", "70.0", "s,", "longest", "70.0", "s"],
        ["over", "60", "s", "1"],
    ]
    assert [line.count("#") for line in lines] == [0, 20, 40, 0, 40]


def test_a_seed_that_does_not_balance_or_end_is_named_and_results_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def chaos(command: list[str], **more: Any) -> None:
        ran.append(command)
        seed, file = command[command.index("--seed") + 1], Path(command[command.index("--json") + 1])
        if seed != "3":
            books = {"examples_lost": 2 if seed == "2" else 0}
            result = {
                "balanced": seed != "2",
                "books": books,
                "killed_at": {"time": 4},
                "requests_learnt": 10,
            }
            file.write_text(json.dumps(result))
        more["stdout"].write(b"said\n")

    monkeypatch.setattr("subprocess.run", chaos)
    monkeypatch.setattr("sys.argv", ["many.py", "--seeds", "1-3", "--into", str(tmp_path), "--shards", "2"])
    assert many.main() == 1 == many.main()
    assert [command[command.index("--shards") + 1] for command in ran] == ["2"] * 4, "seed 3 alone again"
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["not_balanced"] == [2, 3] and found["seeds"] == 3 and found["kills"] == 8
    assert found["books"] == {"examples_lost": 2} and found["requests_learnt"] == 20

"""`freshet status` from the beats in a log: what it says, and how it ends."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from freshet.cli.main import main
from freshet.cli.system_commands import EXIT_NOT_OK
from freshet.config import parse_config
from freshet.tools.status import look
from stream.group.signs import Beat, MemberStatus, send_beat
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, UPDATES, Log
from stream.log.open import open_log
from stream.log.testing import MemoryLog


def test_each_beat_is_looked_at_however_many_are_read_at_once() -> None:
    log = MemoryLog()
    log.create_topic(ROLES, 1)
    config = parse_config({"features": {"item": {}}}, "test")
    assert look(log, config, 0.0) == []
    for i in range(1_500):
        send_beat(log, Beat("join", f"j{i}", "x", 0))
        if i in (0, 1, 1_499):
            assert len(look(log, config, 0.0)) == i + 1
    assert {seen.state for seen in look(log, config, 0.0)} == {"runs"}
    send_beat(log, Beat("join", "j0", "x", 1, leaving=True))
    assert [seen.name for seen in look(log, config, 0.0) if seen.state == "stopped"] == ["j0"]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """Of a config in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("freshet.toml").write_text('log = "sqlite:log.db"\n[features.item]\n[server]\nport = 0\n')
    log = open_log("sqlite:log.db")
    for topic in (EVENTS, EXAMPLES, UPDATES, DEAD_LETTERS, ROLES):
        log.create_topic(topic, 1)
    yield log
    log.close()


def test_status_tells_by_its_exit_whether_a_joiner_and_a_learner_run(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    for role, status in (("join", EXIT_NOT_OK), ("serve", EXIT_NOT_OK), ("learn", 0)):
        send_beat(log, Beat(role, f"{role}-0", "x", 0))
        assert main(["status"]) == status
        assert f"{role}-0" in capsys.readouterr().out


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e308, 1e18, -1.0])
def test_status_of_any_numbers_in_a_beat_is_printed(
    number: float, log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = dict.fromkeys(("clock", "records", "undecided", "long_unsaid"), number)
    for role in ("join", "learn"):
        send_beat(log, Beat(role, "a", "x", (1 << 63) - 1, status=MemberStatus(numbers, {"item": []})))
    assert main(["status"]) == main(["status", "--json"]) == 0
    assert "since 1970-01-01" in capsys.readouterr().out

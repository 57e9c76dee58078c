"""Without a terminal a long command prints lines, and a short one none."""

import pytest

from freshet import progress as module
from freshet.progress import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_lines_come_after_a_while_and_then_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("replaying", 10_000) as advance:
        for _ in range(200):
            clock[0] += 0.5
            advance(50)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "replaying: 500 of 10,000, 100/s, about 95 s left"
    assert len(lines) == 4, "one after 5 s, then one each 30 s"


def test_short_command_prints_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("replaying", None) as advance:
        clock[0] += 4.0
        advance(50)
    assert capsys.readouterr().err == ""

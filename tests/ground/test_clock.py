"""Clocks: the machine's, and the one that tests drive."""

import threading

import pytest

from ground.clock import SYSTEM_CLOCK, Clock, ManualClock


@pytest.fixture(params=["system", "manual"])
def clock(request: pytest.FixtureRequest) -> Clock:
    return SYSTEM_CLOCK if request.param == "system" else ManualClock()


def test_time_passes_by_as_much_as_was_slept(clock: Clock) -> None:
    before_s, wall_s = clock.now_s(), clock.unix_s()
    clock.sleep(0.01)
    assert clock.now_s() >= before_s + 0.0099
    assert clock.unix_s() >= wall_s


def test_wait_tells_whether_the_event_is_set(clock: Clock) -> None:
    event = threading.Event()
    assert clock.wait(event, 0.01) is False
    event.set()
    before_s = clock.now_s()
    assert clock.wait(event, 60.0) is True
    assert clock.now_s() < before_s + 30.0


def test_draws_lie_in_their_range_and_tokens_are_unique(clock: Clock) -> None:
    assert all(0.0 <= clock.draw() < 1.0 for _ in range(1000))
    tokens = {clock.token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert {len(token) for token in tokens} == {32}


def test_one_seed_draws_the_same() -> None:
    first, second = ManualClock(3), ManualClock(3)
    assert [first.draw() for _ in range(9)] == [second.draw() for _ in range(9)]
    assert first.token() == second.token()

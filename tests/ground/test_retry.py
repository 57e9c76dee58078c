"""Pauses between attempts: they grow, have a limit, and differ from one client to the other."""

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ground.clock import ManualClock
from ground.retry import JITTER, Backoff, Pauses


@given(
    first_s=st.floats(0.001, 1.0),
    factor=st.floats(1.0, 1000.0),
    failures=st.integers(1, 80),
    seed=st.integers(0, 1000),
)
def test_pauses_double_up_to_the_longest_less_the_jitter(
    first_s: float, factor: float, failures: int, seed: int
) -> None:
    pauses = Pauses(first_s, first_s * factor)
    backoff = Backoff(pauses, ManualClock(seed))
    for failure in range(failures):
        full_s = min(first_s * 2.0**failure, pauses.longest_s)
        pause_s = backoff.next_s()
        assert pause_s is not None
        assert full_s * (1.0 - JITTER) <= pause_s <= full_s


def test_pauses_of_a_thousand_failures_stay_finite() -> None:
    backoff = Backoff(Pauses(0.1, 5.0), ManualClock())
    pauses = [backoff.next_s() for _ in range(2000)]
    assert all(pause_s is not None and 0.0 < pause_s <= 5.0 for pause_s in pauses)


def test_two_clients_do_not_come_back_at_one_moment() -> None:
    first, second = (Backoff(Pauses(1.0, 5.0), ManualClock(seed)) for seed in (1, 2))
    assert [first.next_s() for _ in range(5)] != [second.next_s() for _ in range(5)]


def test_one_seed_gives_the_same_pauses() -> None:
    first, second = (Backoff(Pauses(1.0, 5.0), ManualClock(7)) for _ in range(2))
    assert [first.next_s() for _ in range(5)] == [second.next_s() for _ in range(5)]


def test_reset_begins_with_the_first_pause_and_the_whole_time() -> None:
    clock = ManualClock()
    backoff = Backoff(Pauses(1.0, 100.0, give_up_s=10.0), clock)
    while backoff.sleep():
        pass
    assert clock.now_s() == 1_010.0
    assert backoff.failed
    backoff.reset()
    assert not backoff.failed
    pause_s = backoff.next_s()
    assert pause_s is not None and pause_s <= 1.0
    while backoff.sleep():
        pass
    assert clock.now_s() == 1_020.0


def test_wait_ends_when_stop_is_set() -> None:
    clock, stop = ManualClock(), threading.Event()
    backoff = Backoff(Pauses(1.0, 5.0), clock)
    assert backoff.wait(stop)
    stop.set()
    slept = list(clock.slept)
    assert not backoff.wait(stop)
    assert clock.slept == slept


@pytest.mark.parametrize("bad", [(0.0, 1.0, 1.0), (2.0, 1.0, 1.0), (math.nan, 1.0, 1.0), (1.0, 1.0, -1.0)])
def test_pauses_that_make_no_sense_are_refused(bad: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 < first_s"):
        Pauses(*bad)

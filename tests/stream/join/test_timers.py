"""Timers, most of them on disk: they come in order, none is lost, and what was taken leaves the disk."""

from pathlib import Path

import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.join.timers import Timer, Timers
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

PREFIX = b"timers/"
NEAR_MAX = 3

deadlines = st.integers(0, 40).map(lambda n: n / 2)
steps = st.one_of(
    st.tuples(st.just("add"), st.lists(deadlines, min_size=1, max_size=9)),
    st.tuples(st.just("pop"), st.integers(1, 4)),
    st.tuples(st.just("due"), st.tuples(deadlines, st.integers(1, 5))),
    st.tuples(st.just("flush"), st.none()),
    st.tuples(st.just("restart"), st.none()),
)


class Queue:
    """Timers in a state, beside those that must still come."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.left: list[Timer] = []
        self.taken: set[Timer] = set()  # they may come again
        self.made = self.commits = 0
        self.open()

    def open(self) -> None:
        self.state = RoleState(Path("/timers"), "joiner", {}, sync=False, disk=self.disk)
        self.timers = Timers(self.state, PREFIX, NEAR_MAX)

    def add(self, moments: list[float]) -> None:
        for deadline in moments:
            timer = (deadline, f"t{self.made}")
            self.made += 1
            self.timers.add(*timer)
            self.left.append(timer)

    def take(self, timer: Timer) -> None:
        timer = (timer[0], timer[1])
        if timer not in self.taken:
            assert timer == min(self.left), "they come in order"
            self.left.remove(timer)
            self.taken.add(timer)

    def pop(self, count: int) -> None:
        for _ in range(count):
            timer = self.timers.pop()
            if timer is None:
                assert not self.left
                return
            self.take(timer)

    def due(self, what: tuple[float, int]) -> None:
        clock, most = what
        found = self.timers.due(clock, most)
        assert len(found) <= most and all(deadline <= clock for deadline, _ in found)
        for timer in found:
            self.take(timer)
        assert found or not self.left or min(self.left)[0] > clock

    def flush(self, _: None) -> None:
        commit = self.state.begin()
        self.timers.flush(commit, self.commits)
        self.commits += 1
        self.state.commit(commit)

    def restart(self, _: None) -> None:
        self.flush(None)
        self.state.close()
        self.open()

    def end(self) -> None:
        self.pop(2 * self.made + 1)
        assert self.timers.pop() is None and not self.left
        self.flush(None)
        stored = [key for key, _ in self.state.scan(PREFIX)]
        assert not stored, "all of it was taken"
        self.state.close()


@pytest.mark.slow
@settings(max_examples=many(150))
@given(st.lists(steps, max_size=25))
def test_timers_come_in_order_and_none_is_lost(does: list[tuple[str, object]]) -> None:
    queue = Queue()
    for name, about in does:
        getattr(queue, name)(about)
    queue.end()

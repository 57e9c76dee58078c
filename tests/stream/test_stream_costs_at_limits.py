"""What one step of a role costs at a limit of its state is about what it costs far below it."""

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
from costs import DEARER_MAX, dearer

from ground.clock import ManualClock
from stream.ingest import shown
from stream.ingest.matcher import Matcher
from stream.ingest.records import Meeting, Seeking, Showing, key_of
from stream.ingest.records import encode as encode_meeting
from stream.ingest.waiting import WAITING, Waiter, Waiters
from stream.join.joiner import Joiner
from stream.join.settings import JoinSettings
from stream.log.base import EVENTS, MATCHES, Record
from stream.log.testing import MemoryLog
from stream.records.types import Impression, encode
from stream.sources.settings import IngestSettings
from stream.state.journal import Journal, JournalStretch
from stream.state.role_state import RoleState

T = 1_700_000_000.0


def journal_cost(commits_max: int) -> float:
    """Of a commit whose note makes the oldest one go, and of a start after each hundred."""
    with tempfile.TemporaryDirectory() as folder, RoleState(Path(folder), "joiner", {}, sync=False) as state:
        journal = Journal(state, commits_max)
        commit = state.begin()
        for i in range(commits_max):
            journal.note([JournalStretch(0, i, i + 1)], commit)
        state.commit(commit)
        steps = 200
        began = time.thread_time()
        for i in range(steps):
            if i % 100 == 0:
                journal = Journal(state, commits_max)
            commit = state.begin()
            journal.note([JournalStretch(0, commits_max + i, commits_max + i + 1)], commit)
            state.commit(commit)
        return (time.thread_time() - began) / steps


def pending_cost(pending_max: int) -> float:
    """Of an impression for which the oldest waiting request has to be decided early, commits included."""
    settings = JoinSettings(window_s=1e5, pending_max=pending_max, pending_max_memory=pending_max // 10)
    with tempfile.TemporaryDirectory() as folder, RoleState(Path(folder), "joiner", {}, sync=False) as state:
        joiner = Joiner(state, settings)

        def take(first: int, end: int) -> None:
            for start in range(first, end, 50):
                commit = state.begin()
                records = [
                    Record(EVENTS, 0, i, b"", encode(Impression(f"r{i}", T + i / 1e3, [{"item": i}])))
                    for i in range(start, min(start + 50, end))
                ]
                joiner.handle(records, commit)
                joiner.flush(commit)
                state.commit(commit)

        take(0, pending_max)
        assert joiner.counts.early == 0
        steps = 200
        began = time.thread_time()
        take(pending_max, pending_max + steps)
        took_s = time.thread_time() - began
        assert joiner.counts.early == steps
        return took_s / steps


class Matching:
    """A matcher that takes records one by one, and commits after every fiftieth."""

    def __init__(self, state: RoleState, settings: IngestSettings) -> None:
        self.state = state
        self.matcher = Matcher(MemoryLog(), state, settings, reach_s=1e6, clock=ManualClock(start_s=T))
        self.taken = 0

    def take(self, key: bytes, meetings: Iterable[Meeting]) -> float:
        """Returns what one took, by processor time."""
        values = [encode_meeting(meeting) for meeting in meetings]
        began = time.thread_time()
        for start in range(0, len(values), 50):
            commit = self.state.begin()
            for value in values[start : start + 50]:
                self.matcher.handle([Record(MATCHES, 0, self.taken, key, value)], commit)
                self.taken += 1
            self.matcher.flush(commit)
            self.state.commit(commit)
        return (time.thread_time() - began) / len(values)


def seeking(number: int) -> Seeking:
    """An action that looks for what is not shown."""
    return Seeking("", T + number / 1e3, {"item": -1}, 1.0, "click", 1e6, 1e6, 0.0, "clicks", 0, number)


def waiting_cost(waiting_max: int) -> float:
    """Of an action that waits in a partition where the oldest has to give up for it."""
    with tempfile.TemporaryDirectory() as folder, RoleState(Path(folder), "ingest", {}, sync=False) as state:
        matching = Matching(state, IngestSettings(waiting_max=waiting_max))
        key, steps = key_of(["user"], [1]), 400
        matching.take(key, map(seeking, range(waiting_max)))
        assert matching.matcher.waiting == waiting_max
        took_s = matching.take(key, map(seeking, range(waiting_max, waiting_max + steps)))
        assert matching.matcher.counts.early == steps and matching.matcher.waiting == waiting_max
        return took_s


def test_actions_that_wait_no_longer_take_no_memory(tmp_path: Path) -> None:
    with RoleState(tmp_path, "ingest", {}, sync=False) as state:
        waiters, steps = Waiters(state, 0), 12_000

        def write() -> None:
            commit = state.begin()
            waiters.flush(commit)
            state.commit(commit)

        def pass_by(first: int) -> int:
            tracemalloc.start()
            for start in range(first, first + steps, 200):
                some = [Waiter(i, b"k", seeking(i)) for i in range(start, start + 200)]
                for waiter in some:
                    waiters.add(waiter)
                write()
                for waiter in some:
                    waiters.remove(waiter)
                write()
            held = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            return held

        pass_by(0)
        assert pass_by(steps) < 40 * steps, "bytes; the moment at which one gives up takes about 100"
        assert next(state.scan(WAITING), None) is None
        last = Waiter(2 * steps, b"k", seeking(2 * steps))
        waiters.add(last)
        assert waiters.pop_due(last.ends_s) == last, "the moments of those that wait are kept"


def test_keys_that_are_remembered_on_disk_take_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "CACHED_MAX", 20)
    with RoleState(tmp_path, "ingest", {}, sync=False) as state:
        showings, keys = shown.Showings(state, 0, 1e6, 50), [b"k%d" % i for i in range(2_000)]
        tracemalloc.start()
        for start in range(0, len(keys), 100):
            for i in range(start, start + 100):
                showings.add(keys[i], Showing(f"r{i}", T, ["item"], [[i]] * 100), T)
            commit = state.begin()
            showings.flush(commit, T)
            state.commit(commit)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert held < 1 << 20, "bytes; all of them take over 10 MB"
        wanted = msgspec.structs.replace(seeking(1), match={"item": 7})
        assert showings.find(keys[7], wanted, T) == ("r7", 0)


def recent_cost(recent_max: int) -> float:
    """Of an impression of an entity of which as many are known as are remembered."""
    with tempfile.TemporaryDirectory() as folder, RoleState(Path(folder), "ingest", {}, sync=False) as state:
        matching = Matching(state, IngestSettings(recent_max=recent_max))
        key, steps = key_of(["user"], [1]), 400
        showings = [Showing(f"r{i}", T + i / 1e3, ["item"], [[i]]) for i in range(recent_max + steps)]
        matching.take(key, showings[:recent_max])
        return matching.take(key, showings[recent_max:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cost", "limit"),
    [
        (journal_cost, 20_000),
        (pending_cost, 4_000),
        (waiting_cost, 20_000),
        (recent_cost, IngestSettings().recent_max),
    ],
    ids=["journal_max", "pending_max", "waiting_max", "recent_max"],
)
def test_step_at_a_limit_of_the_state_costs_about_what_one_below_it_does(
    cost: Callable[[int], float], limit: int
) -> None:
    assert dearer(cost, limit) < DEARER_MAX

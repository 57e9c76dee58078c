"""Joiners that share partitions: whoever joins one, readers get each output once and none other."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import msgspec
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import wait_until

from ground.clock import ManualClock
from stream.errors import LogAwayError
from stream.group.leavings import KEPT_S
from stream.group.membership import GroupSettings, Member
from stream.group.signs import Beat, Note
from stream.join.assignment import OFFSETS_EVERY_S, Shares
from stream.join.joiner import Joiner, JoinSettings
from stream.join.pairing import REACH_WINDOWS
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, Outgoing
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.log.testing import Faults, FaultyLog, MemoryLog
from stream.records.forgetting import forget_records
from stream.records.types import Action, Exposure, Forget, Impression, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

T = 1_700_000_000.0
WINDOW_S = 10.0
BY_HAND = GroupSettings(beat_s=60.0, timeout_s=180.0)  # beats when the test says so
EAGER = RunnerSettings(commit_every_s=0.0, read_max=7)


def make_log(path: Path, partitions: int) -> SqliteLog:
    log = SqliteLog(path, LogSettings(sync=False))
    for topic in (EVENTS, EXAMPLES):
        log.create_topic(topic, partitions)
    for topic in (DEAD_LETTERS, ROLES):
        log.create_topic(topic, 1)
    return log


class Joining:
    """One joiner with its own state, of a group."""

    def __init__(
        self, log: SqliteLog, folder: Path, name: str, late: str = "learn", group: GroupSettings = BY_HAND
    ) -> None:
        self.log = log
        self._opened = ExitStack()
        self.state = self._opened.enter_context(RoleState(folder / name, "joiner", {}, sync=False))
        self.joiner = Joiner(self.state, JoinSettings(window_s=WINDOW_S, late=late, pending_max_memory=5))  # type: ignore[arg-type]
        self.runner = Runner(
            log, self.state, self.joiner, Subscription(EVENTS, "join", partitions=()), EAGER
        ).open()
        self.beats = FaultyLog(log, 0, Faults())
        self.member = self._opened.enter_context(Member(self.beats, "join", name, group))
        self.shares = Shares(log, self.state, self.joiner, self.runner, self.member)

    def step(self, times: int = 100_000) -> None:
        """Take so many reads of what there is."""
        for _ in range(times):
            if not self.runner.step():
                return

    def note(self) -> None:
        """Do what it does about once a second: note where it is, and beat."""
        self.runner.commit()
        self.shares.note()
        self.member.beat()

    def close(self) -> None:
        self._opened.close()


def events(seed: int, n: int) -> list[Outgoing]:
    """Requests with clicks and exposures in time, late, twice, before their impression, and without one."""
    rng = random.Random(seed)
    arriving: list[tuple[float, Impression | Action | Exposure]] = []
    for i in range(n):
        time = T + i * rng.choice((0.0, 0.3, 1.0))
        name = f"r{i}"
        shown = Impression(
            request_id=name,
            time=time,
            candidates=[{"item": j} for j in range(2)],
            shown=[[1], [0, 1], None, None][rng.randrange(4)],
        )
        if rng.random() < 0.9:
            arriving.append((time + rng.uniform(0, 5), shown))
        if rng.random() < 0.1:
            arriving.append((time + rng.uniform(0, 3 * WINDOW_S), shown))
        for _ in range(rng.randrange(3)):
            acted = Action(
                request_id=name,
                time=time + rng.uniform(0, 2.5 * WINDOW_S),
                candidate=rng.randrange(3),
                label=float(rng.random() < 0.8),
            )
            arriving.append((acted.time + rng.uniform(0, 5), acted))
            if rng.random() < 0.2:
                arriving.append((acted.time + rng.uniform(0, WINDOW_S), acted))
        if rng.random() < 0.4:
            told = Exposure(
                request_id=name,
                time=time + rng.uniform(0, 2 * WINDOW_S),
                shown=rng.choice(([0], [1, 0], [2], None)),
                examined=rng.randrange(4),
            )
            arriving.append((told.time + rng.uniform(-5, 5), told))
    arriving.sort(key=lambda entry: entry[0])
    return [Outgoing(event.request_id.encode(), encode(event)) for _, event in arriving]


def taken(log: SqliteLog, topic: str) -> list[tuple[int, str, int, bytes]]:
    """A topic as a runner lets it through."""
    found: list[tuple[int, str, int, bytes]] = []
    newest: dict[tuple[int, str], int] = {}
    for partition in range(log.partitions(topic)):
        for record in log.read(topic, partition, 0, 1_000_000, 1 << 30):
            if record.seq > newest.get((partition, record.producer), -1):
                newest[partition, record.producer] = record.seq
                found.append((partition, record.producer, record.seq, record.value))
    return found


@pytest.mark.slow
@settings(max_examples=many(10), deadline=None)
@given(
    seed=st.integers(0, 10**6),
    late=st.sampled_from(["learn", "drop"]),
    cuts=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    together=st.booleans(),
)
def test_partition_that_moves_gives_the_outputs_of_one_that_stays(
    tmp_path_factory: pytest.TempPathFactory, seed: int, late: str, cuts: list[int], together: bool
) -> None:
    folder = tmp_path_factory.mktemp("moves")
    sent = events(seed, 150)
    alone = make_log(folder / "alone.db", 1)
    alone.append(EVENTS, sent)
    one = Joining(alone, folder / "alone", "one", late)
    one.shares.acquire(0)
    one.step()
    one.close()

    log = make_log(folder / "log.db", 1)
    log.append(EVENTS, sent)
    joinings: list[Joining] = []
    for number, cut in enumerate(cuts):
        # a new machine, which knows what is in the log and nothing else
        joining = Joining(log, folder, f"m{number}", late)
        joining.shares.acquire(0)
        joinings.append(joining)
        for earlier in joinings if together else [joining]:
            earlier.step(cut)
        joining.note()
    joinings[0].step()  # which was away all the time, goes on from its own state
    joinings[-1].step()
    for topic in (EXAMPLES, DEAD_LETTERS):
        assert taken(log, topic) == taken(alone, topic)
    assert joinings[-1].joiner.undecided == one.joiner.undecided
    for joining in joinings:
        joining.close()
    alone.close()
    log.close()


def test_one_who_takes_up_behind_a_jump_of_the_clock_knows_what_was_decided_there(tmp_path: Path) -> None:
    def shown(name: str, time: float) -> Outgoing:
        event = Impression(request_id=name, time=time, candidates=[{"item": 1}])
        return Outgoing(name.encode(), encode(event))

    clicked = Outgoing(b"r0", encode(Action("r0", T + 1.0, 0)))
    before = [shown(f"r{i}", T + 0.5 * i) for i in range(12)]
    before += [shown("night-0", T + 5_000.0), shown("night-1", T + 5_001.0)]
    after = [shown("r0", T), clicked, shown("end", T + 9_000.0)]
    log = make_log(tmp_path / "log.db", 1)
    log.append(EVENTS, before)
    with ExitStack() as opened:
        joinings = [Joining(log, tmp_path, name) for name in ("first", "second")]
        for joining in joinings:
            opened.callback(joining.close)
        first, second = joinings
        first.shares.acquire(0)
        first.step()
        first.note()
        second.member.look()
        log.append(EVENTS, after)
        second.shares.acquire(0)  # with an empty state
        second.step()
    late = [value for _, _, _, value in taken(log, EXAMPLES) if b"late" in value]
    assert len(late) == 1, "the action came in time to be late"
    names = [msgspec.msgpack.decode(value)["request_id"] for *_, value in taken(log, EXAMPLES)]
    assert sorted(names) == sorted(["r0", *(f"r{i}" for i in range(12)), "night-0", "night-1"])
    assert not taken(log, DEAD_LETTERS)


@pytest.mark.parametrize("noted_s", [0.0, 8.0, 16.0, 22.0, 26.0, 32.0, 38.0])
def test_one_who_takes_up_behind_a_jump_takes_no_late_action_for_one_without_an_impression(
    tmp_path: Path, noted_s: float
) -> None:
    """It came while its request was remembered, and waits for it where that one is not known."""

    def shown(time: float) -> tuple[float, Outgoing]:
        event = Impression(request_id=f"r{time:g}", time=T + time, candidates=[{"item": 1}])
        return time, Outgoing(b"", encode(event))

    night_s = 5_000.0
    late = night_s + 2.0 * WINDOW_S - 1.0, Outgoing(b"", encode(Action("r0", T + 30.0, 0)))
    sent = [shown(0.5 * i) for i in range(12)] + [shown(night_s + i) for i in range(60)] + [late]
    sent.sort(key=lambda timed: timed[0])
    log = make_log(tmp_path / "log.db", 1)
    with ExitStack() as opened:
        joinings = [Joining(log, tmp_path, name) for name in ("first", "second")]
        for joining in joinings:
            opened.callback(joining.close)
        first, second = joinings
        log.append(EVENTS, [event for time, event in sent if time <= night_s + noted_s])
        first.shares.acquire(0)
        first.step()
        first.note()
        second.member.look()
        log.append(EVENTS, [event for time, event in sent if time > night_s + noted_s])
        second.shares.acquire(0)  # with an empty state
        second.step()
    assert sum(b"late" in value for *_, value in taken(log, EXAMPLES)) == 1
    assert not taken(log, DEAD_LETTERS)


@pytest.fixture
def in_memory() -> MemoryLog:
    log = MemoryLog()
    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS, ROLES):
        log.create_topic(topic, 1)
    return log


class Moving:
    """Joiner `b` on a disk in memory, and `a`, the first by name, that takes its only partition from it.

    Use it as a context manager.
    """

    def __init__(self, log: MemoryLog, disk: MemoryDisk, clock: ManualClock) -> None:
        self.log, self.disk = FaultyLog(log, 0, Faults(), clock), disk
        self._opened = ExitStack()
        self.state = self._opened.enter_context(RoleState(Path("b"), "joiner", {}, clock=clock, disk=disk))
        self.joiner = Joiner(self.state, JoinSettings(window_s=WINDOW_S))
        topic = Subscription(EVENTS, "join", partitions=())
        self.runner = Runner(self.log, self.state, self.joiner, topic, EAGER, clock).open()
        self._member = Member(log, "join", "b", BY_HAND, clock)
        self.other = Member(log, "join", "a", BY_HAND, clock)
        self._member.join()
        self.shares = Shares(self.log, self.state, self.joiner, self.runner, self._member, clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.shares.turn(threading.Event())

    def lose(self) -> None:
        """The other joiner gets the partition."""
        self.other.join()
        self._member.look()

    def get_back(self) -> None:
        self.other.leave()
        self._member.look()

    def holds(self, text: bytes) -> bool:
        return self.disk.holds(Path("b"), text)

    def wait_for_purge(self) -> None:
        wait_until(lambda: self.state.purges, "the purge", 0.001)


def shown_to(user: str, *, labels: list[float] | None = None, time: float = T) -> Outgoing:
    name = f"for-{user}"
    shown = Impression(name, time, candidates=[{"item": 1}], context={"user": user}, labels=labels)
    return Outgoing(name.encode(), encode(shown))


def test_what_another_joiner_has_is_soon_in_no_file_of_this_one(in_memory: MemoryLog) -> None:
    """Its requests to forget are for that other one, so nothing of it may stay here."""
    clock = ManualClock()
    in_memory.append(EVENTS, [shown_to("ann")])
    with Moving(in_memory, MemoryDisk(), clock) as b:
        b.turns(2)
        assert b.runner.partitions == {0} and b.holds(b"ann")
        b.lose()
        b.turns(1)
        assert b.runner.partitions == set() and b.holds(b"ann"), "it may come back soon"
        clock.advance(KEPT_S)
        b.turns(3)
        b.wait_for_purge()
        assert not b.holds(b"ann")
        b.get_back()
        b.turns(2)
        assert b.runner.partitions == {0} and b.joiner.undecided == 1, "it has read back what it needs"


def test_joiner_that_loses_all_while_the_log_is_away_sends_what_it_has_and_erases_it(
    in_memory: MemoryLog,
) -> None:
    clock = ManualClock()
    in_memory.append(EVENTS, [shown_to("ann", labels=[1.0])])
    with Moving(in_memory, MemoryDisk(), clock) as b:
        b.log.faults = Faults(append_lost=1.0)
        with pytest.raises(LogAwayError):
            b.turns(2)
        b.lose()
        with pytest.raises(LogAwayError):
            b.turns(1)
        assert b.state.unsent() and not in_memory.ends(EXAMPLES)[0][1]
        b.log.faults = Faults()
        b.turns(1)
        assert b.runner.partitions == set() and not b.state.unsent() and in_memory.ends(EXAMPLES)[0][1] == 1
        clock.advance(KEPT_S)
        b.turns(3)
        b.wait_for_purge()
        assert not b.holds(b"ann")


def test_joiner_that_begins_anew_erases_what_it_had(in_memory: MemoryLog) -> None:
    """The request to forget that the other one met is not read again."""
    clock, disk = ManualClock(), MemoryDisk()
    in_memory.append(EVENTS, [shown_to("ann")])
    with Moving(in_memory, disk, clock) as b:
        b.turns(2)
    in_memory.append(EVENTS, forget_records(Forget("f", T, {"user": ["ann"]}), 1))
    in_memory.append(EVENTS, [shown_to("bob", time=T + 1e4)])
    with Moving(in_memory, disk, clock) as b:
        assert b.holds(b"ann")
        b.other.join()
        b.other.publish([Note(0, 3, 2, T + 1e4)])
        b.lose()
        b.get_back()
        b.turns(3)
        b.wait_for_purge()
        assert b.runner.partitions == {0} and b.holds(b"bob") and not b.holds(b"ann")


@pytest.mark.slow
def test_one_who_takes_up_reads_back_no_more_than_a_record_reaches(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log.db", 1)
    per_s = 20
    log.append(
        EVENTS,
        [
            Outgoing(b"", encode(Impression(request_id=f"r{i}", time=T + i / per_s, candidates=[{}])))
            for i in range(4_000)
        ],
    )
    first = Joining(log, tmp_path, "a")
    first.shares.acquire(0)
    first.step()
    first.note()
    first.close()
    second = Joining(log, tmp_path, "b")
    second.shares.acquire(0)
    second.step()
    reach = REACH_WINDOWS * WINDOW_S * per_s
    assert reach <= second.runner.progress.records <= 1.1 * reach
    assert second.runner.progress.sent == 0
    assert second.joiner.undecided == WINDOW_S * per_s
    assert second.joiner.counts.impressions == 0, "they were counted by the first"
    second.close()
    log.close()


def test_crash_while_beginning_anew_leaves_nothing_of_the_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_log(tmp_path / "log.db", 1)
    log.append(EVENTS, events(1, 100))
    joining = Joining(log, tmp_path, "a")
    joining.shares.acquire(0)
    joining.step()
    began = taken(log, EXAMPLES)
    from stream.join.partition import ResumePoint

    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(joining.state, "scan", crash)  # the offset is forgotten, the rest is not yet
    with pytest.raises(KeyboardInterrupt):
        joining.joiner.begin_at(0, ResumePoint(0.0, 0))
    monkeypatch.undo()
    joining.close()
    again = Joining(log, tmp_path, "a")
    assert again.state.offset(EVENTS, 0) is None
    again.shares.acquire(0)
    again.step()
    assert taken(log, EXAMPLES) == began
    again.close()
    log.close()


class Living:
    """A joiner at work in a thread, which can be left without a word, as by SIGKILL."""

    def __init__(self, log: SqliteLog, folder: Path, name: str) -> None:
        self.joining = Joining(log, folder, name, group=GroupSettings(beat_s=0.05, timeout_s=0.4))
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.joining.shares.run, args=(self.stop,))
        self.thread.start()

    @property
    def held(self) -> set[int]:
        return self.joining.runner.partitions

    def end(self) -> None:
        self.stop.set()
        self.thread.join()

    def die(self) -> None:
        """End without a last beat."""
        self.joining.beats.faults = Faults(append_lost=1.0)
        self.end()


@pytest.fixture
def living(tmp_path: Path) -> Iterator[Callable[[str], Living]]:
    made: list[Living] = []
    log = make_log(tmp_path / "log.db", 6)

    def make(name: str) -> Living:
        made.append(Living(log, tmp_path, name))
        return made[-1]

    yield make
    for one in made:
        one.end()
        one.joining.close()
    log.close()


def test_partitions_move_when_a_joiner_comes_dies_or_leaves(living: Callable[[str], Living]) -> None:
    a = living("a")
    wait_until(lambda: a.held == set(range(6)))
    b = living("b")
    wait_until(lambda: a.held == {0, 2, 4} and b.held == {1, 3, 5})
    c = living("c")
    wait_until(lambda: (a.held, b.held, c.held) == ({0, 3}, {1, 4}, {2, 5}))
    b.die()
    wait_until(lambda: a.held == {0, 2, 4} and c.held == {1, 3, 5})
    a.end()
    a.joining.close()
    wait_until(lambda: c.held == set(range(6)))


def test_joiner_that_takes_over_without_a_note_sends_and_counts_only_what_is_new(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log.db", 1)
    log.append(EVENTS, events(3, 200))
    first = Joining(log, tmp_path, "a")
    first.shares.acquire(0)
    first.step()
    first.close()  # it has never beaten since: nobody says where to begin
    sent = log.ends(EXAMPLES)[0][1]
    log.append(EXAMPLES, [Outgoing(b"", b"another's", 0, "other", 1)])
    second = Joining(log, tmp_path, "b")
    second.shares.acquire(0)
    second.step()
    again = log.ends(EXAMPLES)[0][1] - sent - 1
    last = first.joiner.counts.examples
    assert sent == last > 50
    assert again <= 5, "the outputs of the record that brought about the newest example, and no others"
    assert second.joiner.counts.examples <= 5
    second.close()
    log.close()


def test_note_that_lies_beyond_the_end_of_the_log_is_ignored(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log.db", 1)
    log.append(EVENTS, events(4, 50))
    lie = Beat("join", "liar", "l", 0, notes=[Note(0, 1 << 50, 0, T)])
    log.append(ROLES, [Outgoing(b"join", msgspec.msgpack.encode(lie), 0)])
    joining = Joining(log, tmp_path, "a")
    joining.member.look()
    joining.shares.acquire(0)
    joining.step()
    assert joining.joiner.counts.impressions > 0 and log.ends(EXAMPLES)[0][1] > 0
    joining.close()
    log.close()


def test_joiner_without_a_note_goes_on_from_its_own_state_though_the_log_has_dropped_its_records(
    tmp_path: Path,
) -> None:
    log = make_log(tmp_path / "log.db", 1)
    shown = [Impression(f"r{i}", T, [{"item": i}]) for i in range(20)]
    log.append(EVENTS, [Outgoing(event.request_id.encode(), encode(event)) for event in shown])
    first = Joining(log, tmp_path, "a")
    first.shares.acquire(0)
    first.step()
    first.close()
    log.trim(EVENTS, 0, 20)
    log.append(EVENTS, [Outgoing(b"r", encode(Impression("r", T + 2 * WINDOW_S, [{"item": 1}])))])
    again = Joining(log, tmp_path, "a")
    again.shares.acquire(0)
    again.step()
    assert again.joiner.counts.examples == 20, "what waited is in its state alone"
    assert log.ends(EXAMPLES)[0][1] == 20
    again.close()
    log.close()


def test_joiner_corrects_the_older_offset_that_another_one_committed_late() -> None:
    """The other one was paused while the partition moved; without this the lag of a quiet stream stays."""
    log, clock = MemoryLog(), ManualClock()
    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS, ROLES):
        log.create_topic(topic, 1)
    log.append(EVENTS, events(5, 20))
    end = log.ends(EVENTS)[0][1]
    with RoleState(Path("b"), "joiner", {}, clock=clock, disk=MemoryDisk()) as state:
        joiner = Joiner(state, JoinSettings(window_s=WINDOW_S))
        runner = Runner(log, state, joiner, Subscription(EVENTS, "join", partitions=()), EAGER, clock).open()
        member = Member(log, "join", "b", BY_HAND, clock)
        shares = Shares(log, state, joiner, runner, member, clock)
        member.join()
        shares.settle()
        while runner.step():
            pass
        assert log.committed("join", EVENTS) == {0: end}
        log.commit("join", EVENTS, {0: 3})
        clock.advance(BY_HAND.beat_s + OFFSETS_EVERY_S)
        shares.settle()
        assert log.committed("join", EVENTS) == {0: end}

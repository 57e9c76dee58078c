"""A partition that has gone quiet: time passes in it by the log's own clock, for every joiner alike."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ground.clock import ManualClock
from stream.group.membership import Member
from stream.join.assignment import TICK_S_MIN, Shares
from stream.join.joiner import Joiner
from stream.join.settings import JoinSettings
from stream.log.base import EVENTS, EXAMPLES, ROLES, Log, Outgoing
from stream.log.testing import MemoryLog
from stream.records.decoding import Decoder
from stream.records.types import Action, Example, Impression, Tick, encode
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

NOW_S = 1_790_000_000.0
WINDOW_S = 10.0
SETTINGS = JoinSettings(window_s=WINDOW_S)


class Joining:
    """A joiner with its member, on a log and a clock of the test."""

    def __init__(self, log: MemoryLog, clock: ManualClock, name: str = "a") -> None:
        self.log, self.clock = log, clock
        self.state = RoleState(Path(name), "joiner", {}, clock=clock, disk=MemoryDisk())
        self.member = Member(log, "join", name, clock=clock)
        self.member.join()
        self.joiner = Joiner(self.state, SETTINGS)
        subscription = Subscription(EVENTS, "join", partitions=())
        self.runner = Runner(log, self.state, self.joiner, subscription, clock=clock).open()
        self.shares = Shares(log, self.state, self.joiner, self.runner, self.member, clock)

    def turn(self, seconds: float) -> None:
        """Let time pass, in steps in which it reads, beats and ticks."""
        until_s = self.clock.now_s() + seconds
        while self.clock.now_s() < until_s:
            self.clock.advance(0.25)
            self.member.pulse()
            self.shares.settle()
            self.runner.step()
            self.shares.tick()
        self.runner.commit()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start_s=NOW_S)


@pytest.fixture
def log(clock: ManualClock) -> Iterator[MemoryLog]:
    made = MemoryLog(clock=clock)
    for topic, partitions in ((EVENTS, 2), (EXAMPLES, 2), ("dead_letters", 1), (ROLES, 1)):
        made.create_topic(topic, partitions)
    yield made


def show(log: Log, request_id: str, time: float, partition: int = 0) -> None:
    impression = Impression(request_id=request_id, time=time, candidates=[{"item": 1}])
    log.append(EVENTS, [Outgoing(request_id.encode(), encode(impression), partition)])


def examples(log: Log, partition: int = 0) -> list[Example]:
    decode = Decoder(Example).decode
    return [decode(record.value) for record in log.read(EXAMPLES, partition, 0)]


def ticks(log: Log, partition: int = 0) -> int:
    return sum(b"tick" in record.value for record in log.read(EVENTS, partition, 0))


def test_last_request_is_decided_though_nothing_comes_after_it(log: MemoryLog, clock: ManualClock) -> None:
    joining = Joining(log, clock)
    show(log, "r1", clock.unix_s())
    joining.turn(WINDOW_S - 1.0)
    assert not examples(log)
    joining.turn(2.0 * WINDOW_S)
    assert [example.request_id for example in examples(log)] == ["r1"]
    sent = ticks(log)
    assert 0 < sent < 2.0 * WINDOW_S / TICK_S_MIN
    joining.turn(5.0 * WINDOW_S)
    assert ticks(log) == sent  # nothing waits any more: no more of them
    assert ticks(log, 1) == 0  # nor where nothing has ever come


def test_click_within_the_window_counts_and_a_late_one_is_late(log: MemoryLog, clock: ManualClock) -> None:
    joining = Joining(log, clock)
    show(log, "r1", clock.unix_s())
    joining.turn(WINDOW_S / 2.0)
    click = Action(request_id="r1", time=clock.unix_s(), candidate=0)
    log.append(EVENTS, [Outgoing(b"r1", encode(click), 0)])
    joining.turn(1.5 * WINDOW_S)
    assert [example.labels for example in examples(log)] == [[1.0]]
    late = Action(request_id="r1", time=clock.unix_s(), candidate=0, label=0.0)
    log.append(EVENTS, [Outgoing(b"r1", encode(late), 0)])
    joining.turn(1.0)
    assert joining.joiner.counts.late == 1


def test_old_events_keep_their_own_time(log: MemoryLog, clock: ManualClock) -> None:
    joining = Joining(log, clock)
    show(log, "old", clock.unix_s() - 86_400.0)
    joining.turn(10.0 * WINDOW_S)
    assert not examples(log) and ticks(log) == 0


def test_tick_by_hand_moves_old_events_no_further(log: MemoryLog, clock: ManualClock) -> None:
    joining = Joining(log, clock)
    show(log, "old", clock.unix_s() - 86_400.0)
    joining.turn(1.0)
    clock.advance(100.0)
    log.append(EVENTS, [Outgoing(b"tick", encode(Tick(clock.unix_s())), 0)])
    joining.turn(1.0)
    assert not examples(log) and joining.joiner.clock(0) == NOW_S - 86_400.0


def test_every_joiner_and_every_rerun_decides_the_same(log: MemoryLog, clock: ManualClock) -> None:
    joining = Joining(log, clock)
    for i in range(40):
        show(log, f"r{i}", clock.unix_s() - (i % 3))
        joining.turn(1.0 if i % 7 else 15.0)
    joining.turn(3.0 * WINDOW_S)
    first = [(e.request_id, e.decided) for e in examples(log)]
    assert len(first) == 40 and ticks(log) > 10
    # another reads the same records at another time, all at once
    again = MemoryLog(clock=clock)
    for topic, partitions in ((EVENTS, 2), (EXAMPLES, 2), ("dead_letters", 1), (ROLES, 1)):
        again.create_topic(topic, partitions)
    clock.advance(3600.0)
    state = RoleState(Path("b"), "joiner", {}, disk=MemoryDisk())
    joiner = Joiner(state, SETTINGS)
    commit = state.begin()
    joiner.handle(log.read(EVENTS, 0, 0), commit)
    joiner.flush(commit)
    state.commit(commit)
    sent = [record for block in state.unsent() for record in block.records]
    decode = Decoder(Example).decode
    assert [(e.request_id, e.decided) for e in (decode(record.value) for record in sent)] == first


def test_joiner_that_takes_over_goes_on_with_the_same_time(log: MemoryLog, clock: ManualClock) -> None:
    first = Joining(log, clock)
    for i in range(200):  # far enough that a mark lies behind the reach of a record
        show(log, f"r{i}", clock.unix_s())
        first.turn(1.0)
    show(log, "last", clock.unix_s())
    first.turn(3.0)
    first.shares.note()
    first.member.beat()
    first.member.leave()
    second = Joining(log, clock, "b")
    second.turn(2.0 * WINDOW_S)
    decided = [example.request_id for example in examples(log)]
    assert sorted(decided) == sorted({f"r{i}" for i in range(200)} | {"last"})
    assert second.joiner.clock(0) > first.joiner.clock(0)

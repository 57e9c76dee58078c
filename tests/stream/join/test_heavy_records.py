"""A record that makes many requests due is taken in several commits, each bounded in bytes.

What comes of it, and with which numbers, does not depend on where it is cut, nor on restarts in between.
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.clock import ManualClock
from stream.join import outputs, pairing
from stream.join.joiner import Joiner, JoinSettings
from stream.limits import AT_ONCE_BYTES_MAX
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing
from stream.log.testing import MemoryLog
from stream.records.targets import UNDECLARED, Target, Targets
from stream.records.types import Action, Exposure, Forget, Impression, Tick, encode, join_batch
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import Commit, RoleState

T = 1_700_000_000.0
SHOP = Targets(
    {
        "click": Target(window_s=10.0),
        "buy": Target(of="click", observe_s=18.0, window_s=60.0),
        "like": Target(observe_s=6.0, window_s=14.0),
        "minutes": Target(kind="value", of="click", window_s=25.0),
    }
)
numbers = itertools.count()

Row = tuple[bytes, bytes, str, int]
"""Key, value, producer, sequence number."""


def shown(name: str, at: float, size: int = 0, sides: int = 1) -> Impression:
    return Impression(
        name,
        T + at,
        [{"item": i} for i in range(sides)],
        {f"text{i}": "x" * 1_000 for i in range(size // 1_000)},
    )


class World:
    """A joiner over a log in memory, closed and opened again after one in five of its commits, or never."""

    def __init__(
        self, folder: Path, restarts: bool, targets: Targets = UNDECLARED, **options: object
    ) -> None:
        self.clock = ManualClock(start_s=T)
        self.log = MemoryLog(clock=self.clock)
        for topic in (EVENTS, EXAMPLES, DEAD_LETTERS):
            self.log.create_topic(topic, 1)
        self.folder, self.restarts, self.targets = folder, restarts, targets
        self.settings = JoinSettings(window_s=10.0, **options)  # type: ignore[arg-type]
        self.written: list[int] = []  # bytes of outputs, by commit
        self.open()

    def open(self) -> None:
        self.state = RoleState(self.folder, "joiner", {}, sync=False)
        self.joiner = Joiner(self.state, self.settings, targets=self.targets)
        begin = self.state.begin

        def weighed() -> Commit:
            commit = begin()
            emit = commit.emit
            self.written.append(0)

            def weigh(topic: str, record: Outgoing) -> None:
                self.written[-1] += len(record.value)
                emit(topic, record)

            commit.emit = weigh  # type: ignore[method-assign]
            return commit

        self.state.begin = weighed  # type: ignore[method-assign]
        self.runner = Runner(
            self.log,
            self.state,
            self.joiner,
            Subscription(EVENTS, "join"),
            RunnerSettings(commit_every_s=1e9),
        ).open()

    def take(self, records: list[tuple[float, bytes]]) -> None:
        """Take records that the log has at so many seconds."""
        for at, record in records:
            self.clock.advance(max(T + at - self.clock.unix_s(), 0.0))
            self.log.append(EVENTS, [Outgoing(b"", record, 0, "sender", next(numbers))])
        while self.runner.step():
            if self.restarts and not self.runner.uncommitted and self.clock.draw() < 0.2:
                self.state.close()
                self.open()
        self.runner.commit()

    def came(self) -> tuple[list[Row], list[Row]]:
        """The examples and the dead letters, each once."""
        found = []
        for topic in (EXAMPLES, DEAD_LETTERS):
            rows = self.log.read(topic, 0, 0, 1_000_000, 1 << 30)
            once = dict.fromkeys((r.key, r.value, r.producer, r.seq) for r in rows)
            found.append(list(once))
        return found[0], found[1]


def records_of(seed: int, targets: Targets = UNDECLARED) -> list[tuple[float, bytes]]:
    """Events alone and in batches, and ticks; requests that come due by the dozen; actions of all kinds."""
    draw = random.Random(seed)
    at, made = 0.0, 0
    records: list[tuple[float, bytes]] = []
    for _ in range(draw.randrange(5, 25)):
        events: list[bytes] = []
        for _ in range(draw.choice((1, 1, 5, 30))):
            at += draw.choice((0.0, 0.1, 0.1, 3.0, 40.0))
            kind = draw.random()
            name = f"r{draw.randrange(made + 4)}"
            if kind < 0.6 and not (targets.declared and kind < 0.3):
                made += 1
                when = at - draw.choice((0.0, 0.0, 5.0))
                events.append(encode(shown(f"r{made}", when, sides=3 if targets.declared else 1)))
            elif not targets.declared:
                events.append(encode(Action(name, T + at, draw.choice((0, 0, 0, 3)))))
            else:
                name = f"r{max(made - draw.choice((0, 0, 1, 2, 5)), 1)}"
                events.append(encode(_something(draw, name, T + at)))
        taken = at + draw.choice((0.0, 0.5, -3.0))  # a producer's clock may be ahead
        records.append((taken, join_batch(events) if len(events) > 1 else events[0]))
        if draw.random() < 0.3:
            at += draw.choice((0.0, 5.0, 30.0))
            records.append((at, encode(Tick(T + at))))
            records.append((at, records[draw.randrange(len(records))][1]))
    return records


def _something(draw: random.Random, name: str, time: float) -> Action | Exposure | Forget:
    """What happens with a request of several targets."""
    kind = draw.random()
    if kind < 0.1:
        return Exposure(name, time, draw.sample(range(3), draw.randrange(4)), draw.choice((None, 0, 1, 2)))
    if kind < 0.13:
        return Forget("f", time, {"item": [draw.randrange(3)]})
    what = draw.choice(("click", "click", "click", "buy", "like", "minutes"))
    value = draw.choice((0.0, 1.5, 4.0)) if what == "minutes" else None
    return Action(name, time, draw.choice((0, 1, 2, 2, 3)), draw.choice((1, 1, 1, 0)), what, value=value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("heavy")


@pytest.mark.slow
@settings(max_examples=many(8), deadline=None)
@given(
    seed=st.integers(0, 10**6),
    at_once=st.integers(1, 12),
    each=st.integers(1, 4),
    late=st.booleans(),
    targets=st.sampled_from((UNDECLARED, SHOP)),
)
def test_cuts_and_restarts_change_nothing(
    whole: Path, seed: int, at_once: int, each: int, late: bool, targets: Targets
) -> None:
    records = records_of(seed, targets)
    options = {"late": "learn" if late else "drop", "pending_max": 40, "dead_letter_share_max": 1.0}
    plain = World(whole / f"plain-{next(numbers)}", False, targets, **options)
    plain.take(records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "AT_ONCE_MAX", at_once)
        patch.setattr(pairing, "DUE_AT_ONCE", each)
        cut = World(whole / f"cut-{next(numbers)}", True, targets, **options)
        cut.take(records)
    assert cut.came() == plain.came()
    assert cut.joiner.counts == plain.joiner.counts
    assert cut.joiner.clock(0) == plain.joiner.clock(0)
    assert cut.joiner.undecided == plain.joiner.undecided
    assert cut.joiner.waiting == plain.joiner.waiting
    assert cut.joiner.waiting_bytes == plain.joiner.waiting_bytes
    for world in (plain, cut):
        world.state.close()


@pytest.mark.slow
def test_outputs_of_one_record_are_bounded_in_bytes_by_commit(tmp_path: Path) -> None:
    size, count = 50_000, 2_000
    world = World(tmp_path / "state", False)
    world.take([(0.0, encode(shown(f"r{i}", i * 1e-3, size))) for i in range(count)])
    world.written = [0]  # of the commit that is open
    world.take([(60.0, encode(shown("last", 60.0)))])
    assert sum(world.written) > count * size
    assert max(world.written) < AT_ONCE_BYTES_MAX + 2 * pairing.DUE_AT_ONCE * size
    assert len(world.came()[0]) == count
    world.state.close()


@pytest.mark.slow
def test_timers_of_one_record_are_bounded_by_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = 2_000
    monkeypatch.setattr(outputs, "AT_ONCE_MAX", at_once)
    count = 3 * at_once + 10
    world = World(tmp_path / "state", False)
    world.take(
        [
            (0.0, join_batch([encode(shown(f"r{i}", 0.0)) for i in range(first, min(first + 500, count))]))
            for first in range(0, count, 500)
        ]
    )
    world.written = [0]  # of the commit that is open
    world.take([(60.0, encode(shown("last", 60.0)))])
    examples, _ = world.came()
    assert len(examples) == count and len(world.written) >= 4
    assert [seq for *_, seq in examples] == list(range(examples[0][3], examples[0][3] + count))
    world.state.close()

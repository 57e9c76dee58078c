"""Live shards as threads of one process, on a log and a disk in memory, which end where a test says."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from turns import FEATURES

from ground import FreshetError
from ground.clock import SYSTEM_CLOCK, Clock
from learner.entities.filling import fill
from learner.entities.store import EntityStore
from learner.errors import ShardLostError
from learner.features.encoder import FeatureSpec
from learner.features.labelled import Labelled
from learner.model.model import Model
from learner.role.setup import Folders, Learning
from learner.settings import LearnerSettings, ShardSettings
from learner.shards.live.kept import KeptShard, read_meta
from learner.shards.live.meeting import ROLE
from learner.shards.live.session import ShardCallbacks, ShardPlace, ShardSession, TurnMeter
from learner.shards.live.watch import shard_name
from learner.shards.messages import Bytes, Exchanges
from learner.shards.owners import Owners
from learner.shards.reshard.folders import finish_resharding, numbers_there, state_folder
from learner.shards.reshard.rows import take_over
from learner.shards.reshard.states import reshard
from learner.shards.reshard.stretches import Took, followed
from learner.shards.shard import Shard
from learner.shards.together import lockstep
from learner.updates.follower import Follower
from stream.group.membership import GroupSettings, Member
from stream.log.base import DEAD_LETTERS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES, Log, Outgoing, Record
from stream.log.testing.faulty import Faults, FaultyLog
from stream.log.testing.memory import MemoryLog
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent
from stream.records.types import Example, Forget, encode
from stream.run.contract import RunnerSettings
from stream.run.runner import Runner
from stream.state.disk import Disk
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

PARTITIONS = 3
FOLDER, SNAPSHOTS_FOLDER = Path("learn"), Path("s")
DECODE = Decoder[Example | EntityEvent](Example, EntityEvent).decode
TOPICS = {EXAMPLES: PARTITIONS, UPDATES: 1, SNAPSHOTS: 1, ROLES: 1, DEAD_LETTERS: 1}
V = TypeVar("V")
Spoil = Callable[[int, list[Bytes]], list[Bytes]]
"""What becomes of the messages that a shard sends."""

Trouble = Callable[[int, str], None]
"""Called at each step of a shard, with its rank: a read or write of its state, an append, an exchange."""


class Killed(BaseException):
    """The process of a shard has ended, without a chance to do anything."""


def settings_of(shards: int, turn: int = 24) -> LearnerSettings:
    return LearnerSettings(
        group=16,
        publish_every_s=0.0,
        snapshot_bytes_min=20_000,
        shards=ShardSettings(count=shards, turn=turn),
    )


def filled_log(examples: Sequence[Example | Forget | EntityEvent]) -> MemoryLog:
    """A log with examples, see `fill_log`."""
    log = MemoryLog()
    for topic, partitions in TOPICS.items():
        log.create_topic(topic, partitions)
    append_examples(log, examples)
    return log


def append_examples(log: Log, examples: Sequence[Example | Forget | EntityEvent], first: int = 0) -> None:
    """Append examples, by user in partitions, and entity events by id; a `Forget` is in all of them.

    Args:
        first: the joiner's number of the first of them.
    """
    for i, one in enumerate(examples, first):
        by = one.context.get("user", i) if isinstance(one, Example) else getattr(one, "id", "")
        places = range(PARTITIONS) if isinstance(one, Forget) else [sum(str(by).encode()) % PARTITIONS]
        log.append(EXAMPLES, [Outgoing(b"k", encode(one), place, "joiner", i) for place in places])


class Hall:
    """Where the shards of one attempt exchange messages; when one is gone, all leave."""

    def __init__(self, shards: int) -> None:
        self.shards = shards
        self.barrier = threading.Barrier(shards)
        self.box: list[list[Bytes]] = [[] for _ in range(shards)]


class HallEnd(Exchanges):
    def __init__(self, hall: Hall, rank: int, trouble: Trouble, spoil: Spoil) -> None:
        self._hall, self._rank, self._trouble, self._spoil = hall, rank, trouble, spoil

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def shards(self) -> int:
        return self._hall.shards

    def join(self) -> None:
        self._meet()

    def swap(self, messages: list[Bytes]) -> list[Bytes]:
        self._trouble(self._rank, "swap")
        self._hall.box[self._rank] = self._spoil(self._rank, messages)
        self._meet()
        got = [of[self._rank].copy() for of in self._hall.box]
        self._meet()
        return got

    def gather(self, value: V) -> list[V]:
        self._trouble(self._rank, "gather")
        encoded = msgspec.msgpack.encode(value)
        self._hall.box[self._rank] = encoded  # type: ignore[call-overload]
        self._meet()
        kind = type(value)
        got = [msgspec.msgpack.decode(bytes(of), type=kind) for of in self._hall.box]  # type: ignore[arg-type]
        self._meet()
        return got

    def close(self) -> None:
        pass

    def _meet(self) -> None:
        try:
            self._hall.barrier.wait()
        except threading.BrokenBarrierError:
            raise ShardLostError("a shard is gone") from None


class CuttingLog(FaultyLog):
    """A log whose appends are steps at which a shard may end."""

    def __init__(self, log: Log, trouble: Callable[[str], None]) -> None:
        super().__init__(log, 0, Faults())
        self._step = trouble

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        if topic in (UPDATES, SNAPSHOTS):
            self._step(f"append {topic}")
        taken = super().append(topic, records)
        if topic in (UPDATES, SNAPSHOTS):
            self._step(f"appended {topic}")
        return taken


class LiveShards:
    """N shards, which are started again until all of them have learned the whole log."""

    def __init__(
        self,
        log: MemoryLog,
        shards: int,
        features: dict[str, FeatureSpec] = FEATURES,
        turn: int = 24,
        resting: int | None = None,
    ) -> None:
        """`resting`: rows of each table in memory at all shards; None: all."""
        self.log, self.shards, self.features = log, shards, features
        self.settings = settings_of(shards, turn)
        self._resting = resting
        self.disk = MemoryDisk()
        self.attempts = 0
        self.errors: list[FreshetError] = []
        self.kept: dict[int, KeptShard] = {}
        self.meters: dict[int, TurnMeter] = {}
        self.spoil: Spoil = lambda rank, messages: messages
        self.clocks: dict[int, Clock] = {}  # of shards whose clock is none of the machine's
        self.digests: dict[int, object] = {}

    def folder(self, rank: int) -> Path:
        return state_folder(FOLDER, self.shards, rank)

    def reshard(self, to: int, disk: Disk | None = None, folder: Path = FOLDER) -> None:
        """Let the shards, which have stopped, become `to`; raises as `reshard` does."""
        disk = disk or self.disk
        finish_resharding(folder, SNAPSHOTS_FOLDER, disk)
        if numbers_there(folder, disk) != [to]:
            reshard(self.log, folder, self.learning(), self.shards, to, SYSTEM_CLOCK, disk)
            finish_resharding(folder, SNAPSHOTS_FOLDER, disk)
        if folder == FOLDER:
            self.shards, self.settings = to, settings_of(to, self.settings.shards.turn)

    def learning(self) -> Learning:
        features, settings = self.features, self.settings
        if self._resting is not None:
            rest = {"memory_rows": self._resting}
            features = {
                name: spec if spec.kind == "number" else msgspec.structs.replace(spec, **rest)
                for name, spec in features.items()
            }
            settings = msgspec.structs.replace(settings, pairs_memory_rows=self._resting)
        return Learning(features, settings, RunnerSettings(read_max=12, wait_s=0.01, journal_max=1 << 30))

    def attempt(self, trouble: Trouble) -> bool:
        """Run all shards until they have learned all, or one of them ends; whether they have."""
        self.attempts += 1
        hall, stop = Hall(self.shards), threading.Event()
        done = [False] * self.shards
        threads = [
            threading.Thread(target=self._life, args=(rank, hall, trouble, stop, done))
            for rank in range(self.shards)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return all(done)

    def ids(self, column: int) -> npt.NDArray[np.uint64]:
        """The ids of a feature's column that any shard has a row of."""
        return np.concatenate([kept.shard.ids(column) for kept in self.kept.values()])

    def states(self) -> list[RoleState]:
        """The states of all shards, open."""
        return [RoleState(self.folder(r), ROLE, None, disk=self.disk) for r in range(self.shards)]

    def _life(self, rank: int, hall: Hall, trouble: Trouble, stop: threading.Event, done: list[bool]) -> None:
        view = self.disk.connect(lambda what, _: trouble(rank, what))
        log = CuttingLog(self.log, partial(trouble, rank))
        group, clock = GroupSettings(beat_s=0.05, timeout_s=60.0), self.clocks.get(rank, SYSTEM_CLOCK)
        learning = self.learning()

        @contextmanager
        def at_work(runner: Runner, kept: KeptShard, meter: TurnMeter) -> Iterator[Callable[[], None]]:
            self.kept[rank], self.meters[rank] = kept, meter
            ends = [end for _, end in self.log.ends(EXAMPLES)]

            def report() -> None:
                positions = {p: position.offset for p, position in runner.positions().items()}
                if not runner.uncommitted and all(at == ends[p] for p, at in positions.items()):
                    done[rank] = True
                if all(done):
                    stop.set()

            yield report
            self.digests[rank] = (kept.shard.digests(), kept.shard.arrays())

        def connect(place: ShardPlace, waiting: AbstractContextManager[object]) -> Exchanges:
            return HallEnd(hall, place.rank, trouble, self.spoil)

        def end(error: FreshetError) -> None:
            self.errors.append(error)
            hall.barrier.abort()

        ended = True  # before its time
        try:
            with Member(self.log, "learn", shard_name(rank, self.shards), group, clock) as member:
                place, folders = (
                    ShardPlace(rank, self.shards, "", 0),
                    Folders(self.folder(rank), SNAPSHOTS_FOLDER, view),
                )
                callbacks = ShardCallbacks(lambda: None, at_work, end)
                session = ShardSession(log, member, place, folders, learning, callbacks, clock, connect)
                session.run(stop)
            ended = False
        except Killed:
            pass
        except FreshetError as error:
            self.errors.append(error)
        finally:
            if ended:
                done[rank] = False
                hall.barrier.abort()
            view.crash()


def _decoded(record: Record) -> Example | EntityEvent:
    return DECODE(record.value)


def replayed(live: LiveShards) -> list[Shard]:
    """The shards that learn in lockstep, from nothing, what live ones have noted that they learned."""
    states = live.states()
    stretches = followed(states)
    for state in states:
        state.close()
    shards: list[Shard] = []
    for stretch in stretches:
        owners = Owners(len(stretch.took))
        news = [Shard(rank, owners, live.features, live.settings) for rank in range(owners.shards)]
        if shards:
            take_over(shards, news)
        shards = news
        turns = [shares_of(live, shard, took) for shard, took in zip(shards, stretch.took, strict=True)]
        for shares in zip(*turns, strict=True):
            lockstep([shard.turn(share) for shard, share in zip(shards, shares, strict=True)])
    return shards


def shares_of(live: LiveShards, shard: Shard, took: Took) -> list[Labelled | None]:
    """What a shard learned in each turn of a stretch; all that is told of entities is known before."""
    known = EntityStore(live.features, live.settings)
    for partition in range(PARTITIONS):
        for record in live.log.read(EXAMPLES, partition, 0, 10_000):
            if isinstance(event := _decoded(record), EntityEvent):
                known.tell(event)
    found: list[Example] = []
    for stretch in took.journal:
        records = live.log.read(EXAMPLES, stretch.partition, stretch.start, stretch.end - stretch.start)
        examples = [one for one in map(_decoded, records) if isinstance(one, Example)]
        found += fill(known, examples)
    shares: list[Labelled | None] = []
    for count in took.turns:
        mine, found = found[:count], found[count:]
        shares.append(Labelled.of(shard.model.encoder, mine, shard.model.targets) if mine else None)
    assert not found
    return shares


def check_shards(live: LiveShards, requests: int) -> None:
    """All is learned once, all states are at one update, servers have these rows, a replay has these bits."""
    metas = []
    for state in live.states():
        with state:
            metas.append(read_meta(state, SYSTEM_CLOCK))
            assert not state.unsent()
    assert sum(meta.requests for meta in metas) == requests
    assert len({(meta.epoch, meta.seq) for meta in metas}) == 1
    watermark = {p: at for meta in metas for p, at in meta.watermark.items()}
    assert watermark == {p: end for p, (_, end) in enumerate(live.log.ends(EXAMPLES))}
    follower = Follower(Model(live.features, live.settings))
    follower.start(live.log)
    while follower.poll(live.log):
        pass
    assert (follower.seq, follower.gaps, follower.examples) == (metas[0].seq, 0, requests)
    assert follower.watermark == watermark
    shards = replayed(live)
    for t, table in enumerate(follower.model.tables):
        keys = [shard.tables[t].table.items()[0] for shard in shards]
        assert len(table) == sum(map(len, keys))
        for shard, mine in zip(shards, keys, strict=True):
            owned = shard.tables[t].table
            assert table.export(mine)[0].tobytes() == owned.served(owned.export(mine)[0]).tobytes()
    assert [(shard.digests(), shard.arrays()) for shard in shards] == [
        live.digests[rank] for rank in range(live.shards)
    ]

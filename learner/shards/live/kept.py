"""What one live shard keeps: its rows, its own copy of what is equal at all shards, its place in the log.

It is a `Handler`, as `Learner` is: it takes records, and a commit writes all that has changed. But what it
takes waits as *shares* until a turn learns it, and what it commits is *prepared*: it counts when every shard
has committed the same. `committed` waits for that, so nothing is sent before.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import xxhash

from ground import FreshetError
from ground.clock import Clock
from learner.errors import ShardError
from learner.features.labelled import Labelled, joined
from learner.keepers import keepers_of, resting, restore
from learner.meta import ARRAY, BAD_SHARE, POSITION, LearnerMeta
from learner.meta import KEY as _META
from learner.metrics import Metrics
from learner.model import grown
from learner.model.forgetting import keys_by_column
from learner.resting import RestingTables
from learner.role.dead_letters import DeadLetterWriter, fitting
from learner.role.saved_metrics import TargetMetrics
from learner.role.table_limits import TableLimits
from learner.role.taking.intake import Intake
from learner.settings import LearnerSettings
from learner.shards.messages import Exchanges, News, Said
from learner.shards.shard import Shard
from learner.train.trainer import Learnt
from learner.updates.chain import UpdatePosition
from learner.updates.publisher import Publisher, ShardPart
from stream.errors import StateError
from stream.log.base import Log, Record
from stream.records.entities.record import EntityEvent
from stream.records.types import Example, Forget
from stream.run.contract import Handler
from stream.state.role_state import Commit, RoleState

_TURNS = b"shard/turns/"  # + number of the update

EXPIRE_SLOTS = 2_000
"""How many slots of each table a commit checks for expired rows."""

TURNS_KEPT = 100_000
"""Commits whose turns stay noted, for a replay that follows them."""


class Share(NamedTuple):
    """What a shard brings to one turn."""

    news: News = News()
    labelled: Labelled | None = None  # its requests


class KeptShard(Handler):
    """One shard with its state.

    Args:
        shard: empty.
        state: where to go on.
        clock: gives the epoch of a new model.
        others: its end of the exchange with the other shards.

    Raises:
        StateError, SnapshotError: the state is damaged or does not fit.
    """

    def __init__(
        self,
        shard: Shard,
        settings: LearnerSettings,
        state: RoleState,
        clock: Clock,
        others: Exchanges,
    ) -> None:
        self.shard = shard
        self.settings = settings
        model, trainer = shard.model, shard.trainer
        self.meta = read_meta(state, clock)
        self.position = UpdatePosition()
        self.shares: deque[Share] = deque()
        self.snapshot_due = False  # with the next commit, at all shards
        self.turns: list[int] = []  # since the last commit: this shard's requests of each turn
        self._tables = [owned.table for owned in shard.tables]
        self._resting = RestingTables(self._tables, model.table_of)
        self._keepers = keepers_of(model.table_names, self._tables, state)
        self._publisher = Publisher(model, settings, ShardPart(shard.rank, shard.owners.shards, self._tables))
        self._others = others
        self._told: list[EntityEvent] = []  # read, and in no share yet
        self._intake = Intake(model.entities, model.targets, self._told)
        self._dead_letters = DeadLetterWriter(settings, state.get(BAD_SHARE) or b"")
        self.saved_metrics = TargetMetrics(model.targets, settings.window, state)
        if self.meta.seq:
            self._load(state)
        self._limits = TableLimits(model.table_names, self._tables)
        model.epoch, model.seq = self.meta.epoch, self.meta.seq
        trainer.tick, trainer.clock = self.meta.tick, self.meta.clock
        trainer.quarantined = self.meta.quarantined
        trainer.restored()

    def publish_to(self, log: Log) -> None:
        """Cut updates and snapshots so that the log's topics take them.

        Raises:
            LogError: a topic's limit is too small for an update of this model.
        """
        self._publisher.limit_to(log)

    def lead(self, term: int, position: UpdatePosition) -> None:
        """Publish from now on in a term, whose first record is just before `position`."""
        self.meta.term = term
        self.meta.record_seq = 0
        self.position = position

    def begin_epoch(self, epoch: int) -> None:
        """Adopt the epoch of a new model."""
        self.meta.epoch = self.shard.model.epoch = epoch

    def equal_everywhere(self) -> str:
        """A hash of what must be equal at all shards between turns."""
        hasher = xxhash.xxh3_128()
        for name, array in sorted(self.shard.common_arrays().items()):
            hasher.update(name.encode())
            hasher.update(array.tobytes())
        hasher.update(msgspec.msgpack.encode((self.meta.clock, self.meta.tick)))
        return hasher.hexdigest()

    # --- as a handler ---

    def handle(self, records: Sequence[Record], commit: Commit) -> None:
        """Take records of topic `examples` as shares of turns to come; unusable ones become dead letters.

        Raises:
            DeadLetterFloodError: too many records are unusable.
        """
        good: dict[int, Example] = {}  # by offset
        bad: dict[int, str] = {}  # offset -> why
        for record in records:
            try:
                found = self._intake.read(record)
            except FreshetError as error:
                bad[record.offset] = str(error)
                continue
            if isinstance(found, Forget):
                self._add(good, bad)
                good = {}
                self.shares.append(Share(News(forgets=(found,))))
                self._intake.forget(found)
            elif found is not None:
                example = self._intake.admit(found)
                self.meta.refused += len(found.labels) - (len(example.labels) if example else 0)
                if example is not None:
                    good[record.offset] = example
        self._add(good, bad)
        self._dead_letters.write(records, bad, commit)
        last = records[-1]
        self.meta.watermark[last.partition] = last.offset + 1
        self.meta.ingest_ms = max(self.meta.ingest_ms, last.ingest_ms)

    def flush(self, commit: Commit) -> None:
        """Write all that has changed, and this shard's part of the update, into the commit."""
        assert not self.shares, "what was taken is learned before it is committed"
        shard, meta, trainer = self.shard, self.meta, self.shard.trainer
        shard.model.seq = meta.seq = meta.seq + 1
        meta.tick, meta.clock, meta.quarantined = trainer.tick, trainer.clock, trainer.quarantined
        meta.refusals_clock = self._intake.refusals.clock
        changes = []
        for name, keeper in zip(shard.model.table_names, self._keepers, strict=True):
            keeper.table.expire(int(trainer.clock), EXPIRE_SLOTS)
            changes.append((name, keeper.save(commit).served(keeper.table)))
        for table in shard.model.tables:
            table.drain_delta()
        for name, array in self.shard.common_arrays().items():
            commit.put(ARRAY + name.encode(), array.tobytes())
        entities = self._intake.save(commit)
        for keeper in self._keepers:
            keeper.rest(commit)
        if shard.rank:  # all have the same of entities: the first publishes it
            entities = []
        self._publisher.update(changes, meta, self.position, commit, entities)
        if self.snapshot_due:
            rows = resting(shard.model.table_names, self._keepers)
            self._publisher.begin_snapshot(meta, self.position, commit, rows)
        commit.put(POSITION, msgspec.msgpack.encode(self.position))
        if meta.purging and not any(keeper.renewing for keeper in self._keepers):
            meta.purging = False
            commit.purge = True
        self._limits.look()
        commit.put(BAD_SHARE, self._dead_letters.encode())
        commit.put(_turns_key(meta.seq), msgspec.msgpack.encode(self.turns))
        commit.delete(_turns_key(max(meta.seq - TURNS_KEPT, 0)))
        self.turns = []
        self.saved_metrics.save(commit)
        commit.put(_META, msgspec.msgpack.encode(meta))

    def committed(self) -> None:
        """Wait until all shards have committed this update; then it counts.

        All decide here alike whether the next one brings a snapshot.

        Raises:
            ShardLostError: a shard is gone.
            ShardError: one has committed another update.
        """
        meta, rank = self.meta, self.shard.rank
        streams = int(self._publisher.streaming)
        told = self._others.gather((meta.seq, meta.update_bytes, meta.snapshot_bytes, streams))
        for other, (seq, *_) in enumerate(told):
            if seq != meta.seq:
                raise ShardError(f"shard {other} has committed update {seq}, shard {rank} update {meta.seq}")
        updates, snapshots = (sum(one[i] for one in told) for i in (1, 2))
        due = self._publisher.snapshot_is_due(updates, snapshots)
        self.snapshot_due = due and not any(one[3] for one in told)

    # --- turns ---

    @property
    def commit_due(self) -> bool:
        """Whether enough rows of this shard's buckets are touched, or too many in memory, to commit now."""
        touched = sum(table.touched for table in self._tables)
        return self._resting.crowded or touched >= self.settings.publish_rows_max

    def next_share(self) -> Share:
        """What this shard brings to the next turn."""
        return self.shares.popleft() if self.shares else Share()

    def learned(self, share: Share, learnt: Sequence[Learnt], heard: Sequence[Said]) -> None:
        """Note what a turn has brought."""
        self.saved_metrics.add(learnt)
        if share.labelled is not None:
            labelled = share.labelled
            self.meta.examples += len(labelled.y)
            self.meta.requests += labelled.requests
            newest = float(labelled.batch.times.max(initial=0.0))
            self.meta.event_time = max(self.meta.event_time, newest)
        if any(said.requests or said.news.forgets for said in heard):
            self.turns.append(0 if share.labelled is None else share.labelled.requests)
        for request in [request for said in heard for request in said.news.forgets]:
            self._forgotten(request)
        self.meta.forgets += len(share.news.forgets)
        entities = self.shard.model.entities
        for said in heard:  # its own too: a request to forget that came before them has just been repeated
            for event in said.news.told:
                self._intake.tell(event)
            for name, key, hour in said.news.seen:
                entities.see(name, key, hour)

    def metric_values(self) -> dict[str, float | int | None]:
        """A few numbers for a log line or a dashboard, of this shard."""
        recent = self.metrics.recent()
        return {
            "examples": self.meta.examples,
            "updates": self.meta.seq,
            "rows": sum(len(table) for table in self._tables),
            "entities": len(self.shard.model.entities),
            **self._resting.counts(),
            "auc": recent["auc"],
            "logloss": recent["logloss"],
            "dead_letters": self._dead_letters.count,
            "quarantined": self.shard.trainer.quarantined,
            "forgets": self.meta.forgets,
            "refused": self.meta.refused,
            "full": self._limits.full,
            "evicted": self._limits.evicted,
        }

    def table_counts(self) -> dict[str, list[int]]:
        """Per table of this shard, see `Learner.table_counts`."""
        return self._limits.counts()

    @property
    def metrics(self) -> Metrics:
        """The progressive metrics of the first target, of this shard's requests."""
        return self.saved_metrics.first

    # --- inside ---

    def _add(self, examples: dict[int, Example], bad: dict[int, str]) -> None:
        model = self.shard.model
        labelled = fitting(model.encoder, model.targets, examples, bad)
        told, seen = tuple(self._told), tuple(model.entities.take_seen())
        self._told.clear()
        if labelled is None and not told and not seen:
            return
        last = self.shares.pop() if self.shares else Share()
        if labelled is not None:
            labelled = labelled if last.labelled is None else joined([last.labelled, labelled])
        news = last.news
        self.shares.append(
            Share(
                News(news.forgets, (*news.told, *told), (*news.seen, *seen)),
                last.labelled if labelled is None else labelled,
            )
        )

    def _forgotten(self, request: Forget) -> None:
        """An entity is forgotten, here or at another shard: refuse its ids, and let no file keep them."""
        model = self.shard.model
        users = keys_by_column(model, request.entity).get(model.user_column)
        if users is not None:
            self.saved_metrics.forget(users)
        for keeper in self._keepers:
            keeper.renew()
        self._intake.forget(request)
        self._publisher.give_up()  # at all shards: the rows of a snapshot that has begun may have its ids
        self.meta.purging = True

    def _load(self, state: RoleState) -> None:
        position = state.get(POSITION)
        if position is not None:
            self.position = msgspec.msgpack.decode(position, type=UpdatePosition)
        for name, array in self.shard.common_arrays().items():
            data = state.get(ARRAY + name.encode())
            if data is not None:
                grown.fill(array, data, rows=2 if name == "moments" else 1)
        for name, keeper in zip(self.shard.model.table_names, self._keepers, strict=True):
            if not restore(keeper, name, state):
                raise StateError(f"state {state.path}: it holds no table {name!r}; restore it from a copy")
        self._intake.load(state, self.meta.refusals_clock)
        if self.meta.purging:
            for keeper in self._keepers:
                keeper.renew()


def read_meta(state: RoleState, clock: Clock) -> LearnerMeta:
    """The counters of a shard's state; of an empty one, those of a new model."""
    saved = state.get(_META)
    if saved is None:
        return LearnerMeta(epoch=int(clock.unix_s() * 1e3), makes_room=True)
    return msgspec.msgpack.decode(saved, type=LearnerMeta)


def turns_of(state: RoleState) -> list[int]:
    """How many requests a shard had in each turn, from the first on, in the turns that are still noted."""
    return [n for _, value in state.scan(_TURNS) for n in msgspec.msgpack.decode(value, type=list[int])]


def _turns_key(seq: int) -> bytes:
    return _TURNS + seq.to_bytes(8, "big")

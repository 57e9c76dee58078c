"""Publishes to the replicas: an update per commit, and from time to time a snapshot of all rows.

A snapshot is due when the updates since the last one exceed `snapshot_ratio` times its size. So a new
replica reads a bounded number of bytes, and the bytes written stay in proportion to the updates.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from embeddings import Table
from embeddings.rest.snapshot import RestingSnapshot
from embeddings.save.delta import Changes
from learner.entities.saved import SENT_BYTES, sent
from learner.entities.store import Change
from learner.meta import LearnerMeta
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.updates.chain import UpdatePosition
from learner.updates.format import PIECE_BYTES, Update, arrays_bytes, cut, encode_update, frame_bytes, pack
from learner.updates.streamed import Resting, Send, Sent, SnapshotStream
from stream.errors import LogError
from stream.limits import ENTITY_BYTES_MAX
from stream.log.base import EXAMPLES, SNAPSHOTS, UPDATES, Log, Outgoing
from stream.state.role_state import Commit

FRAME_BYTES = 64 << 10  # of a record beside rows and arrays: the stretches of examples that it names, mostly
PARTITION_BYTES = 16  # of a partition's watermark in MessagePack


class ShardPart(NamedTuple):
    """What one of several shards publishes: the rows that it owns; shard 0 also the dense arrays."""

    rank: int
    shards: int
    tables: Sequence[Table]


class Publisher:
    """Puts updates and snapshots into the outbox of the commit whose changes they hold.

    `meta` is the learner's, as of this commit; its sizes and record numbers are advanced. `position` is the
    commit's position in topic `updates`.

    Args:
        part: of a shard; None: everything is published from here.
    """

    def __init__(self, model: Model, settings: LearnerSettings, part: ShardPart | None = None) -> None:
        self._model = model
        self._settings = settings
        self._part = part
        self.completed = 0  # snapshots, all of whose parts are in commits
        self._stream: SnapshotStream | None = None  # a snapshot that is being published
        self._log: Log | None = None
        self._record_bytes_max: int | None = None  # of both topics; None: not known

    def limit_to(self, log: Log) -> None:
        """Make no record from now on that a topic of this log refuses, by the limits of this moment.

        Raises:
            LogError: a topic's limit is too small for an update of this model.
        """
        needed = record_bytes_min(self._model, log.partitions(EXAMPLES))
        limits = {topic: log.record_bytes_max(topic) for topic in (UPDATES, SNAPSHOTS)}
        for topic, limit in limits.items():
            if limit < needed:
                raise LogError(_too_small(log, topic, limit, needed))
        self._log = log
        self._record_bytes_max = min(limits.values())

    def update(
        self,
        changes: Sequence[tuple[str, Changes]],
        meta: LearnerMeta,
        position: UpdatePosition,
        commit: Commit,
        entities: Sequence[Change] = (),
    ) -> None:
        """Publish a commit's changes, by table and of entities, and go on with a snapshot that has begun."""
        head = self._head(UPDATES, meta, position, commit, entities)
        sender = self._sender(UPDATES, self._producer(meta), meta, commit)
        meta.update_bytes += sender(head, changes, self._arrays(), False).size
        rows = sum(len(change.keys) for _, change in changes)
        if self._stream is not None and self._stream.go_on(self._snapshot_sender(meta, commit), rows):
            self._note_end(meta, self._stream)
            self._stream = None

    @property
    def streaming(self) -> bool:
        """Whether a snapshot has begun, and the next commits go on with it."""
        return self._stream is not None

    def give_up(self) -> None:
        """Leave a snapshot that has begun as it is; the next one is due at once."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def snapshot_if_due(
        self,
        meta: LearnerMeta,
        position: UpdatePosition,
        commit: Commit,
        resting: Mapping[str, RestingSnapshot],
    ) -> None:
        """Publish a snapshot if it is due, after `update` and after all tables were put into the commit.

        A shard does not decide this for itself.
        """
        if self._stream is None and self.snapshot_is_due(meta.update_bytes, meta.snapshot_bytes):
            self.begin_snapshot(meta, position, commit, resting)

    def begin_snapshot(
        self,
        meta: LearnerMeta,
        position: UpdatePosition,
        commit: Commit,
        resting: Mapping[str, RestingSnapshot],
    ) -> None:
        """Publish a snapshot; of tables whose rows rest in the stores of `resting` (by name) the beginning.

        The next commits go on with these.
        """
        head = self._head(SNAPSHOTS, meta, position, commit, self._entities())
        rows = [Resting(name, keeper.table, keeper.freeze()) for name, keeper in resting.items()]
        stream = SnapshotStream(head, self._arrays(), rows, meta.update_bytes)
        if stream.begin(self._snapshot_sender(meta, commit), self._pages(resting.keys())):
            self._note_end(meta, stream)
        else:
            self._stream = stream

    def snapshot_is_due(self, update_bytes: int, snapshot_bytes: int) -> bool:
        """Whether a snapshot is due after so many bytes of updates, with the last snapshot of so many.

        Shards decide it together, by their sums.
        """
        settings = self._settings
        return update_bytes > max(settings.snapshot_ratio * snapshot_bytes, settings.snapshot_bytes_min)

    def _note_end(self, meta: LearnerMeta, snapshot: SnapshotStream) -> None:
        """A snapshot is complete: it takes the place of the updates before it."""
        self.completed += 1
        meta.snapshot_bytes = snapshot.size
        meta.update_bytes -= snapshot.covered

    def _pages(self, but: Collection[str]) -> Iterator[tuple[str, Changes]]:
        """All rows of all tables but some, as servers need them, some at a time.

        Rows that have expired or were evicted are among them until a sweep frees them: who has followed the
        updates has these rows too.
        """
        tables = self._model.tables if self._part is None else self._part.tables
        for table_name, table in zip(self._model.table_names, tables, strict=True):
            if table_name in but:
                continue
            for keys, rows in table.pages():
                yield table_name, Changes.of(table, keys=keys, rows=table.served(rows))

    def _producer(self, meta: LearnerMeta) -> str:
        name = f"learner-{meta.epoch}-{meta.term}"
        return name if self._part is None else f"{name}-{self._part.rank}"

    def _entities(self) -> list[Change]:
        """All that is known of entities; of several shards the first publishes it."""
        return [] if self._part is not None and self._part.rank else self._model.entities.entries()

    def _arrays(self) -> dict[str, bytes]:
        """The dense weights; of several shards the first publishes them."""
        if self._part is not None and self._part.rank:
            return {}
        return {name: array.tobytes() for name, array in self._model.arrays().items()}

    def _head(
        self,
        topic: str,
        meta: LearnerMeta,
        position: UpdatePosition,
        commit: Commit,
        entities: Sequence[Change],
    ) -> Update:
        """What all parts of an update or a snapshot say."""
        return Update(
            epoch=meta.epoch,
            seq=meta.seq,
            part=0,
            parts=1,
            watermark=dict(meta.watermark),
            examples=meta.examples,
            event_time=meta.event_time,
            ingest_ms=meta.ingest_ms,
            tables=[],
            term=meta.term,
            taken=commit.taken if topic == UPDATES else [],
            updates_from=position.offset if topic == SNAPSHOTS and position.offset else -1,
            rows=self._settings.update_rows,
            model=self._model.identity,
            learning=self._model.learning_identity,
            held=meta.held,
            entities=sent(entities),
            shards=0 if self._part is None else self._part.shards,
            shard=0 if self._part is None else self._part.rank,
        )

    def _snapshot_sender(self, meta: LearnerMeta, commit: Commit) -> Send:
        return self._sender(SNAPSHOTS, f"{self._producer(meta)}-snapshots", meta, commit)

    def _sender(self, topic: str, producer: str, meta: LearnerMeta, commit: Commit) -> Send:
        """Puts parts of an update or a snapshot into the outbox of a commit."""

        def send(
            head: Update, changes: Sequence[tuple[str, Changes]], arrays: dict[str, bytes], more: bool
        ) -> Sent:
            key = f"{head.epoch}".encode()
            bytes_max, whole_max = self._limits(topic, head, len(key))
            parts = list(cut(head, pack(self._model, changes, head.rows), arrays, bytes_max, whole_max))
            size, end = 0, head.part + len(parts) + more
            for number, part in enumerate(parts, head.part):
                value = encode_update(msgspec.structs.replace(part, part=number, parts=end))
                size += len(value)
                # Followers recognise repeats by the update's number; (producer, seq) is for other readers.
                commit.emit(
                    topic,
                    Outgoing(key=key, value=value, partition=0, producer=producer, seq=meta.record_seq),
                )
                meta.record_seq += 1
            return Sent(len(parts), size)

        return send

    def _limits(self, topic: str, head: Update, key_bytes: int) -> tuple[int, int | None]:
        """The bytes of rows, keys and entities in one record, and those of the arrays with them (None: any).

        Raises:
            LogError: the topic's limit is too small for this model.
        """
        bytes_max = self._settings.update_bytes_max
        if self._log is None or self._record_bytes_max is None:
            return bytes_max, None
        frame = key_bytes + frame_bytes(head, self._model.table_names)
        whole_max = self._record_bytes_max - frame
        needed = _largest(self._model)
        if whole_max < needed:
            raise LogError(_too_small(self._log, topic, self._record_bytes_max, frame + needed))
        return min(bytes_max, whole_max), whole_max


def record_bytes_min(model: Model, partitions: int) -> int:
    """The bytes that a topic must take in one record for updates of this model.

    Args:
        partitions: of topic `examples`, each of which an update names.
    """
    names = sum(len(name.encode()) + PIECE_BYTES for name in model.table_names)
    return FRAME_BYTES + PARTITION_BYTES * partitions + names + _largest(model)


def _largest(model: Model) -> int:
    """The bytes of the largest thing that cannot be cut: a row and its key, an entity, the dense arrays."""
    # of a row only what serving needs
    rows = [8 + 4 * (spec.dim + spec.width - spec.extra_column) for spec in model.specs.values()]
    arrays = {name: array.tobytes() for name, array in model.arrays().items()}
    entities = [ENTITY_BYTES_MAX + SENT_BYTES + len(name.encode()) for name in model.entities.owners]
    return max(arrays_bytes(arrays), *rows, *entities)


def _too_small(log: Log, topic: str, limit: int, needed: int) -> str:
    advice = log.limit_advice(topic, needed)
    return (
        f"{log}: topic {topic!r} takes records of up to {limit:,} bytes, but an update of this model needs "
        f"{needed:,} (its dense arrays, each row and each entity travel in one record): {advice}"
    )

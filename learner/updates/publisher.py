"""Publishes to the replicas: an update per commit, and from time to time a snapshot of all rows.

A snapshot is due when the updates since the last one exceed `snapshot_ratio` times its size. So a new
replica reads a bounded number of bytes, and the bytes written stay in proportion to the updates.
"""

from collections.abc import Sequence

from embeddings.save.delta import Changes
from learner.meta import LearnerMeta
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.updates.chain import UpdatePosition
from learner.updates.format import PIECE_BYTES, Update, arrays_bytes, cut, encode_update, frame_bytes, pack
from stream.errors import LogError
from stream.log.base import EXAMPLES, SNAPSHOTS, UPDATES, Log, Outgoing
from stream.state.role_state import Commit

FRAME_BYTES = 64 << 10  # of a record beside rows and arrays: the stretches of examples that it names, mostly
PARTITION_BYTES = 16  # of a partition's watermark in MessagePack


class Publisher:
    """Puts updates and snapshots into the outbox of the commit whose changes they hold.

    `meta` is the learner's, as of this commit; its sizes and record numbers are advanced. `position` is the
    commit's position in topic `updates`. `clock` (event time, Unix seconds) decides which rows have expired.
    """

    def __init__(self, model: Model, settings: LearnerSettings) -> None:
        self._model = model
        self._settings = settings
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
        clock: float,
        commit: Commit,
    ) -> None:
        """Publish a commit's changes, by table, and a snapshot of all rows if it is due."""
        name = f"learner-{meta.epoch}-{meta.term}"
        meta.update_bytes += self._emit(UPDATES, name, changes, meta, position, commit)
        settings = self._settings
        if meta.update_bytes > max(
            settings.snapshot_ratio * meta.snapshot_bytes, settings.snapshot_bytes_min
        ):
            self.snapshot(meta, position, clock, commit)
            meta.update_bytes = 0

    def snapshot(self, meta: LearnerMeta, position: UpdatePosition, clock: float, commit: Commit) -> None:
        """Publish a snapshot of all rows."""
        rows = []
        for table_name, table in zip(self._model.table_names, self._model.tables, strict=True):
            keys, _ = table.items(int(clock))
            served, _ = table.export_serving(keys)
            rows.append((table_name, Changes.of(table, keys=keys, rows=served)))
        name = f"learner-{meta.epoch}-{meta.term}-snapshots"
        meta.snapshot_bytes = self._emit(SNAPSHOTS, name, rows, meta, position, commit)

    def _emit(
        self,
        topic: str,
        producer: str,
        changes: Sequence[tuple[str, Changes]],
        meta: LearnerMeta,
        position: UpdatePosition,
        commit: Commit,
    ) -> int:
        """Put an update or a snapshot into the outbox; returns its bytes."""
        rows = self._settings.update_rows
        head = Update(
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
            rows=rows,
            model=self._model.identity,
            learning=self._model.learning_identity,
        )
        arrays = {name: array.tobytes() for name, array in self._model.arrays().items()}
        changes = pack(self._model, changes, rows)
        key = f"{meta.epoch}".encode()
        bytes_max, whole_max = self._settings.update_bytes_max, None
        if self._log is not None and self._record_bytes_max is not None:
            frame = len(key) + frame_bytes(head, self._model.table_names)
            whole_max = self._record_bytes_max - frame
            needed = _largest(self._model)
            if whole_max < needed:
                raise LogError(_too_small(self._log, topic, self._record_bytes_max, frame + needed))
            bytes_max = min(bytes_max, whole_max)
        size = 0
        for part in cut(head, changes, arrays, bytes_max, whole_max):
            value = encode_update(part)
            size += len(value)
            # Followers recognise repeats by the update's number; (producer, seq) is for other readers.
            commit.emit(
                topic,
                Outgoing(
                    key=key,
                    value=value,
                    partition=0,
                    producer=producer,
                    seq=meta.record_seq,
                ),
            )
            meta.record_seq += 1
        return size


def record_bytes_min(model: Model, partitions: int) -> int:
    """The bytes that a topic must take in one record for updates of this model.

    Args:
        partitions: of topic `examples`, each of which an update names.
    """
    names = sum(len(name.encode()) + PIECE_BYTES for name in model.table_names)
    return FRAME_BYTES + PARTITION_BYTES * partitions + names + _largest(model)


def _largest(model: Model) -> int:
    """The bytes of the largest thing that cannot be cut: a row with its key, or the dense arrays together."""
    rows = [8 + 4 * spec.serving().width for spec in model.specs.values()]
    arrays = {name: array.tobytes() for name, array in model.arrays().items()}
    return max(arrays_bytes(arrays), *rows)


def _too_small(log: Log, topic: str, limit: int, needed: int) -> str:
    advice = log.limit_advice(topic, needed)
    return (
        f"{log}: topic {topic!r} takes records of up to {limit:,} bytes, but an update of this model needs "
        f"{needed:,} (its dense arrays and each row travel in one record): {advice}"
    )

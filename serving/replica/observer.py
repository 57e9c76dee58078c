"""Feeds the error memory: each example is predicted, measured, and then added to the memory.

The memory has the examples that are not in the weights of the base. So after each update of the base the
observer removes from the memory the examples that the weights now include.
"""

import logging
import threading
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from ground.clock import SYSTEM_CLOCK, Clock
from learner.exposure import RecentExposure, column_keys, tells_apart
from learner.features.encoder import Batch
from learner.features.labelled import join, lessons_of
from learner.lessons import Lessons
from learner.memories import observe, set_priors
from learner.metrics import Metrics
from learner.model.forgetting import forget_in_memory, keys_by_column
from learner.model.model import Model
from serving.replica.answering import LiveModel
from serving.replica.example_reader import ExampleReader, Seen
from serving.replica.positions import Positions
from serving.replica.status import GuardStatus, Quality, ShownStatus, Watcher
from serving.settings import ServerSettings
from stream.log.base import EXAMPLES, Log, Record
from stream.log.lag import Position
from stream.records.types import Forget
from stream.state.repeats import PRODUCERS_MAX, Repeats

READ_RECORDS = 256  # per partition and round, so that updates do not wait for a long backlog
CHUNK_REQUESTS = 16  # observed per acquisition of the lock; bounds the wait of an answer
BACKLOG_EVERY_S = 1.0
SHOWN_EVERY_S = 5.0  # between two summaries of what was shown

logger = logging.getLogger("freshet.serving")


class Observer:
    """Reads topic `examples` for the current error memory. Not thread-safe.

    Args:
        live: the owner of the memory.
        settings: the server's limits.
        clock: says when to look at the backlog.
    """

    def __init__(self, live: LiveModel, settings: ServerSettings, clock: Clock = SYSTEM_CLOCK) -> None:
        self.observed = 0  # requests added to the memory
        self.skipped = 0  # requests already in the weights, or over the backlog limit
        self.guard: Watcher | None = None
        self._live = live
        self._settings = settings
        self._clock = clock
        self._reader = ExampleReader(lambda: live.model, live.model.targets)
        self._metrics_lock = threading.Lock()
        self._base, self._corrected = (
            [Metrics(settings.window, target.kind == "value") for target in live.model.targets.values()]
            for _ in range(2)
        )  # by target
        self._exposure = RecentExposure()
        self._item_column = -1  # of the ids that tell candidates of a request apart; -1: none was seen yet
        self._shown: tuple[float, ShownStatus | msgspec.UnsetType] = (float("-inf"), msgspec.UNSET)
        self._repeats: list[Repeats] = []  # per partition
        self._next: list[int] = []  # per partition, the next offset to observe
        self._measured: list[int] = []  # per partition, the next offset to measure
        self._learnt: dict[int, int] = {}  # the watermark of the last update
        self._taken_ms: dict[int, int] = {}  # per partition, the ingest time of the last record read
        self._positions = Positions(settings.marks_max)
        self._backlog_checked = float("-inf")

    @property
    def bad(self) -> int:
        """Records that could not be read or encoded."""
        return self._reader.bad

    def positions(self) -> dict[int, Position]:
        """The position in each partition; empty before `begin`. May be called from any thread."""
        return {p: Position(offset, self._taken_ms.get(p, 0)) for p, offset in enumerate(list(self._next))}

    def quality(self) -> list[tuple[Quality, Quality]]:
        """The metrics of the base and the corrected predictions, by target. May be called from any thread."""
        with self._metrics_lock:
            return [
                (
                    Quality(overall=base.summary(), recent=base.recent()),
                    Quality(overall=corrected.summary(), recent=corrected.recent()),
                )
                for base, corrected in zip(self._base, self._corrected, strict=True)
            ]

    def shown(self) -> ShownStatus | msgspec.UnsetType:
        """Which items were shown lately; unset: no request had several. May be called from any thread."""
        now = self._clock.now_s()
        if self._item_column >= 0 and now - self._shown[0] >= SHOWN_EVERY_S:
            model = self._live.model
            name = model.encoder.names[self._item_column]
            found = self._exposure.summary()
            rows = model.table_rows().get(name, 0)
            coverage = min(found.items / rows, 1.0) if rows else None
            self._shown = (now, ShownStatus(name, *found, coverage))
        return self._shown[1]

    def guard_status(self) -> GuardStatus | msgspec.UnsetType:
        """That of the guard, if there is one."""
        return msgspec.UNSET if self.guard is None else self.guard.status()

    def begin(self, partitions: int, watermark: Mapping[int, int]) -> None:
        """Start after the examples that are already in the weights.

        Args:
            partitions: number of partitions of the topic.
            watermark: per partition, the next offset that the base will train on.
        """
        self._begin_behind(watermark, partitions)
        self._measured = list(self._next)
        set_priors(self._live.memories, self._live.model)

    def observe(self, log: Log) -> tuple[bool, bool]:
        """Read up to `READ_RECORDS` records from each partition.

        Returns:
            Whether there were records, and whether a partition may have more.

        Raises:
            LogError: the log fails; call again.
        """
        self._bound_backlog(log)
        took = more = False
        for partition, offset in enumerate(self._next):
            records = log.read(EXAMPLES, partition, offset, READ_RECORDS)
            self._take(partition, records)
            took |= bool(records)
            more |= len(records) == READ_RECORDS
        return took, more

    def base_moved(self, watermark: Mapping[int, int]) -> None:
        """Remove from the memory the examples that the base now includes. Call with `live.lock` held."""
        live = self._live
        if any(watermark.get(partition, 0) < offset for partition, offset in self._learnt.items()):
            # the learner started over, without the dropped examples: feed them to a new memory
            live.memories = live.new_memories()
            self._positions = Positions(self._settings.marks_max)
            self._begin_behind(watermark, len(self._next))
        self._learnt = dict(watermark)
        set_priors(live.memories, live.model)
        for memory in live.memories:
            memory.advance(self._positions.learnt(watermark))
        for partition in range(len(self._next)):
            learnt = watermark.get(partition, 0)
            if learnt > self._next[partition]:
                # already in the weights: a prediction for these examples is no longer out of sample
                self.skipped += learnt - self._next[partition]
                self._next[partition] = learnt

    def _begin_behind(self, watermark: Mapping[int, int], partitions: int) -> None:
        self._next = [watermark.get(partition, 0) for partition in range(partitions)]
        # new at each start: records read before may have to be read again
        self._repeats = [Repeats(PRODUCERS_MAX) for _ in range(partitions)]

    def _bound_backlog(self, log: Log) -> None:
        now = self._clock.now_s()
        if now - self._backlog_checked < BACKLOG_EVERY_S:
            return
        self._backlog_checked = now
        for partition, (_, end) in enumerate(log.ends(EXAMPLES)):
            excess = end - self._next[partition] - self._settings.backlog_max
            if excess > 0:
                logger.warning("the error memory skips %d examples of partition %d", excess, partition)
                self.skipped += excess
                self._next[partition] += excess

    def _take(self, partition: int, records: Sequence[Record]) -> None:
        for first in range(0, len(records), CHUNK_REQUESTS):
            chunk = records[first : first + CHUNK_REQUESTS]
            seen: list[Seen] = []
            for record in self._repeats[partition].leave_out(chunk):
                found = self._reader.read(record)
                if isinstance(found, Forget):
                    self._show(partition, seen)
                    seen = []
                    self._forget(found)
                elif found is not None:
                    seen.append(found)
            self._show(partition, seen)
            self._next[partition] = chunk[-1].offset + 1
            self._taken_ms[partition] = chunk[-1].ingest_ms
            self._measured[partition] = max(self._measured[partition], self._next[partition])

    def _show(self, partition: int, seen: Sequence[Seen]) -> None:
        """Predict as a request would be answered, measure, then add the labels to the memory."""
        if not seen:
            return
        with self._live.lock:
            positions = [self._positions.add(partition, s.record.offset) for s in seen]
        for t in sorted({s.target for s in seen}):
            mine = [i for i, s in enumerate(seen) if s.target == t]
            self._show_target(partition, t, [seen[i] for i in mine], np.array(positions)[mine])

    def _show_target(
        self, partition: int, target: int, seen: Sequence[Seen], position: npt.NDArray[np.int64]
    ) -> None:
        live = self._live
        batch = join([s.batch for s in seen])
        lessons = lessons_of([s.example for s in seen], live.model.targets)
        per_request = np.diff(batch.requests)
        with live.lock:
            predicted = live.model.predict(batch, target)
            base, corrected, _ = observe(
                live.memories[target], live.model, target, predicted, lessons, position, batch, live.held
            )
            self.observed += len(seen)
            newest_ms = max(s.record.ingest_ms for s in seen)
            live.memory_ingest_ms = max(live.memory_ingest_ms, newest_ms)
        group = np.repeat(live.model.users(batch), per_request)
        # do not measure examples twice that are observed again after the base was rebuilt
        fresh = np.repeat([s.record.offset >= self._measured[partition] for s in seen], per_request)
        fresh &= ~lessons.quiet
        if self.guard is not None and target == 0 and not live.held and not live.model.scales.is_value[0]:
            counted = np.where(fresh, lessons.weight, 0.0)
            self.guard.add(seen, corrected, lessons.y, counted, lessons.shift)
        if target == 0:
            self._expose(batch, lessons, fresh & np.isnan(lessons.before))
        y, group, weight = lessons.y[fresh], group[fresh], lessons.weight[fresh]
        with self._metrics_lock:
            self._base[target].add(base[fresh], y, group, weight)
            self._corrected[target].add(corrected[fresh], y, group, weight)

    def _expose(self, batch: Batch, lessons: Lessons, fresh: npt.NDArray[np.bool_]) -> None:
        """Count what these examples show; all their candidates were shown."""
        if self._item_column < 0:
            self._item_column = _item_column(self._live.model, batch)
        if self._item_column >= 0:
            stands_for = np.where(lessons.y == 0.0, np.exp(lessons.shift), 1.0)  # of thinned negatives
            time = np.repeat(batch.times, np.diff(batch.requests))
            keys = column_keys(batch.rows, self._item_column)
            self._exposure.add(keys[fresh], time[fresh], stands_for[fresh])

    def _forget(self, request: Forget) -> None:
        """Delete ids from the memory now; the learner's next update deletes them from the model."""
        model = self._live.model
        with self._live.lock:
            for memory in self._live.memories:
                forget_in_memory(memory, model, request.entity)
        keys = keys_by_column(model, request.entity)
        if (items := keys.get(self._item_column)) is not None:
            self._exposure.forget(items)
        if (users := keys.get(model.user_column)) is not None:
            with self._metrics_lock:
                for metrics in (*self._base, *self._corrected):
                    metrics.forget(users)


def _item_column(model: Model, batch: Batch) -> int:
    """The first column of ids that tells candidates of a request apart; -1: none does."""
    request = np.repeat(np.arange(len(batch.times)), np.diff(batch.requests))
    for name, spec in model.features.items():
        column = model.encoder.column_of(name) if spec.kind == "id" else -1
        if column >= 0 and tells_apart(column_keys(batch.rows, column), request):
            return column
    return -1

"""The replica: a live copy of the model that answers, and the error memory that it feeds itself.

One thread follows two topics. From `examples` it feeds the error memory (and measures what it would
have answered, before it learns); from `updates` it moves the model, and drops from the memory what
the model has now learnt itself. While the learner is slow or down, the memory goes on.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import msgspec
import numpy as np

from error_memory import ErrorMemory, MemorySettings, make_memory
from learner.features import FeatureSpec, Request, Requestlike
from learner.follower import Follower
from learner.forgetting import forget_in_memory, keys_by_column
from learner.metrics import Metrics
from learner.model import Model
from learner.settings import LearnerSettings
from learner.updates import Update
from serving.errors import UnavailableError
from serving.explaining import Taken
from serving.live import Live
from serving.observing import ExampleReader, Seen, join
from serving.positions import Positions
from serving.settings import ServerSettings
from serving.status import MemoryStatus, ModelStatus, Quality, Scored
from stream.errors import LogError
from stream.lag import LagMeter, Position
from stream.log import EXAMPLES, UPDATES, Log, Record
from stream.records import Forget

READ_RECORDS = 256  # per partition and round: updates do not wait for a long backlog
CHUNK_REQUESTS = 16  # observed under one hold of the lock: about how long an answer may have to wait
IDLE_S = 0.005
RETRY_S_MAX = 5.0
BACKLOG_EVERY_S = 1.0
WARM_CAPACITY = 1_024  # keys of the memory that is made to be thrown away

logger = logging.getLogger("freshet.serving")


class _LiveFollower(Follower):
    """Holds the lock of what answers while it moves the model, not while it reads the log."""

    def __init__(self, live: Live, moved: Callable[[], None]) -> None:
        super().__init__(live.model)
        self._live = live
        self._moved = moved

    def _move(self, parts: list[Update]) -> None:
        with self._live.lock:
            super()._move(parts)
            self._end()

    def _replace(self, model: Model, last: Update) -> None:
        # a snapshot was put together beside the model that answers, and only takes its place here
        with self._live.lock:
            super()._replace(model, last)
            self._end()

    def _end(self) -> None:
        self._live.model = self.model
        self._live.base_ingest_ms = self.ingest_ms
        self._moved()


class Replica:
    """Answers requests from a model that follows a log.

    Args:
        log: where updates and examples come from.
        features: the schema; the learner's.
        learner_settings: the learner's.
        memory_settings: the error memory's.
        settings: the server's limits.

    Use it as a context manager (`with replica:` starts and stops its thread), or call `step` yourself.
    """

    def __init__(
        self,
        log: Log,
        features: Mapping[str, FeatureSpec],
        learner_settings: LearnerSettings,
        memory_settings: MemorySettings,
        settings: ServerSettings,
    ) -> None:
        self.settings = settings
        self.failure: Exception | None = None
        self._log = log
        self._memory_settings = memory_settings
        self._live = Live(Model(features, learner_settings, rows=settings.rows), memory_settings)
        self._follower = _LiveFollower(self._live, self._moved)
        self._reader = ExampleReader(lambda: self._model.encoder)
        self._metrics_lock = threading.Lock()
        self._base = Metrics(settings.window)
        self._corrected = Metrics(settings.window)
        self._next: list[int] = []  # per partition of `examples`, the next offset to observe
        self._measured: list[int] = []  # per partition, the next offset to measure
        self._learnt: dict[int, int] = {}  # the watermark that the memory was told last
        self._taken_ms: dict[int, int] = {}  # per partition, the ingest time of the last one taken
        self._positions = Positions(settings.marks_max)
        self._observed = self._skipped = 0
        self._loaded = False
        self._frozen = False
        self._behind_since = time.monotonic()
        self._at_end = False
        self._backlog_checked = 0.0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._meters = [
            LagMeter(log, EXAMPLES, self._examples_taken),
            LagMeter(log, UPDATES, self._updates_taken),
        ]

    @property
    def _model(self) -> Model:
        return self._live.model

    @property
    def _memory(self) -> ErrorMemory:
        return self._live.memory

    # --- what requests ask ---

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        """The schema of what it scores."""
        return self._model.features

    def score(self, requests: Sequence[Requestlike]) -> list[Scored]:
        """Answer each request, by its base and corrected; changes nothing.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
            UnavailableError: the model is still loading.
        """
        self._check_loaded()
        return self._live.score(requests)

    def explore(self, request: Requestlike, seed: int, draws: int) -> Scored:
        """Answer one request in an order drawn by Thompson sampling: see `Live.explore`.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
            UnavailableError: the model is still loading.
        """
        self._check_loaded()
        return self._live.explore(request, seed, draws)

    def explain(self, request: Requestlike) -> Taken:
        """Answer one request as `score` does, and say how; changes nothing.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
            UnavailableError: the model is still loading.
        """
        self._check_loaded()
        return self._live.explain(request)

    def _check_loaded(self) -> None:
        if not self._loaded:
            raise UnavailableError("the model is still loading; /v2/health/ready tells when it is there")

    def status(self) -> ModelStatus:
        """What it is and how it does."""
        why_not = self.unready()
        with self._metrics_lock:
            base = Quality(overall=self._base.summary(), recent=self._base.recent())
            corrected = Quality(overall=self._corrected.summary(), recent=self._corrected.recent())
        with self._live.lock:
            memory = self._memory
            return ModelStatus(
                version=self._model.version,
                ready=not why_not,
                why_not_ready=why_not,
                frozen=self._frozen,
                freshness_s=self._live.freshness_s,
                base_freshness_s=self._live.base_freshness_s,
                behind_s=self.behind_s,
                lag=[lag for meter in self._meters for lag in meter.lags],
                examples_learnt=self._follower.examples,
                examples_observed=self._observed,
                examples_skipped=self._skipped,
                examples_bad=self._reader.bad,
                updates_applied=self._follower.applied,
                update_gaps=self._follower.gaps,
                features=list(self._model.encoder.names),
                table_rows=self._model.table_rows(),
                memory=MemoryStatus(
                    kind=self._memory_settings.kind,
                    evidence=memory.evidence,
                    gate=memory.gate,
                    bytes=memory.nbytes,
                ),
                base=base,
                corrected=corrected,
            )

    def unready(self) -> str:
        """Why it should not be sent requests now; "" if it should."""
        if self.failure is not None:
            return f"the replica has stopped: {self.failure}"
        if not self._loaded:
            return "the model is still loading"
        if self.behind_s > self.settings.ready_age_s_max:
            waits = " and waits for a snapshot, as updates are missing" if self._follower.behind else ""
            return (
                f"the replica has been behind the log for {self.behind_s:.0f} s, longer than "
                f"{self.settings.ready_age_s_max:g} s (ready_age_s_max){waits}"
            )
        return ""

    @property
    def behind_s(self) -> float:
        """For how long it has not been at the end of the log, in seconds."""
        return 0.0 if self._at_end else time.monotonic() - self._behind_since

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until it may be sent requests; False when that took longer, or will not come."""
        deadline = time.monotonic() + timeout_s
        while self.unready():
            if self.failure is not None or time.monotonic() > deadline:
                return False
            time.sleep(IDLE_S)
        return True

    # --- its thread ---

    def __enter__(self) -> "Replica":
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="replica", daemon=True)
        self._thread.start()
        for meter in self._meters:
            meter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for meter in self._meters:
            meter.stop()

    def check(self) -> None:
        """Raise what ended its thread before its time, if anything did."""
        if self.failure is not None:
            raise self.failure

    def _examples_taken(self) -> dict[int, Position]:
        return {p: Position(offset, self._taken_ms.get(p, 0)) for p, offset in enumerate(list(self._next))}

    def _updates_taken(self) -> dict[int, Position]:
        return {0: Position(self._follower.offset, self._follower.read_ms)} if self._loaded else {}

    def _run(self) -> None:
        retry_s = 0.1
        while not self._stop.is_set():
            try:
                if not self.step():
                    self._stop.wait(IDLE_S)
                retry_s = 0.1
            except LogError as error:
                # the log may come back; until then what is known goes on answering
                logger.warning("the replica cannot follow: %s; trying again in %g s", error, retry_s)
                self._mark_end(False)
                self._stop.wait(retry_s)
                retry_s = min(2 * retry_s, RETRY_S_MAX)
            except Exception as error:
                logger.exception("the replica has stopped")
                self.failure = error
                return

    def step(self) -> bool:
        """One round: load if that is still to be done, observe new examples, apply new updates.

        Returns:
            Whether there was anything; False when both topics are at their end.

        Raises:
            LogError: the log fails; call again.
            FreshetError: updates that do not fit this model.
        """
        if not self._loaded:
            self._load()
        self._bound_backlog()
        took = False
        full = False
        for partition in range(len(self._next)):
            records = self._log.read(EXAMPLES, partition, self._next[partition], READ_RECORDS)
            self._take(partition, records)
            took |= bool(records)
            full |= len(records) == READ_RECORDS
        took |= self._follow()
        self._mark_end(not full and (self._frozen or not self._follower.behind))
        return took

    def _load(self) -> None:
        follower = self._follower
        self._warm()
        follower.start(self._log)
        while not self._frozen and follower.poll(self._log):
            pass
        partitions = self._log.partitions(EXAMPLES)
        self._next = [follower.watermark.get(p, 0) for p in range(partitions)]
        self._measured = list(self._next)
        self._memory.set_priors(self._model.memory_tau())
        self._loaded = True

    def _warm(self) -> None:
        """Have every kernel of scoring and observing loaded, or compiled, while nobody waits for it.

        The first call of each takes tens of milliseconds, without a compiler's cache seconds, and the first
        label would take them with the lock held.
        """
        batch = self._model.encoder.encode([Request(time.time(), {}, [{}, {}])])
        scores = self._model.score(batch)
        settings = msgspec.structs.replace(self._memory_settings, capacity=WARM_CAPACITY)
        memory = make_memory(settings, self._model.memory_columns)
        for position in (1, 2):
            memory.correct(scores.rows, scores.p)
            memory.observe(scores.rows, scores.p, np.zeros(2), position, batch.requests, batch.times)

    def _follow(self) -> bool:
        return not self._frozen and bool(self._follower.poll(self._log))

    def _moved(self) -> None:
        """The model has changed: what it has learnt now leaves the memory. Called with the lock held."""
        limit = self.settings.freeze_after_examples
        self._frozen = limit > 0 and self._follower.examples >= limit
        watermark = self._follower.watermark
        if any(watermark.get(partition, 0) < offset for partition, offset in self._learnt.items()):
            # a learner that begins anew has not learnt what was dropped: show it to a new memory
            self._live.memory = self._live.new_memory()
            self._positions = Positions(self.settings.marks_max)
            self._reader.begin_anew()
            self._next = [watermark.get(partition, 0) for partition in range(len(self._next))]
        self._learnt = dict(watermark)
        self._memory.set_priors(self._model.memory_tau())
        self._memory.advance(self._positions.learnt(watermark))
        for partition in range(len(self._next)):
            learnt = watermark.get(partition, 0)
            if learnt > self._next[partition]:
                # the weights were faster: these examples are no longer out of sample
                self._skipped += learnt - self._next[partition]
                self._next[partition] = learnt

    def _bound_backlog(self) -> None:
        now = time.monotonic()
        if now - self._backlog_checked < BACKLOG_EVERY_S:
            return
        self._backlog_checked = now
        for partition, (_, end) in enumerate(self._log.ends(EXAMPLES)):
            excess = end - self._next[partition] - self.settings.backlog_max
            if excess > 0:
                logger.warning("the error memory skips %d examples of partition %d", excess, partition)
                self._skipped += excess
                self._next[partition] += excess

    def _mark_end(self, at_end: bool) -> None:
        if self._at_end and not at_end:
            self._behind_since = time.monotonic()
        self._at_end = at_end

    def _take(self, partition: int, records: Sequence[Record]) -> None:
        for first in range(0, len(records), CHUNK_REQUESTS):
            chunk = records[first : first + CHUNK_REQUESTS]
            seen: list[Seen] = []
            for record in chunk:
                found = self._reader.read(record)
                if isinstance(found, Forget):
                    self._observe(partition, seen)
                    seen = []
                    self._forget(found)
                elif found is not None:
                    seen.append(found)
            self._observe(partition, seen)
            self._next[partition] = chunk[-1].offset + 1
            self._taken_ms[partition] = chunk[-1].ingest_ms
            self._measured[partition] = max(self._measured[partition], self._next[partition])

    def _observe(self, partition: int, seen: Sequence[Seen]) -> None:
        """Say what would have been answered, measure it, then show the labels to the memory."""
        if not seen:
            return
        batch = join([s.batch for s in seen])
        y = np.concatenate([s.example.labels for s in seen])
        per_request = np.diff(batch.requests)
        # where negatives were thinned, labels come with higher odds than the served probability has
        thinned = np.repeat([-s.example.log_odds for s in seen], per_request)
        with self._live.lock:
            scores = self._model.score(batch)
            base = 1.0 / (1.0 + np.exp(-(scores.z + thinned)))
            position = np.array([self._positions.add(partition, s.record.offset) for s in seen])
            corrected = self._memory.observe(scores.rows, base, y, position, batch.requests, batch.times)
            self._observed += len(seen)
            newest_ms = seen[-1].record.ingest_ms
            self._live.memory_ingest_ms = max(self._live.memory_ingest_ms, newest_ms)
        group = np.repeat(self._model.users(batch), per_request)
        # what is observed again after the base was rebuilt has been measured already
        fresh = np.repeat([s.record.offset >= self._measured[partition] for s in seen], per_request)
        with self._metrics_lock:
            self._base.add(base[fresh], y[fresh], group[fresh])
            self._corrected.add(corrected[fresh], y[fresh], group[fresh])

    def _forget(self, request: Forget) -> None:
        """Forget some ids: the memory now, the model with the learner's next update."""
        model = self._model
        forget_in_memory(self._memory, model, request.entity)
        users = keys_by_column(model, request.entity).get(model.user_column)
        if users is not None:
            with self._metrics_lock:
                self._base.forget(users)
                self._corrected.forget(users)

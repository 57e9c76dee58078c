"""The replica: a live copy of the model that answers, and the error memory that it feeds itself.

One thread follows two topics. From `examples` it feeds the error memory (`serving.replica.observer`, which
also
measures what would have been answered, before it learns); from `updates` it moves the model, and what the
model has now learnt itself leaves the memory. While the learner is slow or down, the memory goes on.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import msgspec
import numpy as np

from error_memory import ErrorMemory, MemorySettings, make_memory
from ground.clock import SYSTEM_CLOCK, Clock
from ground.retry import Backoff, Pauses
from learner.features.encoder import FeatureSpec, Request, Requestlike
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.updates.follower import Follower
from learner.updates.format import Update
from serving.errors import UnavailableError
from serving.replica.answering import Live
from serving.replica.explaining import Taken
from serving.replica.observer import Observer
from serving.replica.status import MemoryStatus, ModelStatus, Scored
from serving.settings import ServerSettings
from stream.errors import LogError
from stream.log.base import EXAMPLES, UPDATES, Log
from stream.log.lag import LagMeter, Position

IDLE_S = 0.005
AWAY_PAUSES = Pauses(first_s=0.1, longest_s=5.0)  # between attempts to follow
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
        clock: by which it waits.

    Use it as a context manager (`with replica:` starts and stops its thread), or call `step` yourself.
    """

    def __init__(
        self,
        log: Log,
        features: Mapping[str, FeatureSpec],
        learner_settings: LearnerSettings,
        memory_settings: MemorySettings,
        settings: ServerSettings,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self.failure: Exception | None = None
        self._log = log
        self._memory_settings = memory_settings
        self._live = Live(Model(features, learner_settings, rows=settings.rows), memory_settings)
        self._follower = _LiveFollower(self._live, self._moved)
        self._observer = Observer(self._live, settings)
        self._loaded = False
        self.frozen = False
        self._behind_since = self._clock.now_s()
        self._at_end = False
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._meters = [
            LagMeter(log, EXAMPLES, self._observer.positions),
            LagMeter(log, UPDATES, self._updates_taken),
        ]

    @property
    def model(self) -> Model:
        """The base that answers now; a snapshot may put another in its place."""
        return self._live.model

    @property
    def memory(self) -> ErrorMemory:
        """The error memory that answers now."""
        return self._live.memory

    # --- what requests ask ---

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        """The schema of what it scores."""
        return self.model.features

    def check_types(self, request: Requestlike) -> None:
        """Check a request's ids against the declared types of the features; a loading model checks too.

        Raises:
            FeatureError: an id is not of its feature's declared type.
        """
        self.model.encoder.check_types(request)

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
        if other := self._only_other():
            raise UnavailableError(other)

    def _only_other(self) -> str:
        """What to do, where the log has another model than the configured one and never had this; else ""."""
        return self._follower.other if self._follower.seq == 0 else ""

    def status(self) -> ModelStatus:
        """What it is and how it does."""
        why_not = self.unready()
        base, corrected = self._observer.quality()
        with self._live.lock:
            memory = self.memory
            return ModelStatus(
                version=self.model.version,
                ready=not why_not,
                why_not_ready=why_not,
                frozen=self.frozen,
                freshness_s=self._live.freshness_s,
                base_freshness_s=self._live.base_freshness_s,
                behind_s=self.behind_s,
                lag=[lag for meter in self._meters for lag in meter.lags],
                examples_learnt=self._follower.examples,
                examples_observed=self._observer.observed,
                examples_skipped=self._observer.skipped,
                examples_bad=self._observer.bad,
                updates_applied=self._follower.applied,
                update_gaps=self._follower.gaps,
                features=list(self.model.encoder.names),
                table_rows=self.model.table_rows(),
                scored_features=self._live.coverage.totals(),
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
        if other := self._only_other():
            return other
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
        return 0.0 if self._at_end else self._clock.now_s() - self._behind_since

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until it may be sent requests; False when that took longer, or will not come."""
        deadline = self._clock.now_s() + timeout_s
        while self.unready():
            if self.failure is not None or self._clock.now_s() > deadline:
                return False
            self._clock.sleep(IDLE_S)
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
            self._thread.join(self.settings.stop_s)  # a log that is away may hold it for longer
            self._thread = None
        for meter in self._meters:
            meter.stop()

    def check(self) -> None:
        """Raise what ended its thread before its time, if anything did."""
        if self.failure is not None:
            raise self.failure

    def _updates_taken(self) -> dict[int, Position]:
        return {0: Position(self._follower.offset, self._follower.read_ms)} if self._loaded else {}

    def _run(self) -> None:
        backoff = Backoff(AWAY_PAUSES, self._clock)
        while not self._stop.is_set():
            try:
                if not self.step():
                    self._clock.wait(self._stop, IDLE_S)
                backoff.reset()
            except LogError as error:
                # the log may come back; until then what is known goes on answering
                if not backoff.failed:
                    logger.warning("the replica cannot follow: %s; trying again until it can", error)
                self._mark_end(False)
                backoff.wait(self._stop)
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
        took, more = self._observer.observe(self._log)
        took |= self._follow()
        self._mark_end(not more and (self.frozen or not self._follower.behind))
        return took

    def _load(self) -> None:
        follower = self._follower
        self._warm()
        follower.start(self._log)
        while not self.frozen and follower.poll(self._log):
            pass
        self._observer.begin(self._log.partitions(EXAMPLES), follower.watermark)
        self._loaded = True

    def _warm(self) -> None:
        """Have every kernel of scoring and observing loaded, or compiled, while nobody waits for it.

        The first call of each takes tens of milliseconds, without a compiler's cache seconds, and the first
        label would take them with the lock held.
        """
        batch = self.model.encoder.encode([Request(self._clock.unix_s(), {}, [{}, {}])])
        scores = self.model.score(batch)
        settings = msgspec.structs.replace(self._memory_settings, capacity=WARM_CAPACITY)
        memory = make_memory(settings, self.model.memory_columns)
        for position in (1, 2):
            memory.correct(scores.rows, scores.p)
            memory.observe(scores.rows, scores.p, np.zeros(2), position, batch.requests, batch.times)

    def _follow(self) -> bool:
        return not self.frozen and bool(self._follower.poll(self._log))

    def _moved(self) -> None:
        """The model has changed. Called with the lock held."""
        limit = self.settings.freeze_after_examples
        self.frozen = limit > 0 and self._follower.examples >= limit
        self._observer.base_moved(self._follower.watermark)

    def _mark_end(self, at_end: bool) -> None:
        if self._at_end and not at_end:
            self._behind_since = self._clock.now_s()
        self._at_end = at_end

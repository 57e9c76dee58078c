"""The replica: a live copy of the model, and an error memory that it feeds.

One thread follows two topics. With `examples` it feeds the error memory (`serving.replica.observer`, which
also measures the predictions before it adds the labels). With `updates` it updates the model, and removes
from the memory the examples that the model now includes. While the learner is slow or down, the memory
continues.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from error_memory import ErrorMemory, MemorySettings, make_memory
from ground.clock import SYSTEM_CLOCK, Clock
from ground.retry import Backoff, Pauses
from ground.threads import HelperThread
from learner.entities.filling import filled
from learner.features.encoder import FeatureSpec, Request, Requestlike
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.updates.format import Update
from serving.errors import UnavailableError
from serving.replica.answering import LiveModel, network_status
from serving.replica.explaining import Explanation
from serving.replica.live_follower import Index, LiveFollower
from serving.replica.observer import Observer
from serving.replica.ranking import Ranking
from serving.replica.status import MemoryStatus, ModelStatus, Scored, TargetStatus, Watcher
from serving.settings import ServerSettings
from stream.errors import LogError
from stream.log.base import EXAMPLES, UPDATES, Log
from stream.log.lag import LagMeter, Position
from stream.records.entities.record import EntityEvent
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Impression

IDLE_S = 0.005
AWAY_PAUSES = Pauses(first_s=0.1, longest_s=5.0)  # between retries when the log fails
WARM_CAPACITY = 1_024  # keys of the temporary memory for warming up

logger = logging.getLogger("freshet.serving")


class Replica:
    """Scores requests with a model that follows a log.

    Args:
        log: the source of updates and examples.
        features: the schema, the same as the learner's.
        learner_settings: the learner's.
        memory_settings: the error memory's.
        settings: the server's limits.
        targets: what is predicted, the same as the learner's.
        clock: used to wait and to measure time.
        rest_in: the folder in which rows rest, see `Model`.

    Use it as a context manager (`with replica:` starts and stops its thread), or call `step` yourself.
    """

    def __init__(
        self,
        log: Log,
        features: Mapping[str, FeatureSpec],
        learner_settings: LearnerSettings,
        memory_settings: MemorySettings,
        settings: ServerSettings,
        targets: Targets = UNDECLARED,
        clock: Clock = SYSTEM_CLOCK,
        rest_in: Path | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._log = log
        self._memory_settings = memory_settings
        self._live = LiveModel(
            Model(features, learner_settings, targets, rows=settings.rows, rest_in=rest_in),
            memory_settings,
            clock,
        )
        self._index: Index | None = None
        self._follower = LiveFollower(self._live, self._moved)
        self._observer = Observer(self._live, settings, clock)
        self._loaded = False
        self.frozen = False
        self._behind_since = self._clock.now_s()
        self._at_end = False
        self._thread = HelperThread("replica", self._run, clock=clock)
        self._meters = [
            LagMeter(log, EXAMPLES, self._observer.positions, clock),
            LagMeter(log, UPDATES, self._updates_taken, clock),
        ]

    def __repr__(self) -> str:
        return f"<Replica of {self._log}>"

    def watch_by(self, guard: Watcher) -> None:
        """Let a guard see what was predicted of each example. Call it before the replica is started."""
        self._observer.guard = guard

    @property
    def loaded(self) -> bool:
        """Whether there is a model."""
        return self._loaded

    def attach(self, index: Index) -> None:
        """Tell an index of each change of the model, and put its status into that of the replica; before the
        thread starts."""
        self._index = index

    @property
    def live(self) -> LiveModel:
        """The model and the error memory that answer, with their lock."""
        return self._live

    @property
    def model(self) -> Model:
        """The current base model; a snapshot may replace it."""
        return self._live.model

    @property
    def memory(self) -> ErrorMemory:
        """The current error memory."""
        return self._live.memory

    # --- scores and status ---

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        """The schema of the requests."""
        return self.model.features

    @property
    def targets(self) -> Targets:
        """What is predicted."""
        return self.model.targets

    @property
    def by_name(self) -> dict[str, Replica]:
        """None: it is the only model."""
        return {}

    def check_types(self, request: Requestlike) -> None:
        """Check a request's ids against the declared types of the features; a loading model checks too.

        Raises:
            FeatureError: an id is not of its feature's declared type.
        """
        self.model.encoder.check_types(request)

    def check_entity(self, event: EntityEvent) -> None:
        """Check what is told of an entity against the schema.

        Raises:
            FeatureError: its feature has no attributes, or a value is not of its attribute's kind.
        """
        self.model.entities.check(event)

    @property
    def attributes(self) -> list[str]:
        """The values that `filled` adds, sorted by name."""
        return self.model.entities.attributes

    def filled(self, request: Impression) -> Impression:
        """A request with the attributes, histories and rates that it lacks, as of its time.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
        """
        return self._live.filled(filled(self.model.entities, request))

    def score(self, requests: Sequence[Requestlike], ranking: Ranking | None = None) -> list[Scored]:
        """Score each request, base and corrected, and order it. Changes only the coverage counts.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
            UnavailableError: the model is still loading.
        """
        return self.loaded_live().score(requests, ranking)

    def explore(self, request: Requestlike, seed: int, draws: int, ranking: Ranking | None = None) -> Scored:
        """Score one request and draw the order by Thompson sampling; raises as `score` does."""
        return self.loaded_live().explore(request, seed, draws, ranking)

    def explain(self, request: Requestlike, target: int = 0) -> Explanation:
        """Score one request as `score` does and break one target's scores down; raises as `score` does."""
        return self.loaded_live().explain(request, target)

    def loaded_live(self) -> LiveModel:
        """What answers; `UnavailableError` if the model is still loading, or is another than configured."""
        if not self._loaded:
            raise UnavailableError("the model is still loading; /v2/health/ready says when it is ready")
        if other := self._only_other():
            raise UnavailableError(other)
        return self._live

    def _only_other(self) -> str:
        """A message if the log has only another model than the configured one; else ""."""
        return self._follower.other if self._follower.seq == 0 else ""

    def status(self) -> ModelStatus:
        """The state of the replica and its metrics."""
        why_not = self.unready()
        qualities, shown = self._observer.quality(), self._observer.shown()
        base, corrected = qualities[0]
        with self._live.lock:
            memory = self.memory
            return ModelStatus(
                version=self.model.version,
                ready=not why_not,
                why_not_ready=why_not,
                frozen=self.frozen,
                held=self._live.held,
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
                trust=dict(zip(self.targets, self.model.trust.shares.tolist(), strict=True)),
                network=network_status(self.model),
                guard=self._observer.guard_status(),
                shown=shown,
                nearest=msgspec.UNSET if self._index is None else self._index.status(),
                targets={
                    name: TargetStatus(
                        target.kind, target.of, *quality, complete=target.observe_s >= target.window_s
                    )
                    for (name, target), quality in zip(self.targets.items(), qualities, strict=True)
                }
                if len(self.targets) > 1
                else msgspec.UNSET,
            )

    def unready(self) -> str:
        """Why the replica cannot take requests now; "" if it can."""
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
        """Seconds since the replica was last at the end of the log; 0 if it is there now."""
        return 0.0 if self._at_end else self._clock.now_s() - self._behind_since

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the replica can take requests; False after a timeout or a failure."""
        deadline = self._clock.now_s() + timeout_s
        while self.unready():
            if self.failure is not None or self._clock.now_s() > deadline:
                return False
            self._clock.sleep(IDLE_S)
        return True

    # --- its thread ---

    def __enter__(self) -> Self:
        self._thread.start()
        for meter in self._meters:
            meter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.stop(self.settings.stop_s)  # a log that does not respond may block it for longer
        for meter in self._meters:
            meter.stop()

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the replica's thread or that of a lag meter; None: they run."""
        failures = [self._thread.failure, *(meter.failure for meter in self._meters)]
        return next((failure for failure in failures if failure is not None), None)

    def check(self) -> None:
        """Raise the error that stopped a thread, if there is one."""
        if self.failure is not None:
            raise self.failure

    def _updates_taken(self) -> dict[int, Position]:
        return {0: Position(self._follower.offset, self._follower.read_ms)} if self._loaded else {}

    def _run(self, stop: threading.Event) -> None:
        backoff = Backoff(AWAY_PAUSES, self._clock)
        while not stop.is_set():
            try:
                if not self.step():
                    self._clock.wait(stop, IDLE_S)
                backoff.reset()
            except LogError as error:
                # retry until the log responds; meanwhile the replica answers from its current state
                if not backoff.failed:
                    logger.warning("the replica cannot follow: %s; trying again until it can", error)
                self._mark_end(False)
                backoff.wait(stop)

    def step(self) -> bool:
        """One round: load the model if not loaded yet, observe new examples, apply new updates.

        Returns:
            Whether there were records; False at the end of both topics.

        Raises:
            LogError: the log fails; call again.
            FreshetError: updates do not match this model.
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
        """Load or compile all kernels for scoring and observing, before the first request.

        The first call of each kernel takes tens of milliseconds, or seconds if it is not in the compiler's
        cache, and for the first label that would happen with the lock held.
        """
        batch = self.model.encoder.encode([Request(self._clock.unix_s(), {}, [{}, {}])])
        scores = self.model.score(batch)
        settings = msgspec.structs.replace(self._memory_settings, capacity=WARM_CAPACITY)
        memory = make_memory(settings, self.model.memory_columns)
        for position in (1, 2):
            memory.correct(scores.rows, scores.p)
            memory.observe(scores.rows, scores.p, np.zeros(2), position, batch.requests, batch.times)

    def _follow(self) -> bool:
        self._follower.relieve()
        return not self.frozen and bool(self._follower.poll(self._log))

    def _moved(self, parts: list[Update] | None) -> None:
        """Handle a change of the model. Called with the lock held."""
        limit = self.settings.freeze_after_examples
        self.frozen = limit > 0 and self._follower.examples >= limit
        self._live.hold(self._follower.held)
        self._observer.base_moved(self._follower.watermark)
        if self._index is not None:
            self._index.updated(parts)

    def _mark_end(self, at_end: bool) -> None:
        if self._at_end and not at_end:
            self._behind_since = self._clock.now_s()
        self._at_end = at_end

"""Scores from the current model and error memory, under one lock.

`serving.replica.replica` updates both from the log; this module only reads them.
"""

import threading
from collections.abc import Sequence

import numpy as np

from error_memory import ErrorMemory, MemorySettings, make_memory
from ground.clock import SYSTEM_CLOCK, Clock
from ground.kernels.logistic import logits
from learner.features.encoder import Requestlike
from learner.model.explain import explain, read
from learner.model.explore import beliefs_of, sample_slate
from learner.model.model import Model
from serving.replica.coverage import CoverageCounts
from serving.replica.explaining import Explanation, candidates_of
from serving.replica.status import Scored

DRAWN_MAX = 1 << 20
"""Limit of candidates times draws of one order. Each takes 24 bytes and about 0.6 µs."""

P_MIN = 1e-12
"""Probabilities are clipped to P_MIN and 1 - P_MIN before the logit."""


class LiveModel:
    """Scores requests. Hold `lock` to change the model, the memory or their ingest times.

    Args:
        model: the initial model; a snapshot may replace it.
        settings: the error memory's.
        clock: gives the time by which ages are measured.
    """

    def __init__(self, model: Model, settings: MemorySettings, clock: Clock = SYSTEM_CLOCK) -> None:
        # Requests acquire it in the event loop, so hold it only briefly.
        self.lock = threading.Lock()
        self.model = model
        self.base_ingest_ms = 0  # of the newest example in the weights, Unix ms; 0: none
        self.memory_ingest_ms = 0  # of the newest example in the memory
        self.coverage = CoverageCounts(model.encoder)
        self._settings = settings
        self._clock = clock
        self.memory = self.new_memory()

    def new_memory(self) -> ErrorMemory:
        """A new, empty error memory."""
        return make_memory(self._settings, self.model.memory_columns)

    @property
    def freshness_s(self) -> float | None:
        """Age of the newest example in the weights or the memory; None: no example yet."""
        return self._age_s(max(self.base_ingest_ms, self.memory_ingest_ms))

    @property
    def base_freshness_s(self) -> float | None:
        """Age of the newest example in the weights; None: no example yet."""
        return self._age_s(self.base_ingest_ms)

    def score(self, requests: Sequence[Requestlike]) -> list[Scored]:
        """Score each request, base and corrected. Changes only the coverage counts.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
        """
        batch = self.model.encoder.encode(requests)
        with self.lock:
            predicted = self.model.predict(batch)
            base = corrected = predicted.p
            if self.memory.evidence:  # without evidence the memory corrects nothing
                rows = self.model.scores_of(batch, predicted).rows
                corrected = self.memory.correct(rows, base)
            version = self.model.version
            freshness_s = self.freshness_s
        coverage = self.coverage.count(predicted.inputs)
        answers = []
        for first, end in zip(batch.requests[:-1], batch.requests[1:], strict=True):
            mine = corrected[first:end]
            answers.append(
                Scored(
                    base=base[first:end].tolist(),
                    corrected=mine.tolist(),
                    order=np.argsort(-mine, kind="stable").tolist(),
                    version=version,
                    freshness_s=freshness_s,
                    coverage=coverage.part(first, end),
                )
            )
        return answers

    def explore(self, request: Requestlike, seed: int, draws: int) -> Scored:
        """Score one request as `score` does, but draw the order by Thompson sampling.

        The base is sampled, and the error memory's correction is added to it. The same seed, weights and
        memory give the same order.

        Args:
            draws: sampled orders for the propensities, see `learner.model.explore.sample_slate`; fewer
                if there are many candidates, see `draws_for`.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
        """
        batch = self.model.encoder.encode([request])
        draws = draws_for(len(request.candidates), draws)
        with self.lock:
            predicted = self.model.predict(batch)
            scores = self.model.scores_of(batch, predicted)
            corrected = self.memory.correct(scores.rows, scores.p)
            shift = logits(corrected, P_MIN) - logits(scores.p, P_MIN)
            beliefs = beliefs_of(self.model, batch, predicted)
            version = self.model.version
            freshness_s = self.freshness_s
        # by far the longest part, so it runs without the lock
        slate = sample_slate(beliefs, shift, seed, draws)
        return Scored(
            base=scores.p.tolist(),
            corrected=corrected.tolist(),
            order=slate.order,
            version=version,
            freshness_s=freshness_s,
            propensity=slate.propensity,
            coverage=self.coverage.count(predicted.inputs),
        )

    def explain(self, request: Requestlike) -> Explanation:
        """Score one request as `score` does and break the scores down. Changes nothing.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
        """
        batch = self.model.encoder.encode([request])
        with self.lock:
            model = self.model
            reading = read(model, batch)
            corrected = self.memory.explain(reading.scores.rows, reading.scores.p)
            version, evidence = model.version, self.memory.evidence
            freshness_s, base_freshness_s = self.freshness_s, self.base_freshness_s
        # most of the time is spent here, without the lock
        base = explain(model, request, batch, reading)
        return Explanation(
            candidates=candidates_of(model, base, corrected),
            order=np.argsort(-corrected.p, kind="stable").tolist(),
            version=version,
            freshness_s=freshness_s,
            base_freshness_s=base_freshness_s,
            memory=self._settings.kind,
            gate=corrected.gate,
            evidence=evidence,
            bias=base.bias,
        )

    def _age_s(self, ingest_ms: int) -> float | None:
        return max(self._clock.unix_s() - ingest_ms / 1e3, 0.0) if ingest_ms else None


def draws_for(candidates: int, wanted: int) -> int:
    """The number of draws for an order of so many candidates: `wanted`, limited by `DRAWN_MAX`.

    >>> draws_for(50, 127), draws_for(2_000, 10_000)
    (127, 524)
    """
    return max(1, min(wanted, DRAWN_MAX // max(candidates, 1)))

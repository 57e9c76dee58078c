"""What answers: the model and the error memory as they are at this moment, under one lock.

`serving.replica.replica` moves both as the log goes on; here they are only asked.
"""

import threading
import time
from collections.abc import Sequence

import numpy as np

from error_memory import ErrorMemory, MemorySettings, make_memory
from ground.kernels.logistic import logits
from learner.features.encoder import Requestlike
from learner.model.explain import explain, read
from learner.model.explore import beliefs_of, sample_slate
from learner.model.model import Model
from serving.replica.coverage import CoverageCounts
from serving.replica.explaining import Taken, candidates_of
from serving.replica.status import Scored

DRAWN_MAX = 1 << 20
"""Candidates times draws of one order: memory (24 bytes each) and time (about 0.6 µs each) are bounded."""

P_MIN = 1e-12
"""Probabilities are clipped to this and 1 minus this before a logit is taken of them."""


class Live:
    """Answers requests. Whoever moves model, memory or the times of either holds `lock`.

    Args:
        model: the first one; a snapshot may put another in its place.
        settings: the error memory's.
    """

    def __init__(self, model: Model, settings: MemorySettings) -> None:
        # Requests take it in the event loop, so nobody holds it for long.
        self.lock = threading.Lock()
        self.model = model
        self.base_ingest_ms = 0  # of the newest example in the weights, Unix ms; 0: there is none
        self.memory_ingest_ms = 0  # of the newest one that the memory was shown
        self.coverage = CoverageCounts(model.features)
        self._settings = settings
        self.memory = self.new_memory()

    def new_memory(self) -> ErrorMemory:
        """An error memory that was shown nothing."""
        return make_memory(self._settings, self.model.memory_columns)

    @property
    def freshness_s(self) -> float | None:
        """Age of the newest example in what answers; None: nothing learnt yet."""
        return _age_s(max(self.base_ingest_ms, self.memory_ingest_ms))

    @property
    def base_freshness_s(self) -> float | None:
        """The same for the weights alone."""
        return _age_s(self.base_ingest_ms)

    def score(self, requests: Sequence[Requestlike]) -> list[Scored]:
        """Answer each request, by its base and corrected; changes nothing but the counts of coverage.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
        """
        batch = self.model.encoder.encode(requests)
        with self.lock:
            predicted = self.model.predict(batch)
            base = corrected = predicted.p
            if self.memory.evidence:  # without any, what it is asked comes back as it is
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
        """Answer one request as `score` does, but in an order drawn by Thompson sampling.

        What is drawn is the base; the error memory's correction is added to it. The same seed and the same
        weights give the same order.

        Args:
            draws: by which the propensities are counted, see `learner.model.explore.sample_slate`; fewer
                where there are many candidates, see `draws_for`.

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
        # by far the longest part, and nobody waits for the lock meanwhile
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

    def explain(self, request: Requestlike) -> Taken:
        """Answer one request as `score` does, and say how; changes nothing.

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
        # takes apart what was read: most of the time, and nobody waits for the lock meanwhile
        base = explain(model, request, batch, reading)
        return Taken(
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


def draws_for(candidates: int, wanted: int) -> int:
    """How many draws an order of so many candidates is counted by: those wanted, within `DRAWN_MAX`.

    >>> draws_for(50, 127), draws_for(2_000, 10_000)
    (127, 524)
    """
    return max(1, min(wanted, DRAWN_MAX // max(candidates, 1)))


def _age_s(ingest_ms: int) -> float | None:
    return max(time.time() - ingest_ms / 1e3, 0.0) if ingest_ms else None

"""A scorer whose answers are known, to stand behind a real server."""

import threading
from collections.abc import Sequence

import numpy as np

from learner.entities.store import EntityStore
from learner.features.encoder import Encoder, FeatureSpec
from learner.metrics import Metrics
from learner.settings import LearnerSettings
from serving.replica.coverage import Coverage, FeatureCounts
from serving.replica.explaining import ExplainedCandidate, Explanation, Unknown
from serving.replica.ranking import Ranking
from serving.replica.status import MemoryStatus, ModelStatus, Quality, Scored
from stream.log.lag import Lag
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent
from stream.records.targets import UNDECLARED
from stream.records.types import Action, Exposure, Impression

EVENT = Decoder[Impression | Action | Exposure](Impression, Action, Exposure)


class Known:
    """Scores each candidate by its own number `p`, and corrects by halving."""

    def __init__(self) -> None:
        self.features = {"p": FeatureSpec(kind="number")}
        self.targets = UNDECLARED
        self.by_name: dict[str, Known] = {}
        self.why_not = ""
        self.asked, self.go = threading.Event(), threading.Event()
        self.go.set()  # or it waits with its answers
        self.explored: list[tuple[int, int]] = []

    def score(self, requests: Sequence[Impression], ranking: Ranking | None = None) -> list[Scored]:
        self.asked.set()
        assert self.go.wait(60.0)
        answers = []
        for request in requests:
            base = [float(c.get("p", 0.5)) for c in request.candidates]  # type: ignore[arg-type]
            half = [p / 2 for p in base]
            order = sorted(range(len(base)), key=lambda i: -half[i])
            missing = np.array([["p" not in c] for c in request.candidates])
            coverage = Coverage(["p"], np.zeros_like(missing), missing)
            answers.append(Scored(base, half, order, "1-2", 0.25, coverage=coverage))
        return answers

    def explore(self, request: Impression, seed: int, draws: int, ranking: Ranking | None = None) -> Scored:
        (scored,) = self.score([request])
        self.explored.append((seed, draws))
        return scored._replace(order=scored.order[::-1], propensity=[0.25] * len(scored.base))

    def check_types(self, request: Impression) -> None:
        Encoder(self.features).check_types(request)

    def check_entity(self, event: EntityEvent) -> None:
        EntityStore(self.features, LearnerSettings()).check(event)

    @property
    def attributes(self) -> list[str]:
        return []

    def filled(self, request: Impression) -> Impression:
        return request

    def explain(self, request: Impression, target: int = 0) -> Explanation:
        (scored,) = self.score([request])
        candidates = [
            ExplainedCandidate(p, 0.0, half, 0.0, [], {}, 1.0, 0.0, [Unknown("p", [7])])
            for p, half in zip(scored.base, scored.corrected, strict=True)
        ]
        return Explanation(candidates, scored.order, scored.version, 0.25, None, "residual", 0.5, 5, 0.0)

    def status(self) -> ModelStatus:
        quality = Quality(overall=Metrics().summary(), recent=Metrics().recent())
        return ModelStatus(
            version="1-2", ready=not self.why_not, why_not_ready=self.why_not, frozen=False, held=False,
            freshness_s=0.25,
            base_freshness_s=None, behind_s=0.0, lag=[Lag("updates", 0, 2, 1.5)],
            examples_learnt=3, examples_observed=4, examples_skipped=0,
            examples_bad=0, updates_applied=2, update_gaps=0, features=["p"], table_rows={"p": 7},
            scored_features={"p": FeatureCounts(100, 25, 5)},
            memory=MemoryStatus("residual", 5, 0.1, 100), base=quality, corrected=quality,
        )  # fmt: skip

    def unready(self) -> str:
        return self.why_not

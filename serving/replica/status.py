"""The status of a replica, and the interface that the HTTP routes need."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from learner.features.encoder import FeatureSpec
from learner.metrics import Summary
from serving.replica.coverage import Coverage, FeatureCounts
from serving.replica.explaining import Explanation
from serving.replica.ranking import Ranking
from serving.replica.target_scores import TargetScores
from stream.log.lag import Lag
from stream.records.targets import Targets
from stream.records.types import Impression, ServedTarget


class Scored(NamedTuple):
    """The answer to one request of n candidates."""

    base: list[float]  # (n,) probabilities of the model
    corrected: list[float]  # (n,) after the error memory
    order: list[int]  # (n,) candidates, best corrected probability first
    version: str  # of the model
    freshness_s: float | None  # None: no example yet
    propensity: list[float] | None = None  # (n,) of a drawn order: each candidate's chance of its rank
    coverage: Coverage | None = None  # unknown ids and missing values of the request
    targets: dict[str, TargetScores] | None = None  # of each target, where there are several
    further: dict[str, ServedTarget] | None = None  # for the log, of all but the first


class MemoryStatus(msgspec.Struct, frozen=True):
    """The error memory: `evidence` is the number of its examples that are not in the base."""

    kind: str
    evidence: int
    gate: float  # factor on its correction, 0 to 1
    bytes: int


class NetworkStatus(msgspec.Struct, frozen=True):
    """The class that `learner.deep` names. Where it fails, the fast part answers without it."""

    name: str
    version: str  # of its code
    failures: int  # batches for which it raised, or gave a wrong shape or logits that are not finite
    last_failure: str


class Quality(msgspec.Struct, frozen=True):
    """Progressive metrics of one prediction: over all examples, and over the recent window."""

    overall: Summary
    recent: Summary


class TargetStatus(msgspec.Struct, frozen=True):
    """The metrics of one target, among the candidates that it is learned of."""

    kind: str
    of: str
    base: Quality
    corrected: Quality


class ModelStatus(msgspec.Struct, frozen=True):
    """The current model, its freshness and its metrics."""

    version: str
    ready: bool
    why_not_ready: str
    frozen: bool  # applies no more updates; only its error memory continues
    freshness_s: float | None  # age of the newest example in the weights or the memory, by ingest time
    base_freshness_s: float | None  # the same for the weights alone, without the error memory
    behind_s: float  # time since it was at the end of the log
    lag: list[Lag]  # behind topics examples and updates, by partition
    examples_learnt: int  # labelled candidates in the weights
    examples_observed: int  # decided requests added to the error memory
    examples_skipped: int  # requests already in the weights, or over the backlog limit
    examples_bad: int  # records that could not be read or encoded
    updates_applied: int
    update_gaps: int  # times that updates were missing or damaged, so that a snapshot was needed
    features: list[str]
    table_rows: dict[str, int]
    scored_features: dict[str, FeatureCounts]  # of the candidates scored since the server began
    memory: MemoryStatus
    base: Quality  # of the first target
    corrected: Quality
    network: NetworkStatus | msgspec.UnsetType = msgspec.UNSET  # of the user; absent: it is built in
    targets: dict[str, TargetStatus] | msgspec.UnsetType = msgspec.UNSET  # where there are several

    @property
    def further(self) -> dict[str, TargetStatus]:
        """The targets after the first, in the order of the config; empty where there is one."""
        return dict(list(self.targets.items())[1:]) if self.targets else {}


class Scorer(Protocol):
    """The interface that the HTTP routes need. All methods may be called from any thread."""

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        """The schema of the requests."""

    def check_types(self, request: Impression) -> None:
        """Check a request's ids against the declared types of the features.

        Raises:
            FeatureError: an id is not of its feature's declared type.
        """

    @property
    def targets(self) -> Targets:
        """What is predicted."""

    def score(self, requests: Sequence[Impression], ranking: Ranking | None = None) -> list[Scored]:
        """Score each request, base and corrected, and order it. Changes only the coverage counts.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
            UnavailableError: the model is still loading.
        """

    def explore(self, request: Impression, seed: int, draws: int, ranking: Ranking | None = None) -> Scored:
        """Score one request and draw its order by Thompson sampling; raises as `score` does."""

    def explain(self, request: Impression, target: int = 0) -> Explanation:
        """Score one request and break its scores down; raises as `score` does."""

    def status(self) -> ModelStatus:
        """The state of the replica and its metrics."""

    def unready(self) -> str:
        """Why the replica cannot take requests now; "" if it can."""

"""The status of a replica, and the interface that the HTTP routes need."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import msgspec

from learner.features.spec import FeatureSpec
from learner.metrics import Summary
from serving.replica.coverage import Coverage, FeatureCounts
from serving.replica.example_reader import Seen
from serving.replica.explaining import Explanation
from serving.replica.ranking import Floats, Ranking
from serving.replica.target_scores import TargetScores
from stream.log.lag import Lag
from stream.records.entities.record import EntityEvent
from stream.records.targets import Targets
from stream.records.types import Impression, Served, ServedTarget


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
    model: str = ""  # the name of the one that answered, where there are several
    models: dict[str, ServedTarget] | None = None  # for the log: what each of them predicted

    @property
    def served(self) -> Served:
        """What the impression says of the answer."""
        return Served(
            self.base, self.corrected, self.version, self.further or {}, self.model, self.models or {}
        )


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


class NearestStatus(msgspec.Struct, frozen=True):
    """The index behind POST /v1/nearest."""

    of: str  # the feature of its items
    ready: bool
    why_not_ready: str
    items: int  # with a row in the model: those that can be found
    known: int  # with those that the model does not have (any more)
    entries: int  # distinct values and pairs of the items
    evicted: int  # items that had to make room
    examples_read: int
    examples_bad: int  # requests that could not be read


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
    complete: bool = True  # labels are learned when their window is over, so the metrics see all of them


class DuelStatus(msgspec.Struct, frozen=True):
    """One model compared with another, the first. Differences are the other's minus the first's.

    Intervals are (value, low, high), at 95 %, at any time; None: too little is known.
    """

    first: str
    other: str
    requests: int  # that both predicted
    logloss: tuple[float, float] | None  # of the first and of the other, nats a candidate
    logloss_difference: tuple[float, float, float] | None
    answered: tuple[int, int]  # requests of the first and of the other
    clicks: tuple[float, float] | None  # a request, of what each answered
    clicks_difference: tuple[float, float, float] | None


class GuardStatus(msgspec.Struct, frozen=True):
    """`[server.guard]` of one model."""

    armed: bool  # the model has been better than a constant since it began, or went back
    excess: float | None  # log loss over the best constant's, or over that of `against`; None: too few
    rollbacks: int  # ordered by this server


class ShownStatus(msgspec.Struct, frozen=True):
    """Which items were shown lately, of the newest candidates that were; None: not known (yet)."""

    of: str  # the feature whose ids are the items
    candidates: int  # behind these numbers, up to 100,000
    items: int  # different ones among them
    gini: float | None  # of how often each of them was shown: 0 if all alike
    young: float | None  # share whose item was first shown less than a day before, from the second day on
    coverage: float | None  # those items over all with a row in the model


class HeldModel(msgspec.Struct, frozen=True):
    """One of several models of a server, and its metrics over all requests, whoever answered them."""

    share: float  # of the entities that it answers
    ready: bool
    why_not_ready: str
    version: str
    freshness_s: float | None
    examples_learnt: int
    answered: int  # requests, since the server began
    failed: int  # requests that another one answered, and that it could not score
    base: Quality  # of the first target
    corrected: Quality
    held: bool
    guard: GuardStatus | msgspec.UnsetType
    duel: DuelStatus | None  # with the model of the largest share, since the server began or shares changed


class ModelStatus(msgspec.Struct, frozen=True):
    """The current model, its freshness and its metrics."""

    version: str
    ready: bool
    why_not_ready: str
    frozen: bool  # applies no more updates; only its error memory continues
    held: bool  # since the model went back nothing is learned, by nobody, until `freshet resume`
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
    # by target, the share of the model beside the running rate: 1 until it has lost to that by a margin
    trust: dict[str, float] = {}
    network: NetworkStatus | msgspec.UnsetType = msgspec.UNSET  # of the user; absent: it is built in
    targets: dict[str, TargetStatus] | msgspec.UnsetType = msgspec.UNSET  # where there are several
    guard: GuardStatus | msgspec.UnsetType = msgspec.UNSET  # where it is enabled
    # Where there are several models; all above is then of the one with the largest share.
    models: dict[str, HeldModel] | msgspec.UnsetType = msgspec.UNSET
    shares_from: int | msgspec.UnsetType = msgspec.UNSET  # offset in topic `models`; -1: from the config

    shown: ShownStatus | msgspec.UnsetType = msgspec.UNSET  # absent: no request had several items yet
    nearest: NearestStatus | msgspec.UnsetType = msgspec.UNSET  # absent: the server has no index

    @property
    def further(self) -> dict[str, TargetStatus]:
        """The targets after the first, in the order of the config; empty where there is one."""
        return dict(list(self.targets.items())[1:]) if self.targets else {}

    @property
    def several(self) -> dict[str, HeldModel]:
        """The models of the server, where there are several."""
        return self.models or {}


class Watcher(Protocol):
    """What a replica needs of a guard."""

    def add(self, seen: Sequence[Seen], own: Floats, y: Floats, weight: Floats, shift: Floats) -> None:
        """Add examples of the first target: see `serving.models.guard.Guard.add`."""

    def status(self) -> GuardStatus:
        """Its state."""


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

    def check_entity(self, event: EntityEvent) -> None:
        """Check what is told of an entity against the schema.

        Raises:
            FeatureError: its feature has no attributes, or a value is not of its attribute's kind.
        """

    def filled(self, request: Impression) -> Impression:
        """A request with the attributes of its entities that it lacks, as of its time."""

    @property
    def attributes(self) -> list[str]:
        """The values that `filled` adds, sorted by name."""

    @property
    def targets(self) -> Targets:
        """What is predicted."""

    @property
    def by_name(self) -> "Mapping[str, Scorer]":
        """Each of several models by its name; empty: there is one."""

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


class RunningScorer(Scorer, Protocol):
    """A scorer that follows a log in threads of its own, inside a `with`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def failure(self) -> BaseException | None:
        """The error that ended one of its threads; None: they run."""

    def check(self) -> None:
        """Raise the error that ended one of its threads, if there is one."""

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until it can take requests; False after a timeout or a failure."""

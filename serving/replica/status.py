"""What a replica tells of itself, and what the HTTP routes ask of one."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from learner.features.encoder import FeatureSpec
from learner.metrics import Summary
from serving.replica.coverage import Coverage, FeatureCounts
from serving.replica.explaining import Taken
from stream.log.lag import Lag
from stream.records.types import Impression


class Scored(NamedTuple):
    """The answer to one request of n candidates."""

    base: list[float]  # (n,) probabilities of the model
    corrected: list[float]  # (n,) after the error memory
    order: list[int]  # (n,) candidates, best corrected probability first
    version: str  # of the model
    freshness_s: float | None  # None: nothing learnt yet
    propensity: list[float] | None = None  # (n,) of an order that was drawn: to come where it came
    coverage: Coverage | None = None  # what the model knows of the request


class MemoryStatus(msgspec.Struct, frozen=True):
    """The error memory: `evidence` is how many observed examples it stands on that the base lacks."""

    kind: str
    evidence: int
    gate: float  # share of its correction that is applied, 0 to 1
    bytes: int


class Quality(msgspec.Struct, frozen=True):
    """Progressive metrics of one prediction: over everything seen, and over the recent window."""

    overall: Summary
    recent: Summary


class ModelStatus(msgspec.Struct, frozen=True):
    """The model that answers, how fresh it is, and how well it has done."""

    version: str
    ready: bool
    why_not_ready: str
    frozen: bool  # follows no updates any more; only its error memory goes on
    freshness_s: float | None  # now - ingest time of the newest example in what answers
    base_freshness_s: float | None  # the same for the weights alone, without the error memory
    behind_s: float  # for how long it has not been at the end of the log
    lag: list[Lag]  # behind topics examples and updates, by partition
    examples_learnt: int  # candidates with their labels in the weights
    examples_observed: int  # decided requests that the error memory was shown
    examples_skipped: int  # those that the weights had learnt first, or beyond the backlog's limit
    examples_bad: int  # those that could not be read or encoded
    updates_applied: int
    update_gaps: int  # how often updates were missing or damaged, and a snapshot had to come
    features: list[str]
    table_rows: dict[str, int]
    scored_features: dict[str, FeatureCounts]  # of the candidates scored since the server began
    memory: MemoryStatus
    base: Quality
    corrected: Quality


class Scorer(Protocol):
    """What the HTTP routes ask of a replica. All methods may be called from any thread."""

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        """The schema of what it scores."""

    def check_types(self, request: Impression) -> None:
        """Check a request's ids against the declared types of the features.

        Raises:
            FeatureError: an id is not of its feature's declared type.
        """

    def score(self, requests: Sequence[Impression]) -> list[Scored]:
        """Answer each request, by its base and corrected; changes nothing.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
            UnavailableError: the model is still loading.
        """

    def explore(self, request: Impression, seed: int, draws: int) -> Scored:
        """`score` for one request, its order drawn from what the model believes; raises as `score` does."""

    def explain(self, request: Impression) -> Taken:
        """The same for one request, taken apart; raises as `score` does."""

    def status(self) -> ModelStatus:
        """What it is and how it does."""

    def unready(self) -> str:
        """Why it should not be sent requests now; "" if it should."""

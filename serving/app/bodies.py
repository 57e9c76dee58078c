"""The request and response bodies of the server's own routes, and how requests are decoded."""

import os
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from ground import UNDECODABLE
from serving.errors import RequestError, TooLargeError
from serving.nearest.settings import SCORED_MAX
from serving.replica.coverage import Unknowns
from serving.replica.explaining import ExplainedCandidate
from serving.replica.target_scores import TargetScores
from stream.limits import CANDIDATES_MAX, SCHEMA_VERSION
from stream.records.bounds import (
    BoundedRequestId,
    BoundedTime,
    BoundedVersion,
    Int64,
    bounded_candidates,
    bounded_features,
)
from stream.records.decoding import AnyFeatures, split_batch
from stream.records.entities.record import AnyEvent, Attributes, EntityId, FeatureName, Since
from stream.records.types import (
    CandidateNumber,
    Candidates,
    Context,
    EventTime,
    Examined,
    Features,
    Id,
    Label,
    Number,
    RequestId,
    Shown,
    Text,
)

Show = Annotated[int, msgspec.Meta(ge=0, le=CANDIDATES_MAX)]
EXCLUDE_MAX = 10_000
Explore = Literal["greedy", "thompson"]

T = TypeVar("T")

EventList = Annotated[list[AnyEvent], msgspec.Meta(extra_json_schema={"minItems": 1})]


class Rank(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By what one request orders its candidates: arithmetic over targets and the candidates' numbers."""

    by: str


class ScoreRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/score. `time` is event time in Unix seconds; the default is now.

    `log` false: this request is not appended to `events`, so the model is not trained on it. `explore`
    says how candidates are ordered; the default is the configured order. `unknown` true: the answer lists
    the ids without a row in the model and the features without a value. `show` says how many of the order
    will be shown: the model is trained on no others. 0: all; the default is `[server] show`. `rank` says by
    what candidates are ordered; the default is `[rank]`. `target` names what /v1/explain explains; the
    default is the first target.
    """

    candidates: Candidates
    context: Context = {}
    time: EventTime | None = None
    request_id: RequestId | None = None
    log: bool = True
    explore: Explore | None = None
    unknown: bool = False
    show: Show | None = None
    rank: Rank | None = None
    target: str = ""


_features: Any = bounded_features(Int64, float)  # JSON has no NaN and no infinity
_candidates: Any = bounded_candidates(_features)


class BoundedScoreRequest(ScoreRequest, frozen=True, forbid_unknown_fields=True):
    """A `ScoreRequest` that needs no `stream.records.decoding.check`: the decoder checks every limit.

    This decoder is much faster, but its messages are less exact, and it refuses some valid requests: decode
    a refused body again as `AnyScoreRequest`.
    """

    candidates: _candidates
    context: _features = {}
    time: BoundedTime | None = None
    request_id: BoundedRequestId | None = None


class AnyScoreRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `ScoreRequest` with features of any type: declared features are checked after decoding."""

    candidates: list[AnyFeatures]
    context: AnyFeatures = {}
    time: float | None = None
    request_id: str | None = None
    log: bool = True
    explore: Explore | None = None
    unknown: bool = False
    show: Show | None = None
    rank: Rank | None = None
    target: str = ""


class ScoreAnswer(msgspec.Struct, frozen=True):
    """Response of POST /v1/score; lists have one entry per candidate, in the order of the request.

    `logged` false: the impression may not be in the log (logging was off, or the log did not respond).
    """

    request_id: str
    prediction_id: str
    model_version: str
    base: list[float]
    corrected: list[float]
    order: list[int]  # candidate numbers, in the order to show them
    explore: Explore  # greedy: by corrected probability or `rank`; thompson: drawn
    propensity: list[float] | None  # of a drawn order: each candidate's chance of its rank
    freshness_s: float | None  # None: no example yet
    logged: bool
    shown: list[int] | msgspec.UnsetType = msgspec.UNSET  # the first of `order`, as logged; with `show` only
    unknown: Unknowns | msgspec.UnsetType = msgspec.UNSET  # present if the request asked for it
    targets: dict[str, TargetScores] | msgspec.UnsetType = msgspec.UNSET  # of each, if several are declared
    model: str | msgspec.UnsetType = msgspec.UNSET  # the name of the one that answered, if there are several


class NearestRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/nearest: a context, and how many of the best items are wanted.

    `exclude` lists ids that are not wanted. `feature` names the feature of the items; the default is that of
    the server's index. `explain` true: the answer breaks the scores down, as /v1/explain does. `log` true:
    the items are appended to `events` as an impression, in their order, so the model learns what became of
    them; send it if the answer is shown as it is. `show`, `rank` and `time` are those of /v1/score.
    """

    context: Context = {}
    k: Annotated[int, msgspec.Meta(ge=1, le=SCORED_MAX)] = 10
    exclude: Annotated[list[Id | Text], msgspec.Meta(max_length=EXCLUDE_MAX)] = []
    time: EventTime | None = None
    request_id: RequestId | None = None
    log: bool = False
    show: Show | None = None
    rank: Rank | None = None
    feature: str = ""
    explain: bool = False


class AnyNearestRequest(NearestRequest, frozen=True, forbid_unknown_fields=True):
    """A `NearestRequest` with features of any type: declared features are checked after decoding."""

    context: AnyFeatures = {}


class NearestAnswer(msgspec.Struct, frozen=True):
    """Response of POST /v1/nearest; lists have one entry per item, best first.

    There are fewer items than were asked for if the index has no more.
    """

    request_id: str
    prediction_id: str
    model_version: str
    items: list[Id | Text]
    candidates: list[Features]  # the items' features, as /v1/score takes them
    base: list[float]
    corrected: list[float]
    scored: int  # items that the whole model scored
    freshness_s: float | None  # None: no example yet
    logged: bool
    shown: list[int] | msgspec.UnsetType = msgspec.UNSET
    targets: dict[str, TargetScores] | msgspec.UnsetType = msgspec.UNSET
    explained: list[ExplainedCandidate] | msgspec.UnsetType = msgspec.UNSET  # if the request asked for it


class FeedbackRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/feedback: what the person did with candidate number `candidate`, or was shown.

    `shown` and `examined` say which candidates were shown and how many of them were examined; they may come
    with a candidate or without. At least one of the three is needed. `name` says of which target the action
    is, where targets are declared, and `value` how much, if that is a value.
    """

    request_id: RequestId
    candidate: CandidateNumber | None = None
    label: Label = 1.0
    time: EventTime | None = None
    name: str = "click"
    shown: Shown = None
    examined: Examined = None
    value: Number | None = None


class PlaceAnswer(msgspec.Struct, frozen=True):
    """The partition and offset of the durable record in topic `events`."""

    partition: int
    offset: int


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result for one record: its partition and offset, or why it was rejected."""

    partition: int | None = None
    offset: int | None = None
    error: str | None = None


class EventsAnswer(msgspec.Struct, frozen=True):
    """Response of POST /v1/events: one verdict per record, in the order of the request."""

    accepted: int
    rejected: int
    untold: int  # rejected records without an error of their own in the list
    records: list[Verdict]


class EntityRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry in the body of POST /v1/entities: what is true of one entity from `time` on, by default now.

    `set` has its attributes by name; null takes one away, and those that are not named stay.
    """

    feature: FeatureName
    id: EntityId
    set: Attributes
    time: Since | None = None
    type: Literal["entity"] = "entity"
    v: BoundedVersion = SCHEMA_VERSION


EntityList = Annotated[list[EntityRequest], msgspec.Meta(extra_json_schema={"minItems": 1})]


class ForgetRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/forget: the ids to delete, by feature."""

    entity: dict[str, list[Id | Text]]


class ForgetAnswer(msgspec.Struct, frozen=True):
    """The request is in the log, one record per partition. Every role applies it at that offset."""

    forget_id: str
    refused_until: float | None  # event time, Unix seconds; None: later records with these ids are accepted
    records: list[PlaceAnswer]


class LiveAnswer(msgspec.Struct, frozen=True):
    """The process responds."""

    live: bool


class ReadyAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the server can take requests, and if not, why."""

    ready: bool
    error: str | None = None


EVENTS_MAX = 20_000
"""Limit of records in one body. No valid event is shorter than 50 bytes, so 1 MiB holds about as many."""

_array = msgspec.json.Decoder(list[msgspec.Raw])


def new_id() -> str:
    """The id of a request that has none of its own."""
    return os.urandom(16).hex()


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a body into its type.

    Raises:
        RequestError: the body is not JSON, or does not match the type.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise RequestError(f"the body does not fit: {error}") from None
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None
    except UNDECODABLE as error:
        raise RequestError(f"the body is not JSON: {error}") from None


def split_body(body: bytes) -> list[bytes]:
    """Split a body into its records: a JSON array, one record per line, or a single record.

    Raises:
        FreshetError: the array is malformed or over its limits.
        TooLargeError: the body has more than `EVENTS_MAX` records.
    """
    stripped = body.strip()
    if stripped[:1] == b"[":
        parts = decode_body(_array, stripped)
        _check_count(len(parts))
        return [bytes(raw) for raw in parts]
    if stripped[:1] != b"{":
        # MessagePack: a newline byte does not separate records
        return split_batch(body) if stripped else []
    try:
        msgspec.json.decode(stripped, type=msgspec.Raw)
    except UNDECODABLE:
        lines = [line for line in stripped.splitlines() if line.strip()]
        _check_count(len(lines))
        return lines
    return [stripped]


def _check_count(records: int) -> None:
    if records > EVENTS_MAX:
        raise TooLargeError(
            f"the body holds {records:,} records, over the limit of {EVENTS_MAX:,}; send fewer at once"
        )

"""The bodies of the server's own routes: what is asked, what is answered, and how bytes become either."""

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from serving.errors import RequestError, TooLargeError
from serving.replica.coverage import Unknowns
from stream.records.bounds import BoundedRequestId, BoundedTime, Int64, bounded_candidates, bounded_features
from stream.records.decoding import AnyFeatures, split_batch
from stream.records.types import (
    Action,
    CandidateNumber,
    Candidates,
    Context,
    EventTime,
    Id,
    Impression,
    Label,
    RequestId,
    Text,
)

Explore = Literal["greedy", "thompson"]

T = TypeVar("T")

Batch = Annotated[list[Impression | Action], msgspec.Meta(extra_json_schema={"minItems": 1})]


class ScoreRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/score. `time` is event time in Unix seconds, now if it is not given.

    `log` false: this request is not appended to `events`, so nothing will be learnt from it. `explore`
    says how candidates are ordered, as configured if it is not given. `unknown` true: the answer says which
    ids have no row in the model and which features have no value.
    """

    candidates: Candidates
    context: Context = {}
    time: EventTime | None = None
    request_id: RequestId | None = None
    log: bool = True
    explore: Explore | None = None
    unknown: bool = False


_features: Any = bounded_features(Int64, float)  # JSON has no NaN and no infinity
_candidates: Any = bounded_candidates(_features)


class BoundedScoreRequest(ScoreRequest, frozen=True, forbid_unknown_fields=True):
    """A `ScoreRequest` that needs no `stream.records.decoding.check`: the decoder has held it to every limit.

    It is much quicker at that, and not as good at saying what is wrong: what it does not take may be good.
    """

    candidates: _candidates
    context: _features = {}
    time: BoundedTime | None = None
    request_id: BoundedRequestId | None = None


class AnyScoreRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `ScoreRequest` whose features are of any types: what is declared is checked after decoding."""

    candidates: list[AnyFeatures]
    context: AnyFeatures = {}
    time: float | None = None
    request_id: str | None = None
    log: bool = True
    explore: Explore | None = None
    unknown: bool = False


class ScoreAnswer(msgspec.Struct, frozen=True):
    """Answer of POST /v1/score: per candidate, in the order of the request.

    `logged` false: the impression is not known to be in the log (by wish, or the log did not answer).
    """

    request_id: str
    prediction_id: str
    model_version: str
    base: list[float]
    corrected: list[float]
    order: list[int]  # candidates, the one to show first first
    explore: Explore  # greedy: by corrected probability; thompson: drawn
    propensity: list[float] | None  # of an order that was drawn: each candidate's, to come where it came
    freshness_s: float | None  # None: nothing learnt yet
    logged: bool
    unknown: Unknowns | msgspec.UnsetType = msgspec.UNSET  # where the request asked for it


class FeedbackRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/feedback: what the person did with candidate number `candidate`."""

    request_id: RequestId
    candidate: CandidateNumber
    label: Label = 1.0
    time: EventTime | None = None
    name: str = "click"


class PlaceAnswer(msgspec.Struct, frozen=True):
    """Where in topic `events` the record is, durably."""

    partition: int
    offset: int


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one record: where it is, or why it was not taken."""

    partition: int | None = None
    offset: int | None = None
    error: str | None = None


class EventsAnswer(msgspec.Struct, frozen=True):
    """Answer of POST /v1/events: one verdict per record, in their order."""

    accepted: int
    rejected: int
    untold: int  # rejected records whose own error is left out
    records: list[Verdict]


class ForgetRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/forget: the ids of what is to be forgotten, by feature."""

    entity: dict[str, list[Id | Text]]


class ForgetAnswer(msgspec.Struct, frozen=True):
    """The log has the request: every role will follow it where it stands, one record a partition."""

    forget_id: str
    refused_until: float | None  # event time, Unix seconds; None: what comes later is taken as ever
    records: list[PlaceAnswer]


class LiveAnswer(msgspec.Struct, frozen=True):
    """The process answers."""

    live: bool


class ReadyAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the server should be sent requests, and why not."""

    ready: bool
    error: str | None = None


EVENTS_MAX = 20_000
"""Records of one body. No event is shorter than 50 bytes: a body of 1 MiB with more has bad ones."""

_array = msgspec.json.Decoder(list[msgspec.Raw])


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """A body as its type.

    Raises:
        RequestError: it is not JSON, or does not fit.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise RequestError(f"the body does not fit: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None


def split_body(body: bytes) -> list[bytes]:
    """The records of a body: of an array, of lines, or the one that it is.

    Raises:
        FreshetError: an array is malformed, or over its limits.
        TooLargeError: there are more than `EVENTS_MAX`.
    """
    stripped = body.strip()
    if stripped[:1] == b"[":
        parts = decode_body(_array, stripped)
        _check_count(len(parts))
        return [bytes(raw) for raw in parts]
    if stripped[:1] != b"{":
        # MessagePack, where a newline is a byte like any other
        return split_batch(body) if stripped else []
    try:
        msgspec.json.decode(stripped, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        lines = [line for line in stripped.splitlines() if line.strip()]
        _check_count(len(lines))
        return lines
    return [stripped]


def _check_count(records: int) -> None:
    if records > EVENTS_MAX:
        raise TooLargeError(
            f"the body holds {records:,} records, over the limit of {EVENTS_MAX:,}; send fewer at once"
        )

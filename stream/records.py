"""The records that travel in the log, and how bytes become them.

Two kinds arrive on topic `events`, both keyed by `request_id` so that they meet in one partition:
an `Impression` (one request: who, in which context, the candidates shown) and an `Action` (what the
person did with one of them). The joiner makes them into an `Example`, on topic `examples`. A third, a
`Forget`, comes from the server or the command line, never from producers.

JSON and MessagePack are both accepted; a record's first byte tells which. Decoding is strict: no text
where a number belongs, no NaN, no infinity, no time outside of the years that make sense. A producer may
send many events of one partition as one message, an array of them: a batch, which costs a fraction of as
many messages.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from stream.errors import RecordError

SCHEMA_VERSION = 1

RECORD_BYTES_MAX = 1 << 20
BATCH_EVENTS_MAX = 10_000
CANDIDATES_MAX = 2_000
FEATURES_MAX = 256
VALUES_MAX = 1_024  # of one list feature
TEXT_MAX = 1_024  # characters of one string id
REQUEST_ID_MAX = 128
FORGET_IDS_MAX = 100  # of one request to forget: a learner looks for the pairs of each
REFUSE_S_MAX = 10 * 366 * 86_400.0
_ID_MIN, _ID_END = -(1 << 63), 1 << 64
TIME_MIN_S = 0.0  # 1970: what is before is a broken clock or a missing unit
TIME_MAX_S = 4_102_444_800.0  # 2100: what is after is most often milliseconds


def _field(text: str, kind: dict[str, Any] | None = None) -> msgspec.Meta:
    """What the JSON Schema of a field says beside its type. `check` enforces it, with better messages."""
    return msgspec.Meta(description=text, extra_json_schema=kind or {})


Label = Annotated[float, msgspec.Meta(extra_json_schema={"enum": [0, 1]})]
Probability = Annotated[float, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": 1})]
Id = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": -(1 << 63), "maximum": (1 << 64) - 1})]
Text = Annotated[str, msgspec.Meta(extra_json_schema={"maxLength": TEXT_MAX})]
Ids = Annotated[list[Id | Text], msgspec.Meta(extra_json_schema={"maxItems": VALUES_MAX})]

Value = Id | float | Text | Ids
"""One feature's value: an id (int or str), a number, or a list of ids."""

Features = Annotated[dict[str, Value], msgspec.Meta(extra_json_schema={"maxProperties": FEATURES_MAX})]
"""The features of a request or of one candidate, by name."""

RequestId = Annotated[
    str,
    _field(
        "Names the request. The record's key in the log too, so that an impression and its actions "
        "meet in one partition. Sent again under the same id, an impression counts once.",
        {"minLength": 1, "maxLength": REQUEST_ID_MAX},
    ),
]
EventTime = Annotated[
    float,
    _field(
        "Event time: Unix seconds, fractions allowed. Milliseconds are refused.",
        {"minimum": TIME_MIN_S, "maximum": TIME_MAX_S},
    ),
]
Candidates = Annotated[
    list[Features],
    _field(
        "What was shown, in its order: each candidate's own features.",
        {"minItems": 1, "maxItems": CANDIDATES_MAX},
    ),
]
Context = Annotated[Features, _field("Features that all candidates share: who, on which device.")]
Version = Annotated[int, _field("Version of this schema.", {"const": SCHEMA_VERSION})]
Place = Annotated[
    list[Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": CANDIDATES_MAX - 1})]]
    | None,
    _field(
        "One per candidate, each another: where it was shown, 0 for the first. Not given: in the order of "
        "`candidates`.",
        {"uniqueItems": True},
    ),
]
Propensity = Annotated[
    list[Annotated[float, msgspec.Meta(extra_json_schema={"exclusiveMinimum": 0, "maximum": 1})]] | None,
    _field(
        "One per candidate, only if the order was drawn at random: the probability with which who drew it "
        "puts this candidate where it was shown.",
    ),
]


CandidateNumber = Annotated[
    int,
    _field(
        "Which of the impression's candidates, counted from 0.",
        {"minimum": 0, "maximum": CANDIDATES_MAX - 1},
    ),
]


class Served(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What was answered for a request: one probability per candidate, before and after correction."""

    base: Annotated[list[Probability], _field("One per candidate, by the model.")]
    corrected: Annotated[list[Probability], _field("The same, after the error memory.")]
    model: Annotated[str, _field("Which model answered, for people.")] = ""

    def picked(self, candidates: Sequence[int]) -> "Served":
        """The same for some of the candidates."""
        return Served([self.base[i] for i in candidates], [self.corrected[i] for i in candidates], self.model)


class Impression(msgspec.Struct, frozen=True, tag="impression", omit_defaults=True, gc=False):
    """One request and what was shown.

    `time` is event time in Unix seconds. `context` holds the features that all candidates share
    (user, device), `candidates` each one's own. `labels`, one per candidate, is there only when
    they are already known (a rating, a log file): then the request needs no wait. `place` and
    `propensity`, one per candidate, say how an order that was drawn at random came about.
    """

    request_id: RequestId
    time: EventTime
    candidates: Candidates
    context: Context = {}
    served: Annotated[Served | None, _field("What was answered, if Freshet was asked.")] = None
    labels: Annotated[
        list[Label] | None,
        _field("One per candidate, only if they are known already: then the request does not wait."),
    ] = None
    place: Place = None
    propensity: Propensity = None
    v: Version = SCHEMA_VERSION


class Action(msgspec.Struct, frozen=True, tag="action", omit_defaults=True, gc=False):
    """What a person did with one candidate of a request: `label` 1 for a click, 0 to take it back."""

    request_id: RequestId
    time: EventTime
    candidate: CandidateNumber
    label: Annotated[Label, _field("1 for a click (or whatever counts), 0 to take it back.")] = 1.0
    name: Annotated[str, _field("What the person did, for people.")] = "click"
    v: Version = SCHEMA_VERSION


class Example(msgspec.Struct, frozen=True, tag="example", omit_defaults=True, gc=False):
    """One decided request: its candidates and their labels (0 or 1); predicted whole before any is learnt.

    `time` is the impression's event time, `decided` the event time at which its labels were final.
    `log_odds` is ln r when negatives were kept at rate r, else 0: a model of the thinned stream is
    off by it, so the learner adds -log_odds to the logit while it learns and nothing when it serves.
    """

    request_id: RequestId
    time: EventTime
    decided: Annotated[
        float,
        _field("Event time at which the labels were final.", {"minimum": TIME_MIN_S, "maximum": TIME_MAX_S}),
    ]
    candidates: Candidates
    labels: Annotated[list[Label], _field("One per candidate.")]
    context: Context = {}
    served: Annotated[Served | None, _field("What was answered, if Freshet was asked.")] = None
    log_odds: Annotated[float, _field("ln r when negatives were kept at rate r.")] = 0.0
    late: Annotated[bool, _field("Learnt although its request was decided before.")] = False
    place: Place = None
    propensity: Propensity = None
    v: Version = SCHEMA_VERSION


class Forget(msgspec.Struct, frozen=True, tag="forget", omit_defaults=True):
    """Ids that are to be forgotten, with what the system holds of them, by feature.

    It goes into every partition of `events`, and the joiner passes it on where it stands: so whatever
    came before it in a partition is forgotten, on every machine at the same place.
    """

    forget_id: Annotated[
        str,
        _field("Names this request to forget.", {"minLength": 1, "maxLength": REQUEST_ID_MAX}),
    ]
    time: Annotated[
        float,
        _field("When it was asked for, Unix seconds.", {"minimum": TIME_MIN_S, "maximum": TIME_MAX_S}),
    ]
    entity: Annotated[
        dict[str, list[Id | Text]],
        _field(f"The ids, by feature; 1 to {FORGET_IDS_MAX} in all.", {"minProperties": 1}),
    ]
    refuse_s: Annotated[
        float,
        _field(
            "For so long after `time`, in event time, whatever names these ids is left out.",
            {"minimum": 0, "maximum": REFUSE_S_MAX},
        ),
    ] = 0.0
    v: Version = SCHEMA_VERSION


class DeadLetter(msgspec.Struct, frozen=True, tag="dead_letter"):
    """A record that could not be used: its original bytes, why, and where it came from."""

    reason: Annotated[str, _field("Why it could not be used, for people.")]
    stage: Annotated[str, _field("The role that could not use it.")]
    topic: Annotated[str, _field("Where it lies: the topic,")]
    partition: Annotated[int, _field("the partition")]
    offset: Annotated[int, _field("and the offset.")]
    original: Annotated[bytes, _field("Its bytes, as they came.")]
    key: Annotated[bytes, _field("Its key.")] = b""
    v: Version = SCHEMA_VERSION


class Retry(msgspec.Struct, frozen=True, tag="retry"):
    """Dead letters sent again to where they came from: noted before, and noted as done after."""

    id: Annotated[str, _field("Names this retry; its records are sent as by producer `retry-ID`.")]
    letters: Annotated[list[int], _field("Offsets of the letters, in topic `dead_letters`.")]
    done: Annotated[bool, _field("Whether all are sent.")]
    again: Annotated[bool, _field("Whether letters that were sent again before are sent once more.")] = False
    v: Version = SCHEMA_VERSION


Event = Impression | Action
"""What producers send."""

T = TypeVar("T")

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()
_canonical = msgspec.msgpack.Encoder(order="deterministic")
_json_parts = msgspec.json.Decoder(list[msgspec.Raw])
_msgpack_parts = msgspec.msgpack.Decoder(list[msgspec.Raw])


def picked(values: list[T] | None, candidates: Sequence[int]) -> list[T] | None:
    """What is said of some of a request's candidates, where it is said of each."""
    return None if values is None else [values[i] for i in candidates]


def encode(record: msgspec.Struct) -> bytes:
    """A record as MessagePack, the form in which roles write."""
    return _msgpack.encode(record)


def canonical(record: msgspec.Struct) -> bytes:
    """A record as bytes that equal records share, for hashes.

    They depend neither on the order in which features are named, nor on whether a default was written out.
    """
    return _canonical.encode(msgspec.structs.astuple(record))


def encode_json(record: msgspec.Struct) -> bytes:
    """A record as one line of JSON, for people and other languages."""
    return _json.encode(record)


def join_batch(events: Sequence[bytes]) -> bytes:
    """Events that are MessagePack already as one message, a batch: an array of them.

    All go into one partition: that of every one of their keys.

    >>> split_batch(join_batch([encode(Action("r", 1e9, 0)), encode(Action("s", 1e9, 1))]))[1] == encode(
    ...     Action("s", 1e9, 1)
    ... )
    True
    """
    count = len(events)
    if count < 16:
        head = bytes([0x90 | count])
    elif count < 1 << 16:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return head + b"".join(events)


_MAP_STARTS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_BATCH_STARTS = frozenset((ord("["), *range(0x90, 0xA0), 0xDC, 0xDD))


def is_msgpack(data: bytes) -> bool:
    """Whether a record is MessagePack, and not JSON."""
    return bool(data) and data[0] in _MAP_STARTS


def is_batch(data: bytes) -> bool:
    """Whether a message is a batch, good or not: `split_batch` tells."""
    return bool(data) and data[0] in _BATCH_STARTS


def split_batch(data: bytes) -> list[bytes]:
    """The events of a batch, a JSON or MessagePack array; of any other message, the message itself.

    Raises:
        RecordError: the batch is malformed, empty or too large.
    """
    if not is_batch(data):
        return [data]
    first = data[:1]
    if len(data) > RECORD_BYTES_MAX:
        raise RecordError(f"the batch has {len(data):,} bytes, more than the {RECORD_BYTES_MAX:,} allowed")
    try:
        parts = (_json_parts if first == b"[" else _msgpack_parts).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"the batch is neither a JSON nor a MessagePack array: {error}") from None
    if not 1 <= len(parts) <= BATCH_EVENTS_MAX:
        raise RecordError(f"the batch has {len(parts):,} events; expected 1 to {BATCH_EVENTS_MAX:,}")
    return [bytes(part) for part in parts]


class Decoder:
    """Bytes to checked records of the given types.

    >>> Decoder(Action).decode(b'{"type":"action","request_id":"r","time":1e9,"candidate":0}').candidate
    0
    """

    def __init__(self, *types: type[msgspec.Struct], bytes_max: int = RECORD_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        union: Any = types[0]
        for kind in types[1:]:
            union = union | kind
        self._json = msgspec.json.Decoder(union)
        self._msgpack = msgspec.msgpack.Decoder(union)

    def decode(self, data: bytes) -> Any:
        """Decode and check one record.

        Raises:
            RecordError: it is too large, malformed, of another type or version, or a value is out of range.
        """
        if len(data) > self._bytes_max:
            raise RecordError(
                f"the record has {len(data):,} bytes, more than the {RECORD_BYTES_MAX:,} allowed"
            )
        if not data:
            raise RecordError("the record is empty")
        try:
            record = self.decode_again(data)
        except msgspec.ValidationError as error:
            raise RecordError(f"the record does not fit its type: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RecordError(f"the record is neither JSON nor MessagePack: {error}") from None
        except RecursionError:
            raise RecordError("the record is nested too deeply") from None
        check(record)
        return record

    def decode_again(self, data: bytes) -> Any:
        """Decode what `decode` has taken before."""
        return (self._msgpack if is_msgpack(data) else self._json).decode(data)


def check(record: Any) -> None:
    """Check what types cannot say: version, ranges, finite numbers, lengths that must agree.

    Raises:
        RecordError: naming the field and what was expected.
    """
    if record.v != SCHEMA_VERSION:
        raise RecordError(
            f"schema version {record.v} is unknown; this Freshet reads version {SCHEMA_VERSION}"
        )
    kind = type(record)
    if kind is DeadLetter or kind is Retry:
        return
    if kind is Forget:
        _check_forget(record)
        return
    if not 0 < len(record.request_id) <= REQUEST_ID_MAX:
        raise RecordError(f"request_id must have 1 to {REQUEST_ID_MAX} characters")
    if not TIME_MIN_S <= record.time <= TIME_MAX_S:
        raise _no_time("time", record.time)
    if isinstance(record, Action):
        if not 0 <= record.candidate < CANDIDATES_MAX:
            raise RecordError(f"candidate is {record.candidate}; expected 0 to {CANDIDATES_MAX - 1}")
        _check_label("label", record.label)
    else:
        _check_request(record)


def _check_forget(record: Forget) -> None:
    if not 0 < len(record.forget_id) <= REQUEST_ID_MAX:
        raise RecordError(f"forget_id must have 1 to {REQUEST_ID_MAX} characters")
    if not TIME_MIN_S <= record.time <= TIME_MAX_S:
        raise _no_time("time", record.time)
    ids = [len(found) for found in record.entity.values()]
    if not ids or min(ids) < 1 or sum(ids) > FORGET_IDS_MAX:
        raise RecordError(
            f"entity names {sum(ids)} ids of {len(ids)} features; expected 1 to {FORGET_IDS_MAX}, and of "
            "each feature at least one"
        )
    for name, found in record.entity.items():
        check_features("entity", {name: found})
    if not 0.0 <= record.refuse_s <= REFUSE_S_MAX:
        raise RecordError(f"refuse_s is {record.refuse_s}; expected 0 to {REFUSE_S_MAX:.0f} seconds")


def _check_request(record: Impression | Example) -> None:
    n = len(record.candidates)
    if not 1 <= n <= CANDIDATES_MAX:
        raise RecordError(f"candidates has {n} entries; expected 1 to {CANDIDATES_MAX}")
    # Every value of a stream comes by here: one call for all of a record's, and names only if need be.
    if not _fit(record.candidates) or not _fit((record.context,)):
        check_features("context", record.context)
        for i, features in enumerate(record.candidates):
            check_features(f"candidates[{i}]", features)
    check_lists(record)
    if isinstance(record, Example):
        if not TIME_MIN_S <= record.decided <= TIME_MAX_S:
            raise _no_time("decided", record.decided)
        if not math.isfinite(record.log_odds):
            raise RecordError("log_odds is not a finite number")


def check_lists(record: Impression | Example) -> None:
    """Check what is said of each candidate beside its features.

    Raises:
        RecordError: naming the field and what was expected.
    """
    n = len(record.candidates)
    if record.labels is not None:
        if len(record.labels) != n:
            raise RecordError(f"labels has {len(record.labels)} entries for {n} candidates")
        for label in record.labels:
            _check_label("labels", label)
    if record.served is not None:
        for name, scores in (("base", record.served.base), ("corrected", record.served.corrected)):
            if len(scores) != n:
                raise RecordError(f"served.{name} has {len(scores)} entries for {n} candidates")
            if not all(0.0 <= p <= 1.0 for p in scores):
                raise RecordError(f"served.{name} holds a value that is no probability")
    if record.place is not None or record.propensity is not None:
        _check_shown(record.place, record.propensity, n)


def _check_shown(place: list[int] | None, propensity: list[float] | None, n: int) -> None:
    """Check where n candidates were shown, and with which probability."""
    if place is not None:
        if len(place) != n:
            raise RecordError(f"place has {len(place)} entries for {n} candidates")
        if len(set(place)) != n or not all(0 <= at < CANDIDATES_MAX for at in place):
            raise RecordError(f"place must hold {n} different numbers from 0 to {CANDIDATES_MAX - 1}")
    if propensity is not None:
        if len(propensity) != n:
            raise RecordError(f"propensity has {len(propensity)} entries for {n} candidates")
        if not all(0.0 < p <= 1.0 for p in propensity):
            raise RecordError("propensity holds a value that is not over 0 and at most 1")


def _fit(sets: Sequence[Features]) -> bool:
    """Whether all is within its limits, for most features at the cost of one look at each."""
    for features in sets:
        if len(features) > FEATURES_MAX:
            return False
        for value in features.values():
            kind = type(value)
            if kind is int:
                if not _ID_MIN <= value < _ID_END:  # type: ignore[operator]
                    return False
            elif kind is str:
                if len(value) > TEXT_MAX:  # type: ignore[arg-type]
                    return False
            elif kind is not float or value - value != 0.0:  # type: ignore[operator]
                return False  # a list, or not finite
    return True


def check_features(where: str, features: Features) -> None:
    """Check the values of one set of features.

    Raises:
        RecordError: a number that is not finite, an id beyond 64 bits, or a value over its limit.
    """
    if _fit((features,)):
        return
    if len(features) > FEATURES_MAX:
        raise RecordError(f"{where} has {len(features)} features, more than {FEATURES_MAX}")
    for name, value in features.items():
        if isinstance(value, int):
            if not _ID_MIN <= value < _ID_END:
                raise _beyond(where, name, value)
        elif isinstance(value, str):
            if len(value) > TEXT_MAX:
                raise RecordError(f"{where}.{name} has {len(value)} characters, more than {TEXT_MAX}")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise RecordError(f"{where}.{name} is {value}; expected a finite number")
        elif isinstance(value, list):
            if len(value) > VALUES_MAX:
                raise RecordError(f"{where}.{name} has {len(value)} values, more than {VALUES_MAX}")
            for item in value:
                if isinstance(item, int):
                    if not _ID_MIN <= item < _ID_END:
                        raise _beyond(where, name, item)
                elif len(item) > TEXT_MAX:
                    raise RecordError(f"{where}.{name} holds an id of more than {TEXT_MAX} characters")


def _beyond(where: str, name: str, value: Value) -> RecordError:
    return RecordError(f"{where}.{name} is {value}; an integer id must fit in 64 bits")


def _no_time(name: str, seconds: float) -> RecordError:
    return RecordError(
        f"{name} is {seconds}; expected Unix seconds, 1970 to 2100 (milliseconds? divide by 1000)"
    )


def _check_label(name: str, label: float) -> None:
    if label not in (0.0, 1.0):
        raise RecordError(f"{name} is {label}; expected 0 or 1")

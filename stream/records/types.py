"""The records that travel in the log, and how they become bytes; the way back is `stream.records.decoding`.

Three kinds arrive on topic `events`, all keyed by `request_id` so that they meet in one partition:
an `Impression` (one request: who, in which context, the candidates), an `Action` (what the person did
with one of them) and an `Exposure` (which of them the person was shown). The joiner makes them into an
`Example`, on topic `examples`. A `Forget` comes from the server or `freshet forget`, a `Tick` from joiners.

The types carry the descriptions of their fields for the JSON Schema (`stream.records.schema`). A producer may
send many events of one partition as one message, an array: a batch, which costs far less than many messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from stream.limits import (
    CANDIDATES_MAX,
    FEATURES_MAX,
    FORGET_IDS_IN_RECORD_MAX,
    MODELS_MAX,
    REFUSE_S_MAX,
    REQUEST_ID_MAX,
    SCHEMA_VERSION,
    TARGETS_MAX,
    TEXT_MAX,
    TIME_MAX_S,
    TIME_MIN_S,
    VALUES_MAX,
    WEIGHT_MAX,
)


def _field(text: str, kind: dict[str, Any] | None = None) -> msgspec.Meta:
    """What the JSON Schema of a field says beside its type. `check` enforces it, with better messages."""
    return msgspec.Meta(description=text, extra_json_schema=kind or {})


Label = Annotated[float, msgspec.Meta(extra_json_schema={"enum": [0, 1]})]
Number = Annotated[float, msgspec.Meta(extra_json_schema={"minimum": 0})]
Weight = Annotated[float, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": WEIGHT_MAX})]
Probability = Annotated[float, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": 1})]
Id = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": -(1 << 63), "maximum": (1 << 63) - 1})]
Text = Annotated[str, msgspec.Meta(extra_json_schema={"maxLength": TEXT_MAX})]
Ids = Annotated[list[Id | Text], msgspec.Meta(extra_json_schema={"maxItems": VALUES_MAX})]

Value = Id | float | str | list[Id | float | str]
"""One feature's value: an id, a number, a text, or a list of them; `stream.records.fields` has the limits."""

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
        "What could be shown, in its order: each candidate's own features.",
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


Shown = Annotated[
    list[CandidateNumber] | None,
    _field(
        "The candidates that were shown, in the order of their places, each once; what is not in it is "
        "neither learnt nor scored. Not given: all.",
        {"maxItems": CANDIDATES_MAX, "uniqueItems": True},
    ),
]


Examined = Annotated[
    Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": CANDIDATES_MAX})] | None,
    _field("How many places the person looked at, from the first down. Not given: all."),
]


class ServedTarget(msgspec.Struct, frozen=True, repr_omit_defaults=True, gc=False):
    """What was answered for one further target, given that its `of` happens."""

    base: Annotated[list[Number], _field("One per candidate: a probability, or a value's expectation.")]
    corrected: Annotated[list[Number], _field("The same, after the error memory.")]

    def picked(self, candidates: Sequence[int]) -> ServedTarget:
        """The same for some of the candidates."""
        return ServedTarget([self.base[i] for i in candidates], [self.corrected[i] for i in candidates])


class Served(msgspec.Struct, frozen=True, repr_omit_defaults=True, omit_defaults=True, gc=False):
    """What was answered for a request: one probability per candidate, before and after correction."""

    base: Annotated[list[Probability], _field("One per candidate, by the model.")]
    corrected: Annotated[list[Probability], _field("The same, after the error memory.")]
    model: Annotated[str, _field("Which model answered, for people.")] = ""
    targets: Annotated[
        dict[str, ServedTarget],
        _field("Of further targets, given that their `of` happens.", {"maxProperties": TARGETS_MAX}),
    ] = {}
    by: Annotated[str, _field("The name of the model that answered, where a server has several.")] = ""
    models: Annotated[
        dict[str, ServedTarget],
        _field("What each of them predicted of the first target.", {"maxProperties": MODELS_MAX}),
    ] = {}
    filled: Annotated[list[str], _field("Attributes that the request has as far as they were known.")] = []

    def picked(self, candidates: Sequence[int]) -> Served:
        """The same for some of the candidates."""
        targets = {name: served.picked(candidates) for name, served in self.targets.items()}
        models = {name: served.picked(candidates) for name, served in self.models.items()}
        base, corrected = [self.base[i] for i in candidates], [self.corrected[i] for i in candidates]
        return Served(base, corrected, self.model, targets, self.by, models, self.filled)


class Impression(
    msgspec.Struct, frozen=True, repr_omit_defaults=True, tag="impression", omit_defaults=True, gc=False
):
    """One request: its candidates, and which of them were shown.

    `time` is event time in Unix seconds. `context` holds the features that all candidates share
    (user, device), `candidates` each one's own. `labels`, one per candidate, is there only when
    they are already known (a rating, a log file): then the request needs no wait. `place` and
    `propensity`, one per candidate, say how an order that was drawn at random came about. `shown`
    names the candidates that were shown, and an `Exposure` may say so later.
    """

    request_id: RequestId
    time: EventTime
    candidates: Candidates
    context: Context = {}
    served: Annotated[Served | None, _field("What was answered, if Freshet was asked.")] = None
    labels: Annotated[
        list[Number] | None,
        _field("One per candidate, only if they are known already: then the request does not wait."),
    ] = None
    place: Place = None
    propensity: Propensity = None
    shown: Shown = None
    v: Version = SCHEMA_VERSION
    weight: Annotated[
        list[Weight] | Weight | None,
        _field(
            "How much a candidate counts in learning and in metrics: one for each, or one for all. 0: it is "
            "predicted and not learned."
        ),
    ] = None
    outcomes: Annotated[
        dict[str, list[Number | None]] | None,
        _field(
            "Beside `labels`: of further targets, by name, one per candidate; null where its `of` did not "
            "happen. Targets that are not named are not learned from this request.",
            {"maxProperties": TARGETS_MAX},
        ),
    ] = None


class Action(
    msgspec.Struct, frozen=True, repr_omit_defaults=True, tag="action", omit_defaults=True, gc=False
):
    """What a person did with one candidate of a request: `label` 1 for a click, 0 to take it back.

    `name` says of which target it is, where targets are declared, and `value` how much, if that is a value.
    """

    request_id: RequestId
    time: EventTime
    candidate: CandidateNumber
    label: Annotated[Label, _field("1 for a click (or another positive outcome), 0 to take it back.")] = 1.0
    name: Annotated[str, _field("What the person did: if targets are declared, of which this is.")] = "click"
    v: Version = SCHEMA_VERSION
    value: Annotated[
        Number | None, _field("How much, for a target that is a value: minutes, a price. The newest counts.")
    ] = None


class Exposure(
    msgspec.Struct, frozen=True, repr_omit_defaults=True, tag="exposure", omit_defaults=True, gc=False
):
    """What a person was shown of a request; it overrides what the impression says, until the decision.

    `shown` names the candidates, from the first place down. `examined` says how many of these places the
    person looked at (examination, in the terms of click models): all if it is not given.
    """

    request_id: RequestId
    time: EventTime
    shown: Shown = None
    examined: Examined = None
    v: Version = SCHEMA_VERSION


class Example(
    msgspec.Struct, frozen=True, repr_omit_defaults=True, tag="example", omit_defaults=True, gc=False
):
    """One decided request for one target: its candidates and labels; predicted whole before any is learned.

    The candidates are those that were shown, as far as anybody said; `place` then says where. A target with
    `of` has those for which that happened. With `before` it is a correction: these candidates were learned
    before with those labels, and the difference of the two losses is learned: gradient `labels` - `before`,
    no curvature, no sighting.

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
    labels: Annotated[list[Number], _field("One per candidate: 0 or 1, or a value.")]
    context: Context = {}
    served: Annotated[Served | None, _field("What was answered, if Freshet was asked.")] = None
    log_odds: Annotated[float, _field("ln r when negatives were kept at rate r.")] = 0.0
    late: Annotated[bool, _field("Learned although its request was decided before.")] = False
    place: Place = None
    propensity: Propensity = None
    v: Version = SCHEMA_VERSION
    candidate_count: Annotated[
        int,
        _field(
            "How many candidates the request had, if it was said which of them were shown; else 0.",
            {"minimum": 0, "maximum": CANDIDATES_MAX},
        ),
    ] = 0
    target: Annotated[str, _field("The target that `labels` are of; empty: the first.")] = ""
    weight: Annotated[
        list[Weight] | None, _field("One per candidate: how much it counts in learning and in metrics.")
    ] = None
    before: Annotated[
        list[Number] | None, _field("One per candidate: its label as it was learned before.")
    ] = None


class Tick(msgspec.Struct, frozen=True, repr_omit_defaults=True, tag="tick", omit_defaults=True):
    """Time has passed in a partition of `events` in which requests wait and nothing arrives.

    A joiner sends it. What counts is when the log took the record: see `Pairing.pass_time`.
    """

    time: Annotated[
        float,
        _field("When it was sent, for people; Unix seconds.", {"minimum": TIME_MIN_S, "maximum": TIME_MAX_S}),
    ]
    v: Version = SCHEMA_VERSION


class Forget(msgspec.Struct, frozen=True, repr_omit_defaults=True, tag="forget", omit_defaults=True):
    """A request to forget ids, by feature, with all data about them.

    It is written to every partition of `events`, and the joiner passes it on at the same position. So each
    machine forgets the records before it at the same point of the partition.
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
        _field(f"The ids, by feature; 1 to {FORGET_IDS_IN_RECORD_MAX} of each.", {"minProperties": 1}),
    ]
    refuse_s: Annotated[
        float,
        _field(
            "For so long after `time`, in event time, records with these ids are left out.",
            {"minimum": 0, "maximum": REFUSE_S_MAX},
        ),
    ] = 0.0
    v: Version = SCHEMA_VERSION


class DeadLetter(msgspec.Struct, frozen=True, repr_omit_defaults=True, tag="dead_letter"):
    """A record that could not be used: its original bytes, why, and where it came from."""

    reason: Annotated[str, _field("Why it could not be used, for people.")]
    stage: Annotated[str, _field("The role that could not use it.")]
    topic: Annotated[str, _field("Where it lies: the topic,")]
    partition: Annotated[int, _field("the partition")]
    offset: Annotated[int, _field("and the offset.")]
    original: Annotated[bytes, _field("Its bytes, as they came.")]
    key: Annotated[bytes, _field("Its key.")] = b""
    v: Version = SCHEMA_VERSION


class Retry(msgspec.Struct, frozen=True, repr_omit_defaults=True, tag="retry"):
    """Dead letters sent again to where they came from: noted before, and noted as done after."""

    id: Annotated[str, _field("Names this retry; its records are sent as by producer `retry-ID`.")]
    letters: Annotated[list[int], _field("Offsets of the letters, in topic `dead_letters`.")]
    done: Annotated[bool, _field("Whether all are sent.")]
    again: Annotated[bool, _field("Whether letters that were sent again before are sent once more.")] = False
    v: Version = SCHEMA_VERSION


Event = Impression | Action | Exposure
"""What producers send."""

T = TypeVar("T")

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()
_canonical = msgspec.msgpack.Encoder(order="deterministic")

_ADDED: dict[type[msgspec.Struct], tuple[object, ...]] = {
    Example: (0, "", None, None),
    Impression: (None, None),
    Action: (None,),
}
"""By type: the defaults of its last fields, which `canonical` leaves out as far as they are unset."""


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
    values = msgspec.structs.astuple(record)
    # as before there were these fields, so that hashes of older data stay
    unset = _ADDED.get(type(record), ())
    while unset and values[-1] == unset[-1]:
        values, unset = values[:-1], unset[:-1]
    return _canonical.encode(values)


def encode_json(record: msgspec.Struct) -> bytes:
    """A record as one line of JSON, for people and other languages."""
    return _json.encode(record)


def join_batch(events: Sequence[bytes]) -> bytes:
    """Events that are MessagePack already as one message, a batch: an array of them, all of one partition."""
    count = len(events)
    if count < 16:
        head = bytes([0x90 | count])
    elif count < 1 << 16:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return head + b"".join(events)

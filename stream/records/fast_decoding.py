"""Events decoded as fast as they come: the limits of a record checked by the decoder itself.

`Decoder` looks at each value after decoding, which takes as long as all else that a joiner does with an
event. Here the types carry the limits, and only what they refuse is decoded again by `Decoder`: for a
message that a person understands, or because the types are stricter than the rules are, as of features that
nobody has declared.
"""

import functools
from collections.abc import Collection, Sequence
from typing import Any, cast

import msgspec

from ground import UNDECODABLE
from stream.limits import RECORD_BYTES_MAX, SCHEMA_VERSION, SPLICED_BYTES_MAX
from stream.records.bounds import (
    BoundedCandidate,
    BoundedProbability,
    BoundedRequestId,
    BoundedTime,
    BoundedVersion,
    Int64,
    bounded_candidates,
    bounded_features,
)
from stream.records.candidate_lists import check_lists
from stream.records.decoding import (
    MAP_STARTS,
    Decoder,
    check,
    check_action,
    decoders_of,
    fit_as_they_are,
    is_msgpack,
)
from stream.records.entities.checking import checked
from stream.records.entities.record import AnyEvent, EntityEvent
from stream.records.fields import Declared
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Action, Exposure, Forget, Impression, Served, Tick


class _Served(Served, frozen=True):
    base: list[BoundedProbability]
    corrected: list[BoundedProbability]


class _Action(Action, frozen=True, tag="action"):
    request_id: BoundedRequestId
    time: BoundedTime
    candidate: BoundedCandidate
    v: BoundedVersion = SCHEMA_VERSION


@functools.cache
def _impressions(id_type: Any, content: bool) -> type[Impression]:
    """The type of impressions whose integer ids are of `id_type`; `content`: see `bounded_features`."""
    features = bounded_features(id_type, content=content)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [
        ("request_id", BoundedRequestId),
        ("time", BoundedTime),
        ("candidates", bounded_candidates(features)),
        ("context", features, msgspec.field(default_factory=dict)),
        ("served", _Served | None, None),
        ("v", BoundedVersion, SCHEMA_VERSION),
    ]
    made: type[Any] = msgspec.defstruct(
        "_Impression",
        fields,
        bases=(Impression,),
        frozen=True,
        tag="impression",
        omit_defaults=True,
        gc=False,
    )
    return made


class _Plain(msgspec.Struct, gc=False):
    """An impression in MessagePack whose features are left as they are."""

    request_id: str
    time: float
    candidates: msgspec.Raw
    context: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    served: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    place: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    propensity: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    weight: list[float] | float | msgspec.UnsetType | None = msgspec.UNSET


class _Spliced(_Plain, tag="example", omit_defaults=True, kw_only=True, gc=False):
    """The example made of it."""

    decided: float
    labels: list[float]
    log_odds: float = 0.0


_decode_plain = msgspec.msgpack.Decoder(_Plain).decode
_encode_spliced = msgspec.msgpack.Encoder().encode


def splices(original: bytes) -> bool:
    """Whether an impression is of a form and size that `splice` takes."""
    return 0 < len(original) <= SPLICED_BYTES_MAX and original[0] in MAP_STARTS  # saves a call


def splice(original: bytes, labels: list[float], decided: float) -> bytes:
    """The example, as bytes, of an impression all of whose candidates are kept.

    Its features are copied as they are: they were checked when it came.
    """
    plain = _decode_plain(original)
    weight = plain.weight
    if isinstance(weight, float):
        weight = [weight] * len(labels)
    example = _Spliced(
        plain.request_id, plain.time, plain.candidates, plain.context, plain.served, plain.place,
        plain.propensity, weight, decided=decided, labels=labels,
    )  # fmt: skip
    return _encode_spliced(example)


class _Loose(msgspec.Struct, tag="impression", omit_defaults=True, gc=False):
    """An impression in MessagePack whose candidates are apart, and their features left as they are."""

    request_id: str
    time: float
    candidates: list[msgspec.Raw]
    context: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    served: Served | None = None
    weight: list[float] | float | None = None


class _LooseExample(_Loose, tag="example", omit_defaults=True, kw_only=True, gc=False):
    """The example made of some of its candidates."""

    decided: float
    labels: list[float]
    target: str


_decode_loose = msgspec.msgpack.Decoder(_Loose).decode


def thinned(original: bytes, at: Sequence[int]) -> bytes:
    """An impression that `splices`, with some of its candidates only, and without what was shown of it."""
    loose = _decode_loose(original)
    loose.candidates = [loose.candidates[i] for i in at]
    if loose.served is not None:
        loose.served = loose.served.picked(at)
    if isinstance(loose.weight, list):
        loose.weight = [loose.weight[i] for i in at]
    return _encode_spliced(loose)


def splice_some(original: bytes, labels: dict[int, float], decided: float, target: str) -> bytes:
    """The example of a further target, as bytes, of some candidates of an impression that `splices`.

    Args:
        labels: by the candidate's place in the impression.
    """
    loose, at = _decode_loose(original), list(labels)
    weight, served = loose.weight, None
    if weight is not None:
        weight = [weight[i] for i in at] if isinstance(weight, list) else [weight] * len(at)
    if loose.served is not None and (answered := loose.served.targets.get(target)) is not None:
        answered = answered.picked(at)
        was = loose.served
        served = Served(answered.base, answered.corrected, was.model, filled=was.filled)
    example = _LooseExample(
        loose.request_id, loose.time, [loose.candidates[i] for i in at], loose.context, served, weight,
        decided=decided, labels=list(labels.values()), target=target,
    )  # fmt: skip
    return _encode_spliced(example)


class EventDecoder:
    """Bytes to checked events.

    An impression is an instance of a subclass where its bytes say just what it says. One that is an
    `Impression` itself was decoded with care: its bytes may hold more, which no feature takes.

    >>> EventDecoder().decode(b'{"type":"action","request_id":"r","time":1e9,"candidate":0}').candidate
    0
    """

    def __init__(self, declared: Collection[str] | None = None, targets: Targets = UNDECLARED) -> None:
        """A decoder of events.

        Args:
            declared: the features' names; see `stream.records.fields.tidy_features`.
            targets: those that actions and labels may be of.
        """
        self._targets = targets if targets.declared else None
        # With vectors and long texts the types say too little, and each value is looked at again.
        self._content = declared if isinstance(declared, Declared) and declared.any_content else None
        impressions = _impressions(Int64, self._content is not None)
        self._declared = declared
        as_json, as_msgpack = decoders_of(impressions, _Action, Exposure, EntityEvent)
        self._json = cast("msgspec.json.Decoder[AnyEvent]", as_json)
        self._msgpack = cast("msgspec.msgpack.Decoder[AnyEvent]", as_msgpack)
        self._plain = Decoder[AnyEvent | Forget | Tick](
            Impression, Action, Exposure, EntityEvent, Forget, Tick, declared=declared, targets=targets
        )

    def decode(self, data: bytes) -> AnyEvent | Forget | Tick:
        """Decode and check one event.

        Raises:
            RecordError: as `Decoder.decode` says.
        """
        if len(data) > RECORD_BYTES_MAX:
            return self._plain.decode(data)
        try:
            event: AnyEvent = (self._msgpack if is_msgpack(data) else self._json).decode(data)
        except UNDECODABLE:
            return self._plain.decode(data)
        if (
            self._content is not None
            and isinstance(event, Impression)
            and not fit_as_they_are((event.context, *event.candidates), self._content)
        ):
            return self._plain.decode(data)
        # what the types cannot say
        targets = self._targets
        if isinstance(event, Action):
            if targets is not None:
                check_action(event, targets)
            elif event.label != 1.0 or event.value is not None:
                check(event)
        elif isinstance(event, Exposure):
            check(event)
        elif isinstance(event, EntityEvent):
            return checked(event, self._declared)
        elif (
            event.served is not None
            or event.labels is not None
            or event.place is not None
            or event.propensity is not None
            or event.shown is not None
            or event.weight is not None
            or event.outcomes is not None
        ):
            check_lists(event, UNDECLARED if targets is None else targets)
        return event

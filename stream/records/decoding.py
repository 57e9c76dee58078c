"""How bytes become records: decoded strictly, and checked for what types cannot say.

JSON and MessagePack are both accepted; a record's first byte distinguishes them. There is no text where a
number belongs, no NaN, no infinity, no time outside of the years that make sense, and nothing over its limit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

from ground import UNDECODABLE
from stream.errors import RecordError
from stream.limits import (
    BATCH_EVENTS_MAX,
    CANDIDATES_MAX,
    FEATURES_MAX,
    FORGET_IDS_IN_RECORD_MAX,
    RECORD_BYTES_MAX,
    REFUSE_S_MAX,
    REQUEST_ID_MAX,
    SCHEMA_VERSION,
    TEXT_MAX,
    TIME_MAX_S,
    TIME_MIN_S,
    VALUE_MAX,
)
from stream.records.candidate_lists import check_label, check_lists, check_shown
from stream.records.entities.checking import checked
from stream.records.entities.record import EntityEvent
from stream.records.fields import ID_END, ID_MIN, Declared, check_value, takes, tidy_features
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import (
    Action,
    DeadLetter,
    Example,
    Exposure,
    Features,
    Forget,
    Impression,
    Retry,
    Tick,
)

_json_parts = msgspec.json.Decoder(list[msgspec.Raw])
_msgpack_parts = msgspec.msgpack.Decoder(list[msgspec.Raw])

AnyFeatures = dict[str, Any]
T = TypeVar("T", bound="AnyRecord")
AnyRecord = Impression | Action | Exposure | EntityEvent | Example | Forget | Tick | DeadLetter | Retry


class _Said(Impression, frozen=True, tag="impression", gc=False):
    """An impression whose features are of any types."""

    candidates: list[AnyFeatures]
    context: AnyFeatures = msgspec.field(default_factory=dict)


# with a second type, so that a record without `type` is refused
_said_json = msgspec.json.Decoder(_Said | Action)
_said_msgpack = msgspec.msgpack.Decoder(_Said | Action)

MAP_STARTS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_BATCH_STARTS = frozenset((ord("["), *range(0x90, 0xA0), 0xDC, 0xDD))


def is_msgpack(data: bytes) -> bool:
    """Whether a record is MessagePack, and not JSON."""
    return bool(data) and data[0] in MAP_STARTS


def is_batch(data: bytes) -> bool:
    """Whether a message is a batch; `split_batch` checks that it is valid."""
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
    except UNDECODABLE as error:
        raise RecordError(f"the batch is neither a JSON nor a MessagePack array: {error}") from None
    if not 1 <= len(parts) <= BATCH_EVENTS_MAX:
        raise RecordError(f"the batch has {len(parts):,} events; expected 1 to {BATCH_EVENTS_MAX:,}")
    return [bytes(part) for part in parts]


@functools.cache
def decoders_of(*types: Hashable) -> tuple[msgspec.json.Decoder[object], msgspec.msgpack.Decoder[object]]:
    """The decoders of some types, in JSON and MessagePack. They are made once: that takes milliseconds."""
    union: Any = types[0]
    for kind in types[1:]:
        union = union | kind
    return msgspec.json.Decoder(union), msgspec.msgpack.Decoder(union)


class Decoder(Generic[T]):
    """Bytes to checked records of the given types.

    Type checkers need the union of several types: `events: Decoder[Impression | Action] = Decoder(...)`.

    >>> Decoder(Action).decode(b'{"type":"action","request_id":"r","time":1e9,"candidate":0}').candidate
    0
    """

    def __init__(
        self,
        *types: type[T],
        bytes_max: int = RECORD_BYTES_MAX,
        declared: Collection[str] | None = None,
        targets: Targets = UNDECLARED,
    ) -> None:
        """A decoder of records of these types.

        Args:
            bytes_max: of a record.
            declared: the features' names, for impressions; see `stream.records.fields.tidy_features`.
            targets: those that actions and labels may be of.
        """
        self._targets = targets
        self._bytes_max = bytes_max
        as_json, as_msgpack = decoders_of(*cast(tuple[Hashable, ...], types))
        self._json = cast("msgspec.json.Decoder[T]", as_json)
        self._msgpack = cast("msgspec.msgpack.Decoder[T]", as_msgpack)
        self._declared = declared
        self._takes_impressions = Impression in types

    def decode(self, data: bytes) -> T:
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
            if isinstance(record, EntityEvent):
                return cast(T, checked(record, self._declared))
            check(record, self._targets, self._declared)
        except msgspec.ValidationError as error:
            return self._decode_with_care(data, f"the record does not fit its type: {error}")
        except RecordError as error:
            return self._decode_with_care(data, str(error))
        except RecursionError:
            raise RecordError("the record is nested too deeply") from None
        except UNDECODABLE as error:
            raise RecordError(f"the record is neither JSON nor MessagePack: {error}") from None
        return record

    def decode_again(self, data: bytes) -> T:
        """Decode a record that `decode` has accepted before."""
        return (self._msgpack if is_msgpack(data) else self._json).decode(data)

    def _decode_with_care(self, data: bytes, why_not: str) -> T:
        """Decode an impression with values beyond the declared features: undeclared ones, null, booleans.

        Raises:
            RecordError: it is no such impression, for the reason that is known, or names a declared feature
                whose value is none.
        """
        if not self._takes_impressions:
            raise RecordError(why_not)
        try:
            said = (_said_msgpack if is_msgpack(data) else _said_json).decode(data)
        except UNDECODABLE:
            raise RecordError(why_not) from None
        if isinstance(said, Action):
            raise RecordError(why_not)
        record = tidy_request(said, self._declared)
        check(record, self._targets, self._declared)
        return cast(T, record)


def tidy_request(said: Impression, declared: Collection[str] | None) -> Impression:
    """An impression whose values are of any types, with what the declared features take of them.

    Raises:
        RecordError: naming the feature and what was expected.
    """
    fields = {name: getattr(said, name) for name in Impression.__struct_fields__}
    fields["context"] = tidy_features("context", said.context, declared)
    fields["candidates"] = [
        tidy_features(f"candidates[{i}]", candidate, declared)
        for i, candidate in enumerate(said.candidates[: CANDIDATES_MAX + 1])
    ]
    return Impression(**fields)


def check(record: AnyRecord, targets: Targets = UNDECLARED, declared: Collection[str] | None = None) -> None:
    """Check what types cannot say: version, ranges, finite numbers, lengths that must agree.

    Args:
        targets: those that actions and labels may be of.
        declared: the features' names, for impressions. Without them, lists of numbers and long texts do not
            fit. In an `Example` all fit, since whoever made it has checked them.

    Raises:
        RecordError: naming the field and what was expected.
    """
    if record.v != SCHEMA_VERSION:
        raise RecordError(
            f"schema version {record.v} is unknown; this Freshet reads version {SCHEMA_VERSION}"
        )
    if isinstance(record, DeadLetter | Retry | Tick):
        return
    if isinstance(record, Forget):
        _check_forget(record)
        return
    if isinstance(record, EntityEvent):
        checked(record, declared)
        return
    if not 0 < len(record.request_id) <= REQUEST_ID_MAX:
        raise RecordError(f"request_id must have 1 to {REQUEST_ID_MAX} characters")
    if not TIME_MIN_S <= record.time <= TIME_MAX_S:
        raise _no_time("time", record.time)
    if isinstance(record, Action):
        check_action(record, targets)
    elif isinstance(record, Exposure):
        _check_exposure(record)
    else:
        _check_request(record, targets, declared)


def check_action(action: Action, targets: Targets) -> None:
    """Check what an action says happened.

    Raises:
        RecordError: it is of no target, or its label, or its value, does not fit that target.
    """
    if not 0 <= action.candidate < CANDIDATES_MAX:
        raise RecordError(f"candidate is {action.candidate}; expected 0 to {CANDIDATES_MAX - 1}")
    check_label("label", action.label)
    of = targets.of_action(action.name)
    value = action.value
    if value is not None and not 0.0 <= value < math.inf:
        raise RecordError(f"value is {value}; expected a finite number of at least 0")
    if not targets.declared:
        return  # `name` and `value` are for people
    if targets[of].kind == "event" and value is not None:
        raise RecordError(f"value is {value} for {of}, which happens or not and takes no value")
    if targets[of].kind == "value" and value is None and action.label:
        raise RecordError(f"there is no value for {of}; expected a finite number of at least 0")
    if value is not None and value > VALUE_MAX:
        raise RecordError(f"value is {value} for {of}; expected at most {VALUE_MAX:g}: choose a larger unit")


def _check_exposure(record: Exposure) -> None:
    if record.shown is None and record.examined is None:
        raise RecordError("the exposure says neither shown nor examined")
    if record.shown is not None:
        check_shown(record.shown, CANDIDATES_MAX)
    if record.examined is not None and not 0 <= record.examined <= CANDIDATES_MAX:
        raise RecordError(f"examined is {record.examined}; expected 0 to {CANDIDATES_MAX} places")


def _check_forget(record: Forget) -> None:
    if not 0 < len(record.forget_id) <= REQUEST_ID_MAX:
        raise RecordError(f"forget_id must have 1 to {REQUEST_ID_MAX} characters")
    if not TIME_MIN_S <= record.time <= TIME_MAX_S:
        raise _no_time("time", record.time)
    if not record.entity:
        raise RecordError("entity names nothing to forget")
    for name, found in record.entity.items():
        if not 1 <= len(found) <= FORGET_IDS_IN_RECORD_MAX:
            raise RecordError(
                f"entity names {len(found)} ids of {name!r}; expected 1 to {FORGET_IDS_IN_RECORD_MAX}"
            )
        check_features("entity", {name: list(found)})
    if not 0.0 <= record.refuse_s <= REFUSE_S_MAX:
        raise RecordError(f"refuse_s is {record.refuse_s}; expected 0 to {REFUSE_S_MAX:.0f} seconds")


def _check_request(record: Impression | Example, targets: Targets, declared: Collection[str] | None) -> None:
    n = len(record.candidates)
    if not 1 <= n <= CANDIDATES_MAX:
        raise RecordError(f"candidates has {n} entries; expected 1 to {CANDIDATES_MAX}")
    # Every value of a stream comes by here: one call for all of a record's, and names only if need be.
    if not _fit(record.candidates) or not _fit((record.context,)):
        for where, features in (("context", record.context), *named_candidates(record.candidates)):
            if isinstance(record, Example):
                named = set(features)
                check_features(where, features, Declared(named, named, named))
            else:
                check_features(where, features, declared)
    check_lists(record, targets)
    if isinstance(record, Example):
        if not TIME_MIN_S <= record.decided <= TIME_MAX_S:
            raise _no_time("decided", record.decided)
        if not math.isfinite(record.log_odds):
            raise RecordError("log_odds is not a finite number")
        if not 0 <= record.candidate_count <= CANDIDATES_MAX:
            raise RecordError(f"candidate_count is {record.candidate_count}; expected 0 to {CANDIDATES_MAX}")


def _fit(sets: Sequence[Features]) -> bool:
    """Whether all is within its limits, for most features at the cost of one look at each."""
    for features in sets:
        if len(features) > FEATURES_MAX:
            return False
        for value in features.values():
            kind = type(value)
            if kind is int:
                if not ID_MIN <= value < ID_END:  # type: ignore[operator]
                    return False
            elif kind is str:
                if len(value) > TEXT_MAX:  # type: ignore[arg-type]
                    return False
            elif kind is not float or value - value != 0.0:  # type: ignore[operator]
                return False  # a list, or not finite
    return True


def named_candidates(candidates: Sequence[Features]) -> Iterator[tuple[str, Features]]:
    """Each candidate's features with the name of their field."""
    return ((f"candidates[{i}]", features) for i, features in enumerate(candidates))


def fit_as_they_are(sets: Sequence[Features], declared: Declared) -> bool:
    """Whether each value is one of its feature, lists of numbers and long texts included."""
    if _fit(sets):
        return True
    return all(
        len(features) <= FEATURES_MAX
        and all(check_value(value, *declared.takes(name)) for name, value in features.items())
        for features in sets
    )


def check_features(where: str, features: Features, declared: Collection[str] | None = None) -> None:
    """Check the values of one set of features.

    Raises:
        RecordError: a number that is not finite, an id beyond 64 bits, or a value over its limit.
    """
    if _fit((features,)):
        return
    for name, value in features.items():
        if isinstance(value, list) and not takes(declared, name)[0]:
            for item in value:
                if isinstance(item, float):
                    raise RecordError(
                        f"{where}.{name} is a list that holds {str(item)[:40]} of type float; expected ids, "
                        "integers or text"
                    )
    tidy_features(where, features, declared.naming(features) if isinstance(declared, Declared) else None)


def _no_time(name: str, seconds: float) -> RecordError:
    return RecordError(
        f"{name} is {seconds}; expected Unix seconds, 1970 to 2100 (milliseconds? divide by 1000)"
    )

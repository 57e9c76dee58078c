"""What an entity event may say, as far as records know; `learner.entities.attributes` checks the kinds."""

from collections.abc import Collection

import msgspec

from stream.errors import RecordError
from stream.limits import ENTITY_BYTES_MAX, FEATURES_MAX, SCHEMA_VERSION, TEXT_MAX, TIME_MAX_S, TIME_MIN_S
from stream.records.entities.record import EntityEvent, Told
from stream.records.fields import (
    HALF_CHARACTERS,
    ID_END,
    ID_MIN,
    TOO_LARGE,
    Declared,
    is_whole,
    takes,
    tidy_value,
)
from stream.records.types import encode


def checked(event: EntityEvent, declared: Collection[str] | None = None) -> EntityEvent:
    """The event with the attributes that a declared feature takes: booleans as ids, no others.

    Args:
        declared: the features' names. None, or no name: they are not known here. A `Declared` of a whole
            schema knows which features are attributes of which.

    Raises:
        RecordError: naming the field and what was expected.
    """
    declared = declared or None
    where = f"entity {event.feature[:60]} {_shown(event.id)}"
    if event.v != SCHEMA_VERSION:
        raise RecordError(
            f"{where}: schema version {event.v} is unknown; this Freshet reads {SCHEMA_VERSION}"
        )
    _check_id(where, event.id)
    if not TIME_MIN_S <= event.time <= TIME_MAX_S:
        raise RecordError(
            f"{where}: time is {event.time}; expected Unix seconds, 1970 to 2100 (milliseconds? divide by "
            "1000)"
        )
    if declared is not None and event.feature not in declared:
        raise RecordError(f"{where}: feature {event.feature!r} is not declared; {_known(declared)}")
    known = _attributes(event.feature, declared)
    if known is not None and not known:
        raise RecordError(
            f"{where}: no feature is declared with of = {event.feature!r}, so it has no attributes; add "
            f'`of = "{event.feature}"` to the features that describe it'
        )
    taken: dict[str, Told] = {}
    for name, value in event.set.items():
        if known is not None and name not in known:
            continue  # no feature takes it, as in requests
        try:
            taken[name] = None if value is None else tidy_value(value, *_takes(declared, name))
        except ValueError as error:
            raise RecordError(f"{where}: set.{name} {error}") from None
    if not taken:
        raise RecordError(f"{where}: set names {_named(event.set)}; expected attributes{_of(known)}")
    if len(taken) > FEATURES_MAX:
        raise RecordError(f"{where}: set has {len(taken)} attributes, more than {FEATURES_MAX}")
    event = msgspec.structs.replace(event, set=taken)
    size = len(encode(event))
    if size > ENTITY_BYTES_MAX:
        raise RecordError(f"{where}: it has {size:,} bytes, more than the {ENTITY_BYTES_MAX:,} allowed")
    return event


def _attributes(feature: str, declared: Collection[str] | None) -> Collection[str] | None:
    """The names of a feature's attributes, as far as they are known; None: any may be one."""
    if isinstance(declared, Declared) and declared.owners is not None:
        return declared.owners.get(feature, ())
    return declared


def _takes(declared: Collection[str] | None, name: str) -> tuple[bool, bool]:
    """Whether an attribute takes (lists of numbers, long texts); without a schema it may."""
    return takes(declared, name) if declared is not None else (True, True)


def _check_id(where: str, entity: int | str) -> None:
    if isinstance(entity, int) and not ID_MIN <= entity < ID_END:
        raise RecordError(f"{where}: id: {TOO_LARGE}")
    if isinstance(entity, str) and len(entity) > TEXT_MAX:
        raise RecordError(f"{where}: id has {len(entity)} characters, more than {TEXT_MAX}")
    if isinstance(entity, str) and not is_whole(entity):
        raise RecordError(f"{where}: id {HALF_CHARACTERS}")


def _known(declared: Collection[str]) -> str:
    if isinstance(declared, Declared) and declared.owners:
        return f"features with attributes: {', '.join(sorted(declared.owners))}"
    return f"declared: {', '.join(sorted(declared)) or 'none'}"


def _named(told: dict[str, Told]) -> str:
    names = ", ".join(list(told)[:5])
    return f"{names}, of which no feature takes any" if names else "nothing"


def _of(known: Collection[str] | None) -> str:
    return f": {', '.join(sorted(known))}" if known else ""


def _shown(entity: object) -> str:
    return repr(entity)[:60]

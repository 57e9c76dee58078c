"""Decoded values of others as ids, times, labels and values of features.

Nothing is guessed: a value that does not fit is refused with what it is. Four kinds of values have one plain
form, and are converted: a UUID becomes its text, a decimal the nearest number, an unsigned integer of 2^63 or
more its decimal text, as everywhere in Freshet, and a date its ISO text. Where a number is needed, a decimal
text is taken as one: JSON of others often has numbers of 64 bits and amounts as text.
"""

import math
import re
from collections.abc import Sequence
from datetime import date, datetime, tzinfo
from decimal import Decimal
from uuid import UUID

from stream.errors import RecordError
from stream.limits import REQUEST_ID_MAX, TIME_MAX_S
from stream.records.fields import ID_END, tidy_value
from stream.records.types import Value
from stream.sources.paths import describe
from stream.sources.settings import Unit

AMOUNT_MAX = 1e30
_WORDS = {"true": True, "false": False}
TIME_FROM_S = 1e8  # 1973: what seems older has another unit
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def to_id(path: str, value: object) -> str:
    """A request id: text, or an integer's decimal text.

    >>> to_id("request", 17)
    '17'

    Raises:
        RecordError: it is neither.
    """
    if isinstance(value, str | int | UUID) and not isinstance(value, bool):
        found = str(value) if not isinstance(value, int) or -(1 << 64) < value < 1 << 64 else ""
        if 0 < len(found) <= REQUEST_ID_MAX:
            return found
        raise RecordError(
            f"{path} is {describe(value)}; expected the id of a request, 1 to {REQUEST_ID_MAX} long"
        )
    raise RecordError(f"{path} is {describe(value)}; expected text or an integer")


def to_seconds(path: str, value: object, unit: Unit, zone: tzinfo | None = None) -> float:
    """A time in Unix seconds.

    Args:
        zone: of a time that names none; None: it is refused.

    >>> to_seconds("at", 1_700_000_000_500, "ms"), to_seconds("at", "2023-11-14T22:13:20.5Z", "iso")
    (1700000000.5, 1700000000.5)

    Raises:
        RecordError: it is no time in this unit.
    """
    if isinstance(value, datetime):  # of a format that has a type for it, and so needs no unit
        return _checked(path, _timestamp(path, value, zone), describe(value), unit)
    if unit == "iso":
        if not isinstance(value, str):
            raise RecordError(f'{path} is {describe(value)}; with unit = "iso" expected text')
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            raise RecordError(f"{path} is {describe(value)}; expected a time as in ISO 8601") from None
        return _checked(path, _timestamp(path, found, zone), describe(value), unit)
    number = number_of(value)
    if isinstance(number, bool) or not isinstance(number, int | float | Decimal):
        raise RecordError(f'{path} is {describe(value)}; with unit = "{unit}" expected a number')
    try:
        seconds = float(number) / PER_SECOND[unit]
    except OverflowError:
        seconds = math.inf
    return _checked(path, seconds, describe(value), unit)


def number_of(value: object) -> object:
    """The number that a decimal text writes; else the value.

    >>> number_of("1700000000123"), number_of("9.50"), number_of("1,5"), number_of(3)
    (1700000000123, 9.5, '1,5', 3)
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value) is None:
        return value
    return int(value) if value.lstrip("-").isdecimal() else float(value)


def _timestamp(path: str, value: datetime, zone: tzinfo | None) -> float:
    if value.tzinfo is None:
        if zone is None:
            raise RecordError(
                f"{path} is {value.isoformat()}, without a zone; expected one, such as Z or +01:00, or the "
                'zone of all such times in the config, zone = "UTC" beside unit'
            )
        value = value.replace(tzinfo=zone)
    return value.timestamp()


def _checked(path: str, seconds: float, found: str, unit: Unit) -> float:
    if TIME_FROM_S <= seconds <= TIME_MAX_S:
        return seconds
    for other, per_second in PER_SECOND.items():
        scaled = seconds * PER_SECOND.get(unit, 1.0) / per_second
        if other != unit and unit != "iso" and TIME_FROM_S <= scaled <= TIME_MAX_S:
            raise RecordError(f'{path} is {found}, no time in unit "{unit}"; is it unit = "{other}"?')
    raise RecordError(f"{path} is {found}; expected a time from 1973 to 2100")


def to_label(path: str, value: object) -> float:
    """A label: 0, 1, true or false; as text too, as headers have it.

    Raises:
        RecordError: it is none of these.
    """
    found = _WORDS.get(value, number_of(value)) if isinstance(value, str) else value
    if isinstance(found, bool | int | float) and found in (0, 1):
        return float(found)
    raise RecordError(f"{path} is {describe(value)}; expected 0, 1, true or false")


def to_amount(path: str, value: object) -> float | None:
    """How much, for a target that is a value; None if it is null.

    Raises:
        RecordError: it is no finite number of at least 0.
    """
    if value is None:
        return None
    found = number_of(value)
    if isinstance(found, int | float | Decimal) and not isinstance(found, bool) and 0 <= found <= AMOUNT_MAX:
        return float(found)
    raise RecordError(f"{path} is {describe(value)}; expected a number of at least 0")


def to_feature(path: str, value: object) -> Value | None:
    """The value of a feature: an id, a number or a list of ids; None if it is null.

    Raises:
        RecordError: it is none of these.
    """
    if value is None:
        return None
    value = _plain(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        value = [_plain(item) for item in value]
    try:
        return tidy_value(value)
    except ValueError as error:
        raise RecordError(f"{path} {error}") from None


def _plain(value: object) -> object:
    if isinstance(value, int) and value >= ID_END and not isinstance(value, bool):
        return str(value) if value < 1 << 64 else value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, date):
        return value.isoformat()
    return value

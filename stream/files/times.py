"""Converts a cell of a data file to a time.

A cell that cannot be read raises `ValueError` with what was expected, as in `stream.files.columns`.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, Literal

from stream.limits import TIME_MAX_S, TIME_MIN_S

Cell = Any  # of a file: text, or any value of JSON or Arrow
TimeUnit = Literal["auto", "s", "ms", "us", "ns", "iso"]

_UNITS_S: dict[str, float] = {"auto": 1.0, "s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def time_reader(unit: TimeUnit, pattern: str = "") -> Callable[[Cell], float]:
    """Return a function that converts a time cell to Unix seconds.

    >>> time_reader("auto")("1970-01-02T00:00:00Z")
    86400.0
    >>> time_reader("ms")(86_400_000)
    86400.0
    >>> time_reader("auto", "%d.%m.%Y")("02.01.1970")
    86400.0
    """
    if pattern:
        return lambda cell: _formatted_seconds(cell, pattern)
    if unit == "iso":
        return _iso_seconds
    scale = _UNITS_S[unit]

    def read(cell: Cell) -> float:
        if isinstance(cell, date):
            return _utc_seconds(cell)
        try:
            seconds = float(cell) / scale
        except (TypeError, ValueError):
            if unit == "auto" and isinstance(cell, str) and cell:
                return _iso_seconds(cell)
            raise ValueError(f"{shown(cell)} is no time; expected {_expected(unit)}") from None
        if isinstance(cell, bool) or not TIME_MIN_S <= seconds <= TIME_MAX_S:
            raise ValueError(
                f"{shown(cell)} is no time from 1970 to 2100; {_unit_hint(seconds * scale, unit)}"
            )
        return seconds

    return read


def _expected(unit: str) -> str:
    return {"auto": "Unix seconds or ISO 8601", "s": "Unix seconds"}.get(unit, f"a Unix time in {unit}")


def _unit_hint(number: float, unit: str) -> str:
    for name in ("s", "ms", "us", "ns"):
        scale = _UNITS_S[name]
        # Only a time after 2001 is a guess worth making: small numbers fit every unit.
        if name != unit and 1e9 <= number / scale <= TIME_MAX_S:
            return f'it looks like a time in {name}: set time_unit = "{name}"'
    return f"expected {_expected(unit)}"


def _formatted_seconds(cell: Cell, pattern: str) -> float:
    try:
        return _utc_seconds(datetime.strptime(str(cell), pattern))
    except ValueError as error:
        if "is no time" in str(error):
            raise
        raise ValueError(f"{shown(cell)} does not fit time_format {pattern!r}") from None


def _iso_seconds(cell: Cell) -> float:
    if isinstance(cell, date):
        return _utc_seconds(cell)
    try:
        moment = datetime.fromisoformat(cell)
    except (TypeError, ValueError):
        raise ValueError(f"{shown(cell)} is no time; expected ISO 8601, as 2024-05-31T18:00:00Z") from None
    return _utc_seconds(moment)


def _utc_seconds(moment: date) -> float:
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)  # the day's beginning
    # A time without a zone is taken as UTC: the machine's own zone would make a replay depend on the machine.
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not TIME_MIN_S <= seconds <= TIME_MAX_S:
        raise ValueError(f"{moment.isoformat()} is no time from 1970 to 2100")
    return seconds


def shown(cell: Cell) -> str:
    """A cell in the words of an error."""
    if cell is None or cell == "":
        return "an empty cell"
    text = repr(cell)
    return text if len(text) <= 60 else text[:57] + "..."

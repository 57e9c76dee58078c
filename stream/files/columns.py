"""The meaning of a data file's columns: the settings, and how a cell becomes a feature's value.

Every function here raises `ValueError` with what was expected; `stream.files.sources` adds the file and the
line, and raises it as a `SourceError`.
"""

import ast
import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Literal

import msgspec

from ground.short_repr import ShortRepr
from stream.files.times import Cell, TimeUnit, shown, time_reader
from stream.records.types import Value

Format = Literal["auto", "csv", "jsonl", "parquet", "movietweetings", "movielens", "examples"]
Kind = Literal["id", "int", "text", "number", "list", "vector", "time"]
Convert = Callable[[Cell], Value]

_THOUSANDS = ("", ".", ",", " ", "_", "'")
_BRACKETED_MAX = 65_536  # characters of one list in brackets
_NO_CATEGORY = "(no genres listed)"  # MovieLens' word for an empty list


class LabelColumn(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section [data.labels.TARGET]: the column with the labels of a further target."""

    column: str = ""  # empty: named as the target
    positive_from: float | None = None  # as in [data]
    positive: list[str] = []

    def __post_init__(self) -> None:
        if self.positive and self.positive_from is not None:
            raise ValueError("positive names the labels that are 1 and positive_from compares them; give one")


class DataSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a data file is read: its format, and which column is what.

    A line is one candidate with its label. Without `request`, each line is a request of one; with it,
    consecutive lines with equal values in that column are one request, shown together.

    `types` gives the type of a column if the file does not: "id" (an integer where the text is exactly
    one, else a string), "int" (an integer id, also where 7 is written as 7.0), "text" (always a string),
    "number", "list" (of ids, split at `list_separator`), "vector" (a list of numbers, split there or at
    commas or spaces), or "time" (Unix seconds or ISO 8601, for kind age). Features of kind text, vector and
    geo need none. Parquet and JSON Lines carry their types; a CSV column without an entry is a list when its
    first thousand cells hold the separator or are all in square brackets, a number when they all are numbers
    and one has a fraction, else an id. A list in brackets, as JSON and Python write it, is read whatever the
    separator is.
    """

    format: Format = "auto"
    columns: list[str] = []  # names of the columns, for a CSV file without a line of names
    time: str = "time"  # "": the file has no times, and lines count as one second apart
    time_unit: TimeUnit = "auto"  # auto: Unix seconds or ISO 8601 text; ms, us and ns must be set
    time_format: str = ""  # for other text, as in strptime: "%d/%m/%Y %H:%M"
    label: str = "label"
    positive_from: float | None = None  # a label of at least this is 1, else 0; None: labels are 0 or 1
    positive: list[str] = []  # labels that count as 1, all others as 0; empty: labels are numbers
    labels: dict[str, LabelColumn] = {}  # of further targets, by name; looked at where their `of` happened
    unlabelled: list[str] = []  # cells that mean "no label": ["-1"]; such lines are left out and counted
    request: str | None = None
    shown: str = ""  # says of each line whether the candidate was shown (1) or not (0), which is left out
    weight: str = ""  # by how much each candidate counts, a number of at least 0; "": all count alike
    place: str = ""  # says where a candidate was shown in its request; those of a request differ
    place_from: int = 0  # the number of the first place in that column
    propensity: str = ""  # says how likely a candidate was to be put there, where the order was drawn
    features: dict[str, str] = {}  # {feature name: column}; empty: all other columns, by their own names
    context: list[str] = []  # features of the request, not of the candidate
    types: dict[str, Kind] = {}  # by feature name
    list_separator: str = "|"
    delimiter: str = ","
    quote: str = '"'  # around cells that contain delimiters; "": quotes have no meaning
    escape: str = ""  # before a quote within such a cell: "\\"; a doubled quote always works
    skip_lines: int = 0  # lines before the line of names, such as a title or Excel's `sep=;`
    missing: list[str] = []  # cells that count as empty: ["NULL", "NaN"]
    decimal: str = "."  # decimal mark of numbers in text; ",": "3,5" is three and a half
    thousands: str = ""  # thousands separator; ",": "1,234.5"
    sort: bool = False  # sort by time, in memory; off: a line earlier than the one before it is an error
    skip_bad: bool = False  # leave unusable lines out; off: the first one is an error

    def __post_init__(self) -> None:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("columns names one column twice")
        if self.positive and self.positive_from is not None:
            raise ValueError("positive names the labels that are 1 and positive_from compares them; give one")
        if self.time_format and self.time_unit not in ("auto", "iso"):
            raise ValueError(f"time_format is of text, time_unit {self.time_unit} of a number; give one")
        if len(self.quote) > 1 or len(self.escape) > 1 or self.skip_lines < 0:
            raise ValueError("quote and escape are one character or none, and skip_lines is 0 or more")
        if self.place_from and not self.place:
            raise ValueError("place_from numbers the first place: name the column of places in `place`")
        check_marks(self.decimal, self.thousands)
        if not self.time and (self.time_format or self.time_unit != "auto"):
            raise ValueError("time names no column, so time_unit and time_format do not apply")


class RawRow(msgspec.Struct, gc=False):
    """One line as the format's reader returns it: its number (from 1) and its cells, not converted yet."""

    line: int
    time: Cell
    label: Cell
    request: Cell
    cells: dict[str, Cell]
    shown: object = None
    weight: Cell = None
    outcomes: tuple[object, ...] = ()  # cells with labels of further targets
    drawn: tuple[Cell, Cell] = (None, None)  # the place where it was shown, and its propensity


def check_marks(decimal: str, thousands: str) -> None:
    """Check that numbers may be written with these marks.

    Raises:
        ValueError: they may not.
    """
    if decimal not in (".", ",") or thousands not in _THOUSANDS or decimal == thousands:
        raise ValueError(
            f"decimal is {decimal!r} and thousands {thousands!r}; expected two that differ: "
            "a point or a comma, and nothing, a point, a comma, a space, _ or '"
        )


def to_id(text: str) -> int | str:
    """Convert text to an id: an integer if the text is exactly how that integer is written, else the text.

    >>> to_id("42"), to_id("0042"), to_id("-7"), to_id("a1")
    (42, '0042', -7, 'a1')
    """
    # The first character rules out most texts that are no integers, without raising.
    if text[:1] > "9" or len(text) > 20:
        return text
    try:
        number = int(text)
    except ValueError:
        return text
    return number if -(1 << 63) <= number < (1 << 63) and str(number) == text else text


def to_int(cell: Cell) -> int:
    """Convert a cell to an integer id, also from 7.0, as programs write integer columns with missing values.

    >>> to_int("7.0"), to_int(7.0), to_int("-12")
    (7, 7, -12)
    """
    try:
        if isinstance(cell, str):
            whole, _, fraction = cell.partition(".")
            return int(whole if not fraction.strip("0") else cell)
        if isinstance(cell, int) or cell.is_integer():
            return int(cell)
    except (ValueError, AttributeError):
        pass
    raise ValueError(f"{shown(cell)} is no integer")


def to_number(cell: Cell) -> float:
    """A finite number."""
    try:
        number = float(cell)
    except (TypeError, ValueError):
        raise ValueError(f"{shown(cell)} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{shown(cell)} is no finite number; leave the cell empty where it is unknown")
    return number


def to_moment(cell: Cell) -> float:
    """Unix seconds, of a number or of a time in ISO 8601."""
    try:
        return to_number(cell)
    except ValueError:
        return time_reader("iso")(cell)


def number_reader(decimal: str = ".", thousands: str = "") -> Callable[[Cell], float]:
    """Return a function that converts a cell to a finite number; text may contain these marks.

    >>> number_reader(",", ".")("1.234,5"), number_reader(".", ",")("1,234"), number_reader()("1e3")
    (1234.5, 1234.0, 1000.0)
    """
    if decimal == "." and not thousands:
        return to_number
    between = re.escape(thousands)
    groups = rf"\d{{1,3}}(?:{between}\d{{3}})+|" if thousands else ""
    fits = re.compile(rf"[+-]?(?:{groups}\d+)?(?:{re.escape(decimal)}\d+)?").fullmatch

    def read(cell: Cell) -> float:
        if isinstance(cell, str):
            text = cell.strip()
            if not fits(text):
                raise ValueError(
                    f"{shown(cell)} is no number with decimal = {decimal!r} and thousands = {thousands!r}"
                )
            cell = text.replace(thousands, "").replace(decimal, ".") if thousands else text.replace(",", ".")
        return to_number(cell)

    return read


def to_list(text: str, separator: str) -> list[int | float | str]:
    """Split text into a list of ids; empty parts are left out.

    >>> to_list("a|7", "|"), to_list("['a', 7]", "|"), to_list("[x, y]", "|")
    (['a', 7], ['a', 7], ['x', 'y'])
    """
    if text == _NO_CATEGORY:
        return []
    if _in_brackets(text):
        return _bracketed(text)
    return [to_id(item) for item in text.split(separator) if item]


def _bracketed(text: str) -> list[int | float | str]:
    """Parse a list in JSON or Python syntax, or one without quotes."""
    if len(text) > _BRACKETED_MAX:
        raise ValueError(f"a list of {len(text):,} characters, more than {_BRACKETED_MAX:,}")
    try:
        items = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        items = None
    if isinstance(items, list) and all(type(item) in (int, str) for item in items):
        return items
    return [to_id(item.strip().strip("'\"")) for item in text[1:-1].split(",") if item.strip()]


def text_converter(kind: Kind, separator: str, number: Convert = to_number) -> Convert:
    """Return a function that converts text to a feature's value; `number` converts those of kind "number"."""
    if kind == "list":
        return lambda text: to_list(text, separator)
    if kind == "number":
        return number
    if kind == "int":
        return to_int
    if kind == "time":
        return to_moment
    return str if kind == "text" else to_id


def typed_converter(kind: Kind | None, separator: str, number: Convert = to_number) -> Convert:
    """Return a function that converts a typed cell (JSON, Parquet) to a feature's value."""
    of_text = None if kind is None else text_converter(kind, separator, number)
    if kind == "time":
        return to_moment

    def read(cell: Cell) -> Value:
        if isinstance(cell, bool):
            cell = int(cell)
        elif isinstance(cell, bytes):
            # some programs write text to Parquet as bytes; a UnicodeDecodeError is a ValueError
            cell = cell.decode()
        elif isinstance(cell, Decimal):
            cell = int(cell) if cell == cell.to_integral_value() and kind != "number" else float(cell)
        if of_text is not None and isinstance(cell, str):
            return of_text(cell)
        if kind == "number":
            return to_number(cell)
        if kind == "int":
            return to_int(cell)
        if kind == "text" and isinstance(cell, int | float):
            return str(cell)
        if isinstance(cell, float):
            return to_number(cell)
        if isinstance(cell, int | str):
            return [cell] if kind == "list" else cell
        if isinstance(cell, list):
            if kind in (None, "list", "vector"):
                return cell  # whoever knows the feature checks it
            raise ValueError(f"{shown(cell)} is a list; expected {kind}")
        if isinstance(cell, date):
            raise ValueError("a date is no feature; write it as text or as a number")
        raise ValueError(f"{shown(cell)} is no value; expected a number, a string, or a list of ids")

    return read


def guess_kind(cells: Sequence[str], separator: str) -> Kind:
    """Guess the kind of a CSV column from its first cells (without empty ones).

    >>> guess_kind(["1.5", "2"], "|"), guess_kind(["Crime|Drama"], "|"), guess_kind(["17", "b2"], "|")
    ('number', 'list', 'id')
    """
    if any(separator in cell for cell in cells) or (cells and all(_in_brackets(cell) for cell in cells)):
        return "list"
    if any("." in cell for cell in cells) and all(_is_number(cell) for cell in cells):
        return "number"
    return "id"


def missing_test(settings: DataSettings) -> Callable[[Cell], bool]:
    """Return a function that tests whether a cell counts as empty, as NaN does in typed files.

    >>> test = missing_test(DataSettings(missing=["NaN"]))
    >>> test("NaN"), test(float("nan")), test(""), test("nan"), test(0)
    (True, True, True, False, False)
    """
    words = frozenset(settings.missing)

    def test(cell: Cell) -> bool:
        if cell is None or cell == "":
            return True
        if isinstance(cell, str):
            return cell in words
        return isinstance(cell, float) and (cell != cell or (bool(words) and str(cell) in words))

    return test


def _in_brackets(text: str) -> bool:
    return text[:1] == "[" and text[-1:] == "]"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def choose_columns(settings: DataSettings, available: Sequence[str]) -> Mapping[str, str]:
    """Check that the settings name existing columns; return {feature name: column}.

    Raises:
        ValueError: a column is missing; the message names it and the existing ones.
    """
    special = special_columns(settings)
    for column in [*special, *settings.features.values()]:
        if column not in available:
            near = difflib.get_close_matches(column.lower(), [name.lower() for name in available], 1, 0.6)
            meant = next((f"; did you mean {name!r}?" for name in available if [name.lower()] == near), ";")
            raise ValueError(
                f"there is no column {column!r}{meant} the columns are {', '.join(map(repr, available))}"
            )
    chosen = settings.features or {name: name for name in available if name not in special}
    check_names(settings, list(chosen))
    return chosen


def label_columns(settings: DataSettings) -> list[str]:
    """The columns with labels of further targets."""
    return [labels.column or name for name, labels in settings.labels.items()]


def special_columns(settings: DataSettings) -> list[str]:
    """The columns that are no features by themselves, as far as the settings name them."""
    s = settings
    named = (s.time, s.label, s.request, s.shown, s.weight, s.place, s.propensity, *label_columns(s))
    return [name for name in named if name]


def check_names(settings: DataSettings, features: Sequence[str]) -> None:
    """Check that `context` and `types` name existing features."""
    for where, names in (("context", settings.context), ("types", list(settings.types))):
        for name in names:
            if name not in features:
                raise ValueError(
                    f"{where} names {name!r}, which is no feature; the features are {', '.join(features)}"
                )

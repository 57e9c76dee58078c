"""A bounded sample of a data file nobody has described yet: its format, delimiter, names and cells.

What was found is told with its reason, for whoever reads the config that is made of it.
"""

import csv
import datetime
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from freshet.errors import InitError
from ground import FreshetError
from stream.files.columns import DataSettings, missing_test, number_reader
from stream.files.sources import detect_format
from stream.files.tabular import DAMAGED, open_table, open_text, refuse_packed

LINES_MAX = 5_000
BYTES_MAX = 16 << 20  # of text
BAD_SHARE_MAX = 0.05  # of lines that cannot be taken apart
_DELIMITERS = (("\t", ",", ";"), ("|",), (" ",))
"""By how likely they are: a later group is looked at when no line of an earlier one is taken apart."""
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how its files begin
_WHOLE_SHARE = 0.95  # of lines with the same number of cells, from which on a delimiter is believed
_NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar", " ": "space"}


_NOTHING = (
    "NULL", "null", "NaN", "nan", "NA", "N/A", "n/a", "#N/A", "<NA>", "None", "none", "(null)", "\\N", "-",
    "?", "inf", "-inf", "Infinity", "-Infinity",
)  # fmt: skip
"""How programs write that there is nothing, or no number, where a number would stand."""
_MARKS = ((".", ""), (".", ","), (",", ""), (",", "."), (",", " "), (".", " "), (".", "'"))
"""(decimal, thousands) of numbers, the likeliest first."""
_NUMBER_LIKE = re.compile(r"[+-]?[\d.,' ]*\d").fullmatch


class Column:
    """One column of the sample, and what can be seen of it at a glance.

    Attributes:
        name: as the file has it, or made up where it has none.
        cells: one per line.
        filled: those that are not empty.
        decimal: the mark before the fraction of numbers that are text.
    """

    def __init__(
        self,
        name: str,
        cells: Sequence[Any],
        missing: Collection[str] = (),
        decimal: str = ".",
        thousands: str = "",
    ) -> None:
        self.name = name
        self.cells = cells
        self.decimal = decimal
        self._read = number_reader(decimal, thousands)
        is_missing = missing_test(DataSettings(missing=list(missing)))
        self.filled = [cell for cell in cells if not is_missing(cell)]

    @cached_property
    def words(self) -> set[str]:
        """The name's words, lower case: those of `userId`, `user_id` and `userid` are user and id."""
        apart = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", self.name)
        words = {word.lower() for word in re.split(r"[\W_]+", apart) if word}
        return words | {
            part for word in words if len(word) > 4 and word.endswith("id") for part in (word[:-2], "id")
        }

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each value is there, as text."""
        return Counter(str(cell) for cell in self.filled)

    @cached_property
    def numbers(self) -> list[float] | None:
        """The filled cells as finite numbers; None: they are not all such, or there is none."""
        found = []
        for cell in self.filled:
            if isinstance(cell, bool | list | dict | datetime.date):
                return None
            try:
                found.append(self._read(cell))
            except ValueError:
                return None
        return found or None

    @property
    def whole(self) -> bool:
        """Whether all are whole numbers, written as such."""
        return self.numbers is not None and not any(
            isinstance(cell, float) or self.decimal in str(cell) or "e" in str(cell).lower()
            for cell in self.filled
        )


class Sample(NamedTuple):
    """The beginning of a data file."""

    format: str
    delimiter: str  # of a CSV
    unnamed: bool  # the file's name does not say what format it has
    names_missing: bool
    columns: list[Column]
    lines: int
    bad: int  # lines that cannot be taken apart
    why: dict[str, str]  # by key of [data]: why it is as it is
    missing: tuple[str, ...] = ()  # what stands for nothing, beside an empty cell
    marks: tuple[str, str] = (".", "")  # of numbers: before the fraction, and between the thousands
    marks_sure: bool = True


def read_sample(path: Path, lines_max: int = LINES_MAX) -> Sample:
    """The file's first lines.

    Raises:
        InitError: it is empty, or no table.
        SourceError: there is no such file, or its format cannot be told.
    """
    return _with_marks(_read_sample(path, lines_max))


def _with_marks(sample: Sample) -> Sample:
    """The same sample, with what stands for nothing in it, and with how its numbers are written."""
    missing: dict[str, str] = {}  # each with a column where it stands among numbers or times
    for column in sample.columns:
        here = sorted(column.counts.keys() & set(_NOTHING))
        rest = [cell for cell in column.filled if str(cell) not in here] if here else []
        if rest and ("\\N" in here or _measured(rest)):
            missing |= dict.fromkeys(here, column.name)
    if any(isinstance(cell, float) and cell != cell for column in sample.columns for cell in column.filled):
        missing["NaN"] = next(c.name for c in sample.columns if any(cell != cell for cell in c.filled))

    def columns(decimal: str = ".", thousands: str = "") -> list[Column]:
        return [Column(c.name, c.cells, list(missing), decimal, thousands) for c in sample.columns]

    found, marks, sure = columns(), _MARKS[0], True
    plain = {column.name for column in found if column.numbers is not None}
    odd = [c for c in found if c.name not in plain and c.filled and _NUMBER_LIKE(str(c.filled[0]).strip())]
    if sample.format == "csv" and odd:
        for other in _MARKS[1:]:
            tried = columns(*other)
            more = {column.name for column in tried if column.numbers is not None}
            if more > plain:
                new = [cell for column in tried if column.name in more - plain for cell in column.filled]
                found, marks, plain = tried, other, more
                sure = any(not re.fullmatch(r"[^.,]*[.,]\d{3}|[^.,]*", cell) for cell in new)
    why = dict(sample.why)
    if missing:
        where = ", ".join(dict.fromkeys(missing.values()))
        why["missing"] = f"stands where others have a value, in {where}: read as an empty cell"
    if marks != _MARKS[0]:
        first = next(column for column in odd if column.name in plain)
        example = next(cell for cell in first.filled if Column("", [cell]).numbers is None)
        why["decimal"] = f"numbers as {shown(example)} in {first.name}"
    return sample._replace(columns=found, missing=tuple(missing), marks=marks, marks_sure=sure, why=why)


def _measured(cells: Sequence[Any]) -> bool:
    """Whether all are numbers, or all are times."""
    return any(Column("", cells, (), *marks).numbers for marks in _MARKS) or all(map(is_time_text, cells))


def _read_sample(path: Path, lines_max: int) -> Sample:
    told = _format_of(path)
    kind = detect_format(path, DataSettings(format=told))
    if kind == "csv":
        return _csv_sample(path, told != "auto", lines_max)
    if kind == "examples":
        raise InitError(
            f"{path}: was written by `freshet export`, and what is in it has its roles already; the config "
            "that it was exported with fits"
        )
    rows, _, _ = open_table(path, kind, _no_columns(path, kind))
    found: list[dict[str, Any]] = []
    bad = 0
    for row in itertools.islice(rows, lines_max):
        if isinstance(row, FreshetError):
            bad += 1
        else:
            found.append(row.cells)
    if not found:
        raise InitError(f"{path}: there is no line in it that can be used")
    if kind == "jsonl" and {"request_id", "candidates"} <= set(found[0]):
        raise InitError(
            f"{path}: these are events as producers send them, with slates of candidates; send them with "
            "`freshet produce --events`, with a config that names their features"
        )
    names = list(dict.fromkeys(itertools.chain.from_iterable(found)))
    columns = [Column(name, [row.get(name) for row in found]) for name in names]
    return Sample(kind, ",", False, False, columns, len(found), bad, {})


def _format_of(path: Path) -> Any:
    """`csv` for text with a name that says nothing; else what the name says."""
    name = path.with_suffix("") if path.suffix == ".gz" else path
    text = name.suffix.lower() in ("", ".txt", ".log", ".data", ".dat", ".train", ".test", ".tab")
    return "csv" if text and path.is_file() and path.name not in ("ratings.dat", "ratings.csv") else "auto"


def _no_columns(path: Path, kind: str) -> DataSettings:
    """Settings under which every column of a file comes as a feature, labels and times too."""
    if kind == "jsonl":
        return DataSettings(time="", label="")
    import pyarrow
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
    except pyarrow.ArrowException as error:
        raise InitError(f"{path}: cannot be read as Parquet: {error}") from None
    if not names:
        raise InitError(f"{path}: has no columns")
    # any column serves as label while nothing is converted
    return DataSettings(time="", label=names[0], features={name: name for name in names})


# CSV


def _csv_sample(path: Path, unnamed: bool, lines_max: int) -> Sample:
    lines, whole = _lines(path, lines_max)
    if not lines:
        raise InitError(f"{path}: is empty")
    delimiter, why = _delimiter(lines)
    rows, bad = _rows(lines, delimiter, whole)
    if not any(line.strip() for line in lines):
        raise InitError(f"{path}: has only blank lines")
    if not rows:
        raise InitError(f"{path}: no line can be taken apart with the delimiter {_NAMES[delimiter]}")
    width = Counter(len(row) for row in rows).most_common(1)[0][0]
    if width < 2:
        raise InitError(
            f"{path}: looks like one column only; expected a table with a label, a time and features, its "
            "cells between tabs, commas, semicolons, bars or spaces"
        )
    bad += sum(len(row) != width for row in rows)
    rows = [row for row in rows if len(row) == width]
    missing, why_header = _names_missing(rows)
    names = [f"c{i}" for i in range(1, width + 1)] if missing else rows[0]
    body = rows if missing else rows[1:]
    if not body:
        raise InitError(f"{path}: has a line of names and nothing else")
    if bad > BAD_SHARE_MAX * (len(body) + bad):
        raise InitError(
            f"{path}: {bad:,} of {len(body) + bad:,} lines have another number of cells than {width}, or a "
            "quote that does not end; expected a table"
        )
    columns = [Column(name, cells) for name, cells in zip(names, zip(*body, strict=True), strict=True)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InitError(f"{path}:1: two columns have the name {twice!r}; rename one")
    why_all = {"delimiter": why, "columns": why_header}
    return Sample("csv", delimiter, unnamed, missing, columns, len(body), bad, why_all)


def _lines(path: Path, lines_max: int) -> tuple[list[str], bool]:
    """The first lines of text, and whether they are all."""
    found: list[str] = []
    size = 0
    try:
        refuse_packed(path)
        with open_text(path) as file:
            for line in file:
                size += len(line)
                if len(found) > lines_max or size > BYTES_MAX:
                    return found, False
                found.append(line)
    except UnicodeDecodeError as error:
        encoding = "utf-16" if not found and error.object[:2] in _UTF_16 else "latin1"
        number = len(found) + 1 + error.object.count(b"\n", 0, error.start)
        raise InitError(
            f"{path}: is no text in UTF-8 ({error.reason} near line {number}); "
            f"`iconv -f {encoding} -t utf-8` may help"
        ) from None
    except DAMAGED as error:
        raise InitError(f"{path}: the gzip file is damaged: {error}") from None
    except OSError as error:
        raise InitError(f"{path}: cannot be read: {error.strerror}") from None
    return found, True


def _delimiter(lines: Sequence[str]) -> tuple[str, str]:
    """The delimiter and why.

    `csv.Sniffer` is not used: it counts characters without heeding quotes, so that a column of quoted
    lists or a time with a space in it leads it astray.
    """
    best = ("\t", 0.0, 1, False)
    for group in _DELIMITERS:
        for delimiter in group:
            rows, bad = _rows(lines[:500], delimiter)
            widths = Counter(len(row) for row in rows)
            width, often = widths.most_common(1)[0] if widths else (1, 0)
            share = often / max(len(rows) + bad, 1)
            # The first line, of names, has to be taken apart as well: commas may be within every cell below.
            whole = share >= _WHOLE_SHARE and len(rows[0]) == width
            if width > 1 and (whole, width, share) > (best[3], best[2], best[1]):
                best = (delimiter, share, width, whole)
        if best[3]:
            break
    delimiter, share, width, _ = best
    return delimiter, f"{_NAMES[delimiter]}: it gives {width} cells on {share:.0%} of the lines"


def _rows(lines: Sequence[str], delimiter: str, whole: bool = False) -> tuple[list[list[str]], int]:
    """The lines' cells, and how many lines cannot be taken apart; the last of not the whole may be cut."""
    reader: Iterator[list[str]] = csv.reader(lines, delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    bad = 0
    torn = False
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return rows, bad - (torn and not whole)
        except csv.Error:
            bad += 1
            torn = True
            continue
        torn = False
        if row:
            rows.append(row)


def _names_missing(rows: Sequence[Sequence[str]]) -> tuple[bool, str]:
    """Whether the first line is data, and why that is thought."""
    first, body = rows[0], rows[1:]
    number = next((cell for cell in first if Column("", [cell]).numbers), None)
    if number is not None:
        return True, f"the first line is data, not names: it has the number {number} in it"
    below = list(zip(*body, strict=True))
    if any(Column("", cells).numbers for cells in below):
        return False, "the first line has the names: it is text above numbers"
    for name, cells in zip(first, below, strict=True) if body else ():
        if name in cells[:1000]:
            return True, f"the first line is data, not names: {name!r} comes again below it"
    return False, "the first line has the names"


def is_time_text(cell: Any) -> bool:
    """Whether a cell is a time or a date as ISO 8601 writes it."""
    if isinstance(cell, datetime.date):
        return True
    if not isinstance(cell, str) or cell.isdigit() or len(cell) < 8:
        return False
    try:
        datetime.datetime.fromisoformat(cell)
    except ValueError:
        return False
    return True


def shown(value: Any) -> str:
    """A cell in a sentence, shortened."""
    text = str(value)
    return msgspec.json.encode(text if len(text) <= 24 else text[:23] + "…").decode()

"""A bounded sample of an unknown data file: its format, names, cells, and the marks of its numbers.

Every finding comes with a reason for the readers of the resulting config. The sample has every line of the
beginning and a share of the rest, so that it also shows columns that are filled later.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from freshet.init.column import NOTHING, Column, is_time_text, shown
from freshet.init.foreign import foreign_format
from freshet.init.labels.words import are_answers
from freshet.init.messages import error
from freshet.init.text import find_layout
from stream.errors import SourceError
from stream.files.columns import DataSettings, Format
from stream.files.csv_rows import Dialect, Row, read_rows
from stream.files.sources import detect_format
from stream.files.tabular import DAMAGED, open_table, open_text, parquet_columns, refuse_packed
from stream.files.times import Cell

T = TypeVar("T")

HEAD_LINES = 5_000
LATER_LINES = 5_000  # lines from the rest of the file, at most
READ_LINES = 300_000
READ_BYTES = 64 << 20  # of text
BAD_SHARE_MAX = 0.05  # share of unusable lines
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how its files begin
_MARKS = ((".", ""), (".", ","), (",", ""), (",", "."), (",", " "), (".", " "), (".", "'"))
"""(decimal, thousands) marks of numbers, the likeliest first."""
_NUMBER_LIKE = re.compile(r"[+-]?[\d.,' ]*\d").fullmatch


class Sample(NamedTuple):
    """Lines from the beginning of a data file, and some of the rest."""

    format: str
    dialect: Dialect  # of a CSV
    skip: int  # lines before its names
    unnamed: bool  # the file's name does not show its format
    names_missing: bool
    columns: list[Column]
    lines: int
    head: int  # number of the first lines, which are consecutive
    looked_at: int  # lines of the file that the sample was taken from
    bad: int  # number of unusable ones among them
    first_bad: str
    why: dict[str, str]  # reasons, by key of [data]
    missing: tuple[str, ...] = ()  # cells that count as empty
    marks: tuple[str, str] = (".", "")  # decimal mark, thousands separator
    marks_sure: bool = True


def read_sample(path: Path) -> Sample:
    """Read the first lines of a file, and some of the rest.

    Raises:
        InitError: it is empty, or no table.
        SourceError: there is no such file, or its format cannot be recognised.
    """
    return _with_marks(_read_sample(path))


def spread(items: Iterable[T], head: int = HEAD_LINES, later: int = LATER_LINES) -> tuple[list[T], int]:
    """The first `head` items and evenly spread ones of the rest, at most `later`; and the number of the head.

    >>> spread(range(20), head=3, later=4)
    ([0, 1, 2, 3, 11, 19], 3)
    """
    source = iter(items)
    first = list(itertools.islice(source, head))
    kept: list[T] = []
    step = 1
    for number, item in enumerate(source):
        if number % step == 0:
            kept.append(item)
            if len(kept) > later:
                kept = kept[::2]
                step *= 2
    return first + kept, len(first)


def _with_marks(sample: Sample) -> Sample:
    """The same sample, with the cells that count as empty and the marks of its numbers."""
    missing: dict[str, str] = {}  # each with a column in which it occurs among numbers or times
    for column in sample.columns:
        here = sorted(column.counts.keys() & set(NOTHING))
        rest = [cell for cell in column.filled if str(cell) not in here] if here else []
        if rest and ("\\N" in here or _measured(rest) or are_answers({str(cell) for cell in rest})):
            missing |= dict.fromkeys(here, column.name)

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


def _measured(cells: Sequence[Cell]) -> bool:
    """Whether all cells are numbers, or all are times."""
    return any(Column("", cells, (), *marks).numbers for marks in _MARKS) or all(map(is_time_text, cells))


def _read_sample(path: Path) -> Sample:
    named = _format_of(path)
    kind = detect_format(path, DataSettings(format=named))
    if kind == "csv":
        return _csv_sample(path, named != "auto")
    if kind == "examples":
        raise error("exported", path=path)
    rows, _, _ = open_table(path, kind, _no_columns(path, kind))
    bad = _Bad()
    good, head = spread(row.cells for row in bad.without(itertools.islice(rows, READ_LINES)))
    if not good:
        raise error("no line", path=path, first=bad.first) if bad.lines else error("empty", path=path)
    bad.check(path, bad.good)
    if kind == "jsonl" and {"request_id", "candidates"} <= set(good[0]):
        raise error("events", path=path)
    names = list(dict.fromkeys(itertools.chain.from_iterable(good)))
    columns = [Column(name, [row.get(name) for row in good]) for name in names]
    return Sample(
        kind, Dialect(), 0, False, False, columns, len(good), head, bad.looked_at, bad.lines, bad.first, {}
    )


class _Bad:
    """Counts unusable lines."""

    def __init__(self) -> None:
        self.lines = self.good = 0
        self.first = ""

    def without(self, rows: Iterable[T | SourceError]) -> Iterator[T]:
        """The good rows."""
        for row in rows:
            if isinstance(row, SourceError):
                self.note(str(row))
            else:
                self.good += 1
                yield row

    @property
    def looked_at(self) -> int:
        """Lines, good and bad."""
        return self.good + self.lines

    def note(self, why: str) -> None:
        self.lines += 1
        self.first = self.first or why

    def check(self, path: Path, good: int) -> None:
        """Check that the unusable lines are few enough.

        Raises:
            InitError: more than `BAD_SHARE_MAX` of them.
        """
        if self.lines > BAD_SHARE_MAX * (good + self.lines):
            raise error(
                "too bad",
                path=path,
                bad=self.lines,
                lines=good + self.lines,
                most=BAD_SHARE_MAX,
                first=self.first,
            )


def _format_of(path: Path) -> Format:
    """Text without a telling name counts as "csv"; else the name shows the format: "auto"."""
    name = path.with_suffix("") if path.suffix == ".gz" else path
    text = name.suffix.lower() in (
        "", ".txt", ".log", ".data", ".dat", ".train", ".test", ".tab", ".vw", ".svm", ".libsvm", ".ffm",
        ".libffm", ".inter",
    )  # fmt: skip
    return "csv" if text and path.is_file() and path.name not in ("ratings.dat", "ratings.csv") else "auto"


def _no_columns(path: Path, kind: str) -> DataSettings:
    """Settings that make every column of a file a feature, times and labels too."""
    if kind == "jsonl":
        return DataSettings(time="", label="")
    import pyarrow

    try:
        names = parquet_columns(path)
    except pyarrow.ArrowException as found:
        raise error("not parquet", path=path, why=found) from None
    if not names:
        raise error("no columns", path=path)
    # any column can serve as the label, because nothing is converted
    return DataSettings(time="", label=names[0], features={name: name for name in names})


# CSV


def _csv_sample(path: Path, unnamed: bool) -> Sample:
    try:
        refuse_packed(path)
        lines, whole = _lines(path)
    except DAMAGED as found:
        raise error("damaged", path=path, why=found) from None
    except OSError as found:
        raise error("unreadable", path=path, why=found.strerror) from None
    if not lines:
        raise error("empty", path=path)
    if not any(line.strip() for line in lines):
        raise error("blank", path=path)
    foreign = foreign_format(lines, path)
    if foreign is not None:
        raise error("foreign", path=path, name=foreign.name, command=foreign.command)
    layout = find_layout(lines[: HEAD_LINES + 1])
    if layout is None:
        raise error("one column", path=path)
    bad = _Bad()
    rows, head = spread(
        bad.without(_rows(path, lines[layout.skip :], layout.dialect, layout.skip, layout.width, whole))
    )
    if layout.names:
        if len(set(layout.names)) < len(layout.names):
            twice = next(name for name in layout.names if layout.names.count(name) > 1)
            raise error("twice", path=path, line=layout.skip + 1, name=twice)
        rows, head = rows[1:], head - 1
    names = layout.names or [f"c{i}" for i in range(1, layout.width + 1)]
    if not rows:
        raise error("names only", path=path)
    bad.good -= bool(layout.names)
    bad.check(path, bad.good)
    columns = [Column(name, cells) for name, cells in zip(names, zip(*rows, strict=True), strict=True)]
    return Sample(
        "csv", layout.dialect, layout.skip, unnamed, not layout.names, columns, len(rows), head,
        bad.looked_at, bad.lines, bad.first, layout.why,
    )  # fmt: skip


def _rows(
    path: Path, lines: Sequence[str], dialect: Dialect, skip: int, width: int, whole: bool
) -> Iterator[list[str] | SourceError]:
    """The cells of each line, or the error of an unusable line."""
    waiting: Row | None = None  # the last row of a truncated sample may be incomplete
    for row in read_rows(lines, dialect, skip + 1):
        if waiting is not None:
            yield from _row(path, waiting, width)
        waiting = row
    if waiting is not None and whole:
        yield from _row(path, waiting, width)


def _row(path: Path, row: Row, width: int) -> Iterator[list[str] | SourceError]:
    if len(row.cells) == width:
        yield row.cells
    elif row.error:
        yield SourceError(f"{path}:{row.line}: {row.error}")
    elif row.cells:
        yield SourceError(f"{path}:{row.line}: {len(row.cells)} cells; expected {width}")


def _lines(path: Path) -> tuple[list[str], bool]:
    """The first lines of text, and whether they are all lines."""
    found: list[str] = []
    size = 0
    try:
        with open_text(path) as file:
            for line in file:
                size += len(line)
                if len(found) >= READ_LINES or size > READ_BYTES:
                    return found, False
                found.append(line)
    except UnicodeDecodeError as wrong:
        encoding = "utf-16" if not found and wrong.object[:2] in _UTF_16 else "latin1"
        number = len(found) + 1 + wrong.object.count(b"\n", 0, wrong.start)
        raise error("not utf-8", path=path, why=wrong.reason, line=number, encoding=encoding) from None
    return found, True

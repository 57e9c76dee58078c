"""Rows of delimited text, read so that a stray quote cannot swallow other rows.

With Python's csv reader, a quote that is never closed silently swallows the rest of the file, and one that is
closed fifty lines later makes one cell of them. Here a cell may span `CELL_LINES_MAX` lines, and never whole
rows. A line that breaks this rule is an error that names both line numbers; reading continues with the next
line.
"""

import csv
from collections.abc import Iterable, Iterator
from typing import NamedTuple

CELL_LINES_MAX = 10
WHOLE_ROWS_FROM = 4
"""A line inside a quoted cell counts as a row if it has as many cells as the row, and at least this many."""


class Dialect(NamedTuple):
    """How text is split into cells.

    Attributes:
        delimiter: between cells.
        quote: around a cell that contains delimiters; empty: quotes have no meaning.
        escape: before a quote inside a cell, in addition to doubling it; empty: none.
    """

    delimiter: str = ","
    quote: str = '"'
    escape: str = ""


class Row(NamedTuple):
    """One row, or the error of a line that is none.

    Attributes:
        line: number of its first line, from 1.
        cells: empty if the line cannot be split, or is blank.
        error: why it cannot be split.
    """

    line: int
    cells: list[str]
    error: str = ""


class _TooLongError(Exception):
    """A cell spans too many lines."""


class _Lines:
    """The lines of a file, with line numbers; the last few can be pushed back and read again."""

    def __init__(self, lines: Iterable[str], line: int) -> None:
        self._lines = iter(lines)
        self._again: list[str] = []  # pushed back; the next one is last
        self.line = line  # of the last one read
        self.row: list[str] = []  # the lines of the current row

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        row = self.row
        if len(row) >= CELL_LINES_MAX:
            raise _TooLongError
        text = self._again.pop() if self._again else next(self._lines)
        self.line += 1
        row.append(text)
        return text

    def back_to_second(self) -> None:
        """Push back all lines of the current row but its first."""
        self.line -= len(self.row) - 1
        self._again += reversed(self.row[1:])
        self.row = []


def read_rows(lines: Iterable[str], dialect: Dialect, line: int = 1) -> Iterator[Row]:
    """Split text into rows; blank lines are rows without cells.

    Args:
        lines: with their ends.
        line: the number of the first one.
    """
    source = _Lines(lines, line - 1)
    reader = _reader(source, dialect)
    while True:
        begin = source.line + 1
        source.row = []
        error = ""
        try:
            cells = next(reader)
        except StopIteration:
            if not source.row:
                return
            error = _unended(begin, source.line)  # the file ends within a quoted cell
        except _TooLongError:
            error = _unended(begin, source.line)
        except csv.Error as found:
            error = f"{found}{_hint(begin, source.line)}"
        if not error and len(source.row) > 1 and _whole_rows(source.row, cells, dialect.delimiter):
            error = (
                f"a quote opens a cell that ends at line {source.line}, and the lines between are whole rows;"
                f"{QUOTE_HINT}"
            )
        if error:
            source.back_to_second()
            reader = _reader(source, dialect)
            yield Row(begin, [], error)
        else:
            yield Row(begin, cells)


QUOTE_HINT = ' take the quote out, or set quote = "" in [data] if quotes mean nothing in this file'


def _unended(begin: int, end: int) -> str:
    return (
        f"a quote opens a cell that has not ended by line {end} (it may span {CELL_LINES_MAX} lines);"
        f"{QUOTE_HINT}"
    )


def _hint(begin: int, end: int) -> str:
    return f" (in a cell that ends at line {end})" if end > begin else ""


def _whole_rows(lines: list[str], cells: list[str], delimiter: str) -> bool:
    """Whether each line has as many delimiters as the whole row, and so is a row by itself."""
    width = len(cells)
    return width >= WHOLE_ROWS_FROM and all(text.count(delimiter) == width - 1 for text in lines)


def _reader(source: _Lines, dialect: Dialect) -> Iterator[list[str]]:
    if not dialect.quote:
        return csv.reader(source, delimiter=dialect.delimiter, quoting=csv.QUOTE_NONE, strict=True)
    return csv.reader(
        source,
        delimiter=dialect.delimiter,
        quotechar=dialect.quote,
        escapechar=dialect.escape or None,
        strict=True,
    )

"""The rows of text with delimiters, each with its lines, so that a stray quote cannot swallow any.

A quote that opens a cell and is never closed reads on to the end of the file, and one that is closed fifty
lines later makes one cell of them: a csv reader takes both without a word. Here a cell may span
`CELL_LINES_MAX` lines, and never whole rows. What breaks the rule costs one line, and is said with both
line numbers; reading goes on at the line behind.
"""

import csv
from collections.abc import Iterable, Iterator
from typing import NamedTuple

CELL_LINES_MAX = 10
WHOLE_ROWS_FROM = 4
"""Cells of a row, from which on a line inside a quoted cell that has as many is taken for a row."""


class Dialect(NamedTuple):
    """How text is divided into cells.

    Attributes:
        delimiter: between cells.
        quote: around a cell that holds delimiters; empty: quotes mean nothing.
        escape: before a quote inside a cell, beside doubling it; empty: there is none.
    """

    delimiter: str = ","
    quote: str = '"'
    escape: str = ""


class Row(NamedTuple):
    """One row, or why there is none.

    Attributes:
        line: where it begins, from 1.
        cells: empty where the line cannot be taken apart, or is blank.
        error: why it cannot.
    """

    line: int
    cells: list[str]
    error: str = ""


class _TooLongError(Exception):
    """A cell spans too many lines."""


class _Lines:
    """The lines of a file, counted, of which the last few can be read again."""

    def __init__(self, lines: Iterable[str], line: int) -> None:
        self._lines = iter(lines)
        self._again: list[str] = []  # to be read before the others, the first one last
        self.line = line  # of the last one read
        self.row: list[str] = []  # the lines of the row that is being read

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
        """Let all lines of the row but its first be read again."""
        self.line -= len(self.row) - 1
        self._again += reversed(self.row[1:])
        self.row = []


def read_rows(lines: Iterable[str], dialect: Dialect, line: int = 1) -> Iterator[Row]:
    """The rows of text, blank ones with no cells.

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
    """Whether each line of a row has as many delimiters as the row itself: each is a row of its own."""
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

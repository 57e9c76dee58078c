"""Finds the layout of a text file: delimiter, quotes, lines before the table, and names of columns.

`csv.Sniffer` is not used: it counts characters and ignores quotes, so a column of quoted lists or a time with
a space misleads it.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from freshet.init.column import NOTHING, Column, is_time_text
from stream.files.csv_rows import Dialect, Row, read_rows

TITLES_MAX = 5  # lines before the names
_DELIMITERS = (("\t", ",", ";"), ("|",), (" ",))
"""Groups of delimiters, the likeliest first; a later group is tried if no delimiter of an earlier one fits.
"""
_QUOTINGS = (Dialect(), Dialect(escape="\\"), Dialect(quote=""))
"""By how likely they are."""
_WHOLE_SHARE = 0.95  # share of the lines with the same number of cells that a delimiter needs
_LOOKED_AT = 500  # lines
DELIMITER_NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar", " ": "space"}


class TextLayout(NamedTuple):
    """How a text file is divided.

    Attributes:
        dialect: of its rows.
        skip: lines before the names, or before the data where there are no names.
        width: cells of a row.
        names: of the columns; empty: the first line is data.
        why: the reasons, by key of [data].
    """

    dialect: Dialect
    skip: int
    width: int
    names: list[str]
    why: dict[str, str]


def find_layout(lines: Sequence[str]) -> TextLayout | None:
    """Find the layout of a file that begins with these lines; None: it has one column only."""
    declared = re.fullmatch(r'"?sep=(.)"?\s*', lines[0], re.IGNORECASE)
    skip = 1 if declared else 0
    if declared:
        delimiter, why = declared[1], "as its first line says"
    else:
        delimiter, why, skip = _delimiter(lines)
    dialect, why_quote = _quotes(lines[skip:], delimiter)
    rows = [row for row in read_rows(lines[skip:], dialect, skip + 1) if row.cells]
    if not rows:
        return None
    width = _width(rows)[0]
    if width < 2:
        return None
    body = [row.cells for row in rows if len(row.cells) == width]
    names, why_names = _names(body)
    reasons = {"delimiter": why, "columns": why_names, **why_quote}
    if skip:
        reasons["skip_lines"] = f"what stands before the table: {lines[0].strip()[:40]}"
    return TextLayout(dialect, skip, width, names, reasons)


def _width(rows: Sequence[Row]) -> tuple[int, int]:
    """(the most frequent number of cells of a row, how many rows have it)."""
    widths = Counter(len(row.cells) for row in rows if row.cells)
    return widths.most_common(1)[0] if widths else (1, 0)


def _delimiter(lines: Sequence[str]) -> tuple[str, str, int]:
    """(delimiter, reason, number of lines before the table)."""
    skips = (range(1), range(1, TITLES_MAX + 1))
    found = []
    for skip, usual in itertools.product(skips, _QUOTINGS):
        best = ("\t", 0.0, 1, 0, False)
        for group in _DELIMITERS:
            for delimiter in group:
                dialect = usual._replace(delimiter=delimiter)
                rows = [row for row in read_rows(lines[:_LOOKED_AT], dialect) if row.cells or row.error]
                if not rows:
                    continue
                width = _width(rows)[0]
                # the line of names must be split too: each cell below may contain commas
                first = next((row.line for row in rows if len(row.cells) == width), 1)
                whole_rows = [row for row in rows if row.line >= first]
                share = sum(len(row.cells) == width for row in whole_rows) / len(whole_rows)
                whole = share >= _WHOLE_SHARE and first - 1 in skip and len(whole_rows) > 1
                if width > 1 and (whole, width, share) > (best[4], best[2], best[1]):
                    best = (delimiter, share, width, first - 1, whole)
            if best[4]:
                break
        found.append(best)
        if best[4]:
            break
    delimiter, share, width, before, whole = found[-1] if found[-1][4] else found[0]
    name = DELIMITER_NAMES[delimiter]
    return delimiter, f"{name}: it gives {width} cells on {share:.0%} of the lines", before if whole else 0


def _quotes(lines: Sequence[str], delimiter: str) -> tuple[Dialect, dict[str, str]]:
    """How to read quotes: in the way that reads the most lines; in a tie, the usual way."""
    best, most, why = Dialect(delimiter), -1, {}
    for dialect, reason in (
        (_QUOTINGS[0], {}),
        (_QUOTINGS[1], {"escape": "a backslash stands before the quotes within cells"}),
        (_QUOTINGS[2], {"quote": "quotes mean nothing: so more lines can be read"}),
    ):
        dialect = dialect._replace(delimiter=delimiter)
        rows = list(read_rows(lines, dialect))
        good = _width(rows)[1]
        if good > most:
            best, most, why = dialect, good, reason
        if good == len(rows):
            break
    return best, why


def _names(rows: Sequence[Sequence[str]]) -> tuple[list[str], str]:
    """The names in the first row, or none if it is data; and the reason."""
    first, body = rows[0], rows[1:]
    below = [Column("", cells, NOTHING) for cells in zip(*body, strict=True)]
    alone = [Column("", [cell], NOTHING) for cell in first]
    for name, cell, column in zip(first, alone, below, strict=True) if body else ():
        of_values = column.numbers is not None or (column.filled and all(map(is_time_text, column.filled)))
        if of_values and cell.filled and cell.numbers is None and not is_time_text(name):
            return list(first), "the first line has the names: it is text above values"
    if len(first) > 2 and [str(i) for i in range(len(first))] == list(first):
        return list(first), "the first line has the names: the numbers of the columns"
    number = next((cell.filled[0] for cell in alone if cell.numbers), None)
    if number is not None:
        return [], f"the first line is data, not names: it has the number {number} in it"
    if any(is_time_text(cell) for cell in first):
        return [], "the first line is data, not names: it has a time in it"
    for name, column in zip(first, below, strict=True) if body else ():
        if name and name in column.counts:
            return [], f"the first line is data, not names: {name!r} comes again below it"
    return list(first), "the first line has the names"

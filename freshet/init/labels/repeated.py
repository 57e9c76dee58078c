"""Whether a file's lines are events: what was shown has a line, and so has each thing that became of it."""

from collections.abc import Sequence

from freshet.init.answers import Answer
from freshet.init.column import Column
from freshet.init.labels.first import read_labels

REPEATED_FROM = 0.5
"""Share of the lines of ones that repeat a line of zero from which lines seem to be events."""
CHANCE_MAX = 0.3
"""Share of the lines of zero that repeat another one up to which that is no chance."""
FILLED_FROM = 0.95
LINES_MIN = 20


def repeated_share(columns: Sequence[Column], time: Column | None, label: Answer) -> float:
    """The share of the lines that count as 1 whose other cells repeat an earlier line that counts as 0; 0 if
    lines of zero repeat each other as well, or there are few lines.

    Columns that are empty now and then are left out: they hold what became of a line.
    """
    kept = [
        column
        for column in columns
        if column is not time
        and column is not label.column
        and len(column.filled) >= FILLED_FROM * len(column.cells)
        and len(column.counts) > 1
    ]
    if not kept:
        return 0.0
    seen: set[tuple[str, ...]] = set()
    lines, repeated = [0, 0], [0, 0]
    for y, *cells in zip(read_labels(label), *(column.cells for column in kept), strict=True):
        if y is None:
            continue
        kind, mark = int(y > 0.5), tuple(map(str, cells))
        lines[kind] += 1
        repeated[kind] += mark in seen
        if not kind:
            seen.add(mark)
    if min(lines) < LINES_MIN or repeated[0] > CHANCE_MAX * lines[0]:
        return 0.0
    return repeated[1] / lines[1]

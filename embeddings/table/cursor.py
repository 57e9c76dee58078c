"""A list of a table's changes for one consumer: taking them does not affect other consumers."""

from typing import TypeVar

import numpy as np

from embeddings.types import Keys, Lines
from ground.distinct import distinct

Part = TypeVar("Part", Keys, Lines)

COMPACT_FROM = 1 << 16
"""A longer list is deduplicated each time it has doubled."""


class Cursor:
    """The changes since this consumer last took them. `Table.open_cursor` makes a cursor.

    Keys wait here, nearly without repeats, until the consumer takes them: if it never does, the list holds
    one key for each row written or deleted. A cursor that is garbage-collected holds nothing.
    """

    def __init__(self) -> None:
        self._touched: list[Keys] = []
        self._deleted: list[Keys] = []
        self._lines: list[Lines] = []
        self.waiting = 0
        """Number of keys and lines that wait here."""
        self._compact_at = COMPACT_FROM

    def _set(self, touched: list[Keys], deleted: list[Keys], lines: list[Lines]) -> None:
        self._touched, self._deleted, self._lines = touched, deleted, lines
        self.waiting = sum(map(len, touched)) + sum(map(len, deleted)) + sum(map(len, lines))
        self._compact_at = max(2 * self.waiting, COMPACT_FROM)

    def note(self, touched: Keys, deleted: Keys, lines: Lines) -> None:
        """Add changes: keys (m,) and (d,), and numbers (l,) of filter lines."""
        for waiting, new in ((self._touched, touched), (self._deleted, deleted)):
            if len(new):
                waiting.append(new)
        if len(lines):
            self._lines.append(lines)
        self.waiting += len(touched) + len(deleted) + len(lines)
        if self.waiting > self._compact_at:
            once = self.take()
            self._set([once[0]], [once[1]], [once[2]])

    def take(self) -> tuple[Keys, Keys, Lines]:
        """Take all changes, each key and line once per list. Touched keys may have been deleted since."""
        empty = np.zeros(0, dtype=np.uint64)
        touched = _union(self._touched, empty)
        deleted = distinct(np.concatenate([empty, *self._deleted]))
        lines = _union(self._lines, empty.astype(np.uint32))
        self._set([], [], [])
        return touched, deleted, lines


def _union(parts: list[Part], empty: Part) -> Part:
    """The distinct values of the parts. A single part has no repeats and keeps its order."""
    if len(parts) > 1:
        return distinct(np.concatenate(parts))
    return parts[0] if parts else empty

"""A consumer's own list of what changed in a table: several may take changes, and none takes another's."""

from typing import TypeVar

import numpy as np

from embeddings.types import Keys, Lines

Part = TypeVar("Part", Keys, Lines)

COMPACT_FROM = 1 << 16
"""Entries from which a waiting list is looked through for repeats, each time that it has doubled."""


class Cursor:
    """What changed since this consumer took changes last. `Table.open_cursor` makes it.

    While others take theirs, keys wait here, each about once: a consumer that never takes its changes
    holds a key for each row written or deleted. One that is dropped holds nothing.
    """

    def __init__(self) -> None:
        self._touched: list[Keys] = []
        self._deleted: list[Keys] = []
        self._lines: list[Lines] = []
        self.waiting = 0
        """Keys and lines that wait here."""
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
        """All of it, each key and line once a list; it may name keys as touched that are gone by now."""
        empty = np.zeros(0, dtype=np.uint64)
        touched = _union(self._touched, empty)
        deleted = np.unique(np.concatenate([empty, *self._deleted]))
        lines = _union(self._lines, empty.astype(np.uint32))
        self._set([], [], [])
        return touched, deleted, lines


def _union(parts: list[Part], empty: Part) -> Part:
    """The distinct values; one part has no repeats and keeps its order."""
    if len(parts) > 1:
        return np.unique(np.concatenate(parts))
    return parts[0] if parts else empty

"""All rows of a table as of one commit, read from its store a page at a time while the table changes."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from embeddings.rest.entries import RowEntries, View, ViewedSource
from embeddings.rest.stored import RestMeta, StoredRest
from embeddings.rest.table import RestingTable
from embeddings.save.delta import numbers
from embeddings.types import Floats, Keys


class FrozenRows:
    """The rows that a resting table has after a commit, made before that commit is written.

    Each row is once in the store as it was then: those that were in memory and newer than their entry are in
    the deltas of the log, all others are entries.

    Args:
        table: after `RestingSnapshot.rest`.
        source: the store, in which the rows rest.
        prefix: of the table's keys.
        seq: of the last delta that the commit holds.
        where: name of the store in error messages.
    """

    def __init__(
        self, table: RestingTable, source: ViewedSource, prefix: bytes, seq: int, where: str
    ) -> None:
        self._source = source
        self._prefix = prefix
        self._seq = seq
        self._where = f"{where}: table {table.spec.name!r}"
        self._width = table.spec.width
        keys, self._delta = table.newer_than_entries()
        order = np.argsort(keys)
        self._newer, self._delta = keys[order], self._delta[order]
        self._view: View | None = None

    def open(self) -> None:
        """Hold on to what the store has now: after that commit, and before the next one.

        Raises:
            SnapshotError: the store is damaged, or has changed in between.
        """
        self._view = self._source.view()
        self._stored()

    def _stored(self) -> tuple[View, StoredRest, RestMeta]:
        assert self._view is not None, "it is open"
        stored = StoredRest(self._view, self._prefix, self._where)
        meta = stored.meta()
        if meta is None or meta.seq != self._seq:
            raise stored.wrong("a later commit came before its rows were read")
        return self._view, stored, meta

    def pages(self, count: int) -> Iterator[tuple[Keys, Floats]]:
        """Keys (n,) and whole rows (n, W) of all rows, about `count` at a time, even if they have expired or
        were evicted, unless they were removed.

        Call `open` before.

        Raises:
            SnapshotError: the store is damaged.
        """
        view, stored, meta = self._stored()
        if len(self._newer):
            for seq in range(meta.first, meta.seq + 1):
                for piece in stored.delta(seq).pieces:
                    keys = numbers(piece.keys, np.uint64)
                    rows = numbers(piece.rows, np.float32).reshape(len(keys), self._width)
                    mine = self._delta_of(keys) == seq
                    yield keys[mine], rows[mine]
        entries = RowEntries(view, self._prefix, self._width, self._where)
        after, last = None, False
        while not last:
            keys, rows, last = entries.page(after, count)
            if len(keys):
                after = int(keys[-1])
                mine = self._delta_of(keys) == 0
                yield keys[mine], rows[mine]

    def close(self) -> None:
        """Let the view go. Safe to call twice."""
        if self._view is not None:
            self._view.close()

    def _delta_of(self, keys: Keys) -> npt.NDArray[np.uint32]:
        """The delta with the row of each key, (n,); 0: its entry has it."""
        if not len(self._newer):
            return np.zeros(len(keys), dtype=np.uint32)
        at = np.minimum(np.searchsorted(self._newer, keys), len(self._newer) - 1)
        return np.where(self._newer[at] == keys, self._delta[at], np.uint32(0))

"""A snapshot of a model, published in pieces.

Rows in memory are read a page at a time and become records at once, in the commit whose update they show.
Rows that rest on disk are of that update too, but they are read while the learner goes on: each commit adds
some pages to the records that it sends. So neither the learner nor a server ever gathers all rows beside the
table. Until the last record nobody knows how many there will be: all others say that at least one more
follows. A crash cuts the snapshot short; readers forget it when the next one begins.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from embeddings import Table
from embeddings.rest.frozen import FrozenRows
from embeddings.save.delta import Changes
from learner.updates.format import Update

SEND_BYTES = 8 << 20
"""Rows in memory are made into records when so many bytes of them are read: all of a small model at once."""

PAGE_ROWS = 1 << 12
COMMIT_ROWS = 1 << 14
"""Rows that each commit sends, at least. With as many as its update has, a snapshot ends before the next is
due: that is when updates have the bytes of `snapshot_ratio` snapshots."""


class Resting(NamedTuple):
    """A table whose rows rest, and its rows as of the commit that is being filled."""

    name: str
    table: Table
    rows: FrozenRows


class Sent(NamedTuple):
    """What went into the outbox."""

    parts: int
    size: int  # bytes


Send = Callable[[Update, Sequence[tuple[str, Changes]], dict[str, bytes], bool], Sent]
"""Puts rows and arrays into the outbox, and whether more follows. The head has the first part's number."""


class SnapshotStream:
    """One snapshot that is being published.

    Args:
        head: of all its parts, with the entities.
        arrays: the dense weights as of the snapshot.
        resting: the tables whose rows are sent later.
        covered: bytes of updates since the last snapshot, which this one makes superfluous.
    """

    def __init__(
        self, head: Update, arrays: dict[str, bytes], resting: Sequence[Resting], covered: int
    ) -> None:
        self.covered = covered
        self.size = 0  # bytes sent
        self._head = head
        self._arrays = arrays
        self._resting = resting
        self._pages: Iterator[tuple[str, Changes]] | None = None

    def begin(self, send: Send, pages: Iterable[tuple[str, Changes]]) -> bool:
        """Send the rows in memory, in the commit that has filled the tables; returns whether it ends."""
        waiting: list[tuple[str, Changes]] = []
        size = 0
        for page in pages:
            waiting.append(page)
            size += page[1].keys.nbytes + page[1].rows.nbytes
            if size >= SEND_BYTES:
                self._send(send, waiting)
                waiting, size = [], 0
        if self._resting:
            self._send(send, waiting)
            return False
        self._send(send, waiting, self._arrays, more=False)
        return True

    def go_on(self, send: Send, rows: int) -> bool:
        """Send at least so many rows in the next commit, and the arrays at the end; returns whether it ends.

        Raises:
            SnapshotError: the store of the rows is damaged.
        """
        if self._pages is None:
            for _, _, frozen in self._resting:
                frozen.open()
            self._pages = self._changes()
        sent = 0
        while sent < max(rows, COMMIT_ROWS):
            page = next(self._pages, None)
            if page is None:
                self.close()
                self._send(send, [], self._arrays, more=False)
                return True
            self._send(send, [page])
            sent += len(page[1].keys)
        return False

    def close(self) -> None:
        """Give up what is not sent yet. Safe to call twice."""
        for _, _, frozen in self._resting:
            frozen.close()

    def _changes(self) -> Iterator[tuple[str, Changes]]:
        for name, table, frozen in self._resting:
            for keys, rows in frozen.pages(PAGE_ROWS):
                if len(keys):
                    yield name, Changes.of(table, keys=keys, rows=table.served(rows))

    def _send(
        self,
        send: Send,
        changes: Sequence[tuple[str, Changes]],
        arrays: dict[str, bytes] | None = None,
        more: bool = True,
    ) -> None:
        sent = send(self._head, changes, arrays or {}, more)
        self._head = msgspec.structs.replace(self._head, part=self._head.part + sent.parts, entities=[])
        self.size += sent.size

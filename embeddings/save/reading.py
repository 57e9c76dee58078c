"""Reads the pages of a snapshot: the next ones in a thread, beside whoever puts the last ones into a table.

Both need a processor most of the time and neither holds Python's lock for long, so a restore takes about as
long as the putting alone.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from embeddings.errors import SnapshotError
from embeddings.save.entries import Page, Source, decode_page
from ground import UNDECODABLE

READ_AT_ONCE = 4
"""Pages that are read together; as many again wait while these are put, so they bound the memory."""

BESIDE_BYTES = 1 << 20
"""Bytes read at once from which on a thread reads: less is read sooner than a thread begins."""


class PageKey(NamedTuple):
    """Where a page lies in a store."""

    key: bytes
    what: str  # for error messages


class ReadPage(NamedTuple):
    """A page and its size in the store."""

    page: Page
    size: int  # bytes


class PageReader:
    """Reads pages of one table's snapshot.

    Args:
        source: the store, which two threads may read at a time.
        where: table and store in error messages.
    """

    def __init__(self, source: Source, where: str) -> None:
        self._source = source
        self._where = where

    def pages(self, entries: Sequence[PageKey]) -> Iterator[ReadPage]:
        """The pages of entries, in order.

        Raises:
            SnapshotError: one is missing or damaged.
        """
        parts = [entries[begin : begin + READ_AT_ONCE] for begin in range(0, len(entries), READ_AT_ONCE)]
        for number, part in enumerate(parts):
            found = self._read(part)
            yield from found
            if sum(page.size for page in found) >= BESIDE_BYTES and number + 1 < len(parts):
                yield from self._beside(parts[number + 1 :])
                return

    def _beside(self, parts: Sequence[Sequence[PageKey]]) -> Iterator[ReadPage]:
        """The pages of all parts; each part is read while the caller uses the one before."""
        with ThreadPoolExecutor(1, "restore") as thread:
            coming: Future[list[ReadPage]] = thread.submit(self._read, parts[0])
            for part in parts[1:]:
                found = coming.result()
                coming = thread.submit(self._read, part)
                yield from found
            yield from coming.result()

    def _read(self, entries: Sequence[PageKey]) -> list[ReadPage]:
        found = []
        values = self._source.get_many([entry.key for entry in entries])
        for entry, value in zip(entries, values, strict=True):
            if value is None:
                raise SnapshotError(f"{self._where}: {entry.what} is missing")
            try:
                found.append(ReadPage(decode_page(value), len(value)))
            except (ValueError, *UNDECODABLE) as error:
                raise SnapshotError(f"{self._where}: {entry.what} cannot be read: {error}") from None
        return found

"""Reads what a table's resting snapshot holds beside the rows: description, filter lines, log of changes."""

from typing import NamedTuple

import msgspec
import numpy as np

from embeddings.errors import SnapshotError
from embeddings.rest.entries import RowSource
from embeddings.save.delta import Piece
from embeddings.save.entries import FORMAT_VERSION, GONE, decode_deleted, decode_page
from embeddings.spec import TableSpec
from embeddings.types import Keys, Lines
from ground import UNDECODABLE
from ground.sealed import unseal

META, LINE, CLOCK, DELTA = b"rest", b"line/", b"clock", b"delta/"


class RestMeta(msgspec.Struct):
    """The description of such a snapshot."""

    v: int
    spec: TableSpec
    seq: int = 0  # number of the last delta
    first: int = 1  # number of the first delta that is kept
    rows: int = 0  # in memory and at rest
    limits: list[tuple[int, int, int]] = []  # see `KeptLimits`


class StoredDelta(NamedTuple):
    """A delta in the store."""

    pieces: list[Piece]
    size: int  # bytes


class StoredRest:
    """Reads one table's snapshot.

    Args:
        source: the store.
        prefix: of all keys of the table.
        where: table and store in error messages.
    """

    def __init__(self, source: RowSource, prefix: bytes, where: str) -> None:
        self._source = source
        self._prefix = prefix
        self._where = where

    def meta(self) -> RestMeta | None:
        """The description; None: there is no such snapshot."""
        data = self._get(META)
        if data is None:
            return None
        try:
            meta = msgspec.msgpack.decode(unseal(data), type=RestMeta)
        except (ValueError, *UNDECODABLE) as error:
            raise self.wrong(f"its description cannot be read: {error}") from None
        if meta.v > FORMAT_VERSION:
            raise self.wrong(f"it has format {meta.v}; this Freshet reads formats up to {FORMAT_VERSION}")
        return meta

    def lines(self) -> tuple[Lines, Keys]:
        """Numbers (l,) and words (l, 8) of the filter's lines."""
        prefix = self._prefix + LINE
        at = len(prefix)
        found = [(key[at:], value) for key, value in self._source.scan(prefix)]
        if any(len(value) != 64 for _, value in found):
            raise self.wrong("a line of its admission filter is damaged")
        numbers = np.frombuffer(b"".join(key for key, _ in found), dtype=">u4").astype(np.uint32)
        return numbers, np.frombuffer(b"".join(value for _, value in found), dtype=np.uint64).reshape(-1, 8)

    def clock(self) -> bytes:
        """The counts of rows by last seen; empty where the table keeps none."""
        data = self._get(CLOCK)
        try:
            return b"" if data is None else bytes(unseal(data))
        except ValueError as error:
            raise self.wrong(f"its counts cannot be read: {error}") from None

    def gone(self) -> Keys:
        """The keys (n,) whose deletion is still to be reported."""
        return decode_deleted(self._get(GONE), self._where)

    def delta(self, seq: int) -> StoredDelta:
        """One delta."""
        pieces: list[Piece] = []
        parts, size = 1, 0
        while len(pieces) < parts:
            part = len(pieces)
            value = self._get(delta_key(seq, part))
            if value is None:
                raise self.wrong(f"part {part} of delta {seq} is missing")
            try:
                page = decode_page(value)
            except (ValueError, *UNDECODABLE) as error:
                raise self.wrong(f"part {part} of delta {seq} cannot be read: {error}") from None
            pieces.append(page.piece)
            parts, size = page.parts, size + len(value)
        return StoredDelta(pieces, size)

    def wrong(self, what: str) -> SnapshotError:
        """An error of this snapshot."""
        return SnapshotError(f"{self._where}: {what}")

    def _get(self, key: bytes) -> bytes | None:
        return self._source.get_many([self._prefix + key])[0]


def delta_key(seq: int, part: int) -> bytes:
    """The key of a part of a delta, after the table's prefix."""
    return DELTA + seq.to_bytes(8, "big") + part.to_bytes(4, "big")


def line_key(number: int) -> bytes:
    """The key of a line of the filter, after the table's prefix."""
    return LINE + number.to_bytes(4, "big")

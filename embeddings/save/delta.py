"""Deltas: changes of a table as bytes. A copy that applies them becomes equal to the table, bit for bit.

    writer = DeltaWriter(table)            reader = DeltaReader(copy)
    table.apply_gradients(...)             reader.apply(data)   # True; False for a repeat
    data = writer.take()                                        # DeltaGapError if one is missing

Rows leave a table only as `Piece`s: deltas, updates to servers and the pages of a snapshot consist of
pieces. All numbers are little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from embeddings.errors import DeltaError, DeltaGapError, TableInputError
from embeddings.table.cursor import Cursor
from embeddings.table.table import Table
from embeddings.types import Floats, Keys, Lines
from ground import UNDECODABLE
from ground.distinct import distinct
from ground.sealed import seal, unseal

DELTA_VERSION = 1
LINE_WORDS = 8


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Some changes of one table. Apply `deleted` first: a key may be deleted and then inserted again."""

    name: str
    deleted: memoryview  # uint64 keys
    keys: memoryview  # uint64 (m,)
    rows: memoryview  # float32 (m, width)
    lines: memoryview = memoryview(b"")  # uint32 (l,), numbers of admission filter lines
    words: memoryview = memoryview(b"")  # uint64 (l, 8), those lines


class Changes(NamedTuple):
    """The changes of a table between two drains. Apply `deleted` first."""

    deleted: Keys  # (d,)
    keys: Keys  # (m,)
    rows: Floats  # (m, width)
    lines: Lines  # (l,), numbers of the admission filter's lines
    words: Keys  # (l, 8)

    @classmethod
    def of(
        cls,
        table: Table,
        *,
        deleted: Keys | None = None,
        keys: Keys | None = None,
        rows: Floats | None = None,
        lines: Lines | None = None,
        words: Keys | None = None,
    ) -> Self:
        """Changes of a table; parts that are not given are empty."""
        none = np.zeros(0, dtype=np.uint64)
        return cls(
            none if deleted is None else deleted,
            none if keys is None else keys,
            np.zeros((0, table.width), dtype=np.float32) if rows is None else rows,
            np.zeros(0, dtype=np.uint32) if lines is None else lines,
            none.reshape(0, LINE_WORDS) if words is None else words,
        )

    def __bool__(self) -> bool:
        """Whether there is any change."""
        return bool(len(self.deleted) or len(self.keys) or len(self.lines))

    def with_deleted(self, keys: Keys) -> Changes:
        """The same changes, and further keys (n,) as deleted."""
        return self._replace(deleted=distinct(np.concatenate([self.deleted, keys])))

    def whole(self, name: str) -> Piece:
        """All changes as one piece."""
        return Piece(name, *(raw(array) for array in self))

    def served(self, table: Table) -> Changes:
        """The same changes without optimizer state and filter, for a table from `table.spec.serving()`."""
        rows = np.concatenate([self.rows[:, part] for part in table.serving_slices], axis=1)
        return Changes(self.deleted, self.keys, rows, self.lines[:0], self.words[:0])


def drain(table: Table, cursor: Cursor | None = None) -> Changes:
    """The changes since a consumer last took them, with whole rows and lines of the admission filter."""
    touched, deleted, lines = table.take_changes(cursor)
    rows, _ = table.export(touched)
    return Changes(deleted, touched, rows, lines, table.filter.words_of(lines))


def pieces(name: str, changes: Changes, bytes_max: int, first_max: int | None = None) -> Iterator[Piece]:
    """Cut changes into pieces of about `bytes_max` bytes (the first: about `first_max`), in order."""
    room = bytes_max if first_max is None else first_max
    row_bytes = 8 + changes.rows.shape[1] * 4
    line_bytes = 4 + LINE_WORDS * 8
    gone_at = row_at = line_at = 0
    while gone_at < len(changes.deleted) or row_at < len(changes.keys) or line_at < len(changes.lines):
        gone = _part(gone_at, len(changes.deleted), room // 8, least=1)
        gone_at = gone.stop
        room -= 8 * (gone.stop - gone.start)
        rows = slice(row_at, row_at)
        lines = slice(line_at, line_at)
        # Rows follow only after the last deletion.
        if gone_at == len(changes.deleted):
            alone = gone.stop == gone.start
            rows = _part(row_at, len(changes.keys), room // row_bytes, least=int(alone))
            row_at = rows.stop
            room -= row_bytes * (rows.stop - rows.start)
            alone = alone and rows.stop == rows.start
            lines = _part(line_at, len(changes.lines), room // line_bytes, least=int(alone))
            line_at = lines.stop
        yield Piece(
            name,
            raw(changes.deleted[gone]),
            raw(changes.keys[rows]),
            raw(changes.rows[rows]),
            raw(changes.lines[lines]),
            raw(changes.words[lines]),
        )
        room = bytes_max


def apply(table: Table, piece: Piece) -> None:
    """Apply a piece to a table.

    Raises:
        DeltaError: the piece comes from a table with another layout.
        TableError: the table is full.
    """
    deleted, keys = numbers(piece.deleted, np.uint64), numbers(piece.keys, np.uint64)
    rows = numbers(piece.rows, np.float32)
    if rows.size != len(keys) * table.width:
        raise DeltaError(
            f"table {table.spec.name!r}: {len(keys)} rows came with {rows.size} numbers, but a row here has "
            f"{table.width}: the table they come from has another dim, optimizer or extra"
        )
    if len(deleted):
        table.delete(deleted, counted=False)
    if len(keys):
        table.load(keys, rows.reshape(len(keys), table.width))
    if len(piece.lines) and table.filter.in_use:
        lines, words = numbers(piece.lines, np.uint32), numbers(piece.words, np.uint64)
        if words.size != lines.size * LINE_WORDS:
            raise DeltaError(f"table {table.spec.name!r}: {lines.size} filter lines of {words.size} words")
        try:
            table.filter.restore_lines(lines, words.reshape(-1, LINE_WORDS))
        except TableInputError as error:
            raise DeltaError(str(error)) from None


T = TypeVar("T", bound=np.generic)


def numbers(data: memoryview, kind: type[T]) -> npt.NDArray[T]:
    """Decode bytes of a piece to an array, without a copy.

    Raises:
        DeltaError: the length is not a multiple of the item size.
    """
    if len(data) % np.dtype(kind).itemsize:
        raise DeltaError(f"{len(data)} bytes are no whole number of {np.dtype(kind).name}")
    return np.frombuffer(data, dtype=kind)


class _Numbered(msgspec.Struct, frozen=True, array_like=True):
    """One delta as it is encoded."""

    v: int
    seq: int  # 1, 2, 3, ...
    piece: Piece


_decoder = msgspec.msgpack.Decoder(_Numbered)


class DeltaWriter:
    """Writes the changes of a table as numbered deltas. Snapshots and other writers are not affected.

    Args:
        table: a table that tracks its delta.
        seq: the number of the last delta that an earlier writer of the same table took. 0: the first delta
            holds the whole table, for an empty copy.
        serving: omit optimizer state and admission filter, for tables made from `spec.serving()`.
    """

    def __init__(self, table: Table, seq: int = 0, *, serving: bool = False) -> None:
        self.seq = seq
        self._table = table
        self._serving = serving
        self._cursor = table.open_cursor(whole=seq == 0)

    def __repr__(self) -> str:
        return f"<DeltaWriter of {self._table!r}, {self.seq} deltas taken>"

    def take(self) -> bytes:
        """The changes since the last delta, as one sealed message, even if there are none."""
        changes = drain(self._table, self._cursor)
        if self._serving:
            changes = changes.served(self._table)
        self.seq += 1
        numbered = _Numbered(DELTA_VERSION, self.seq, changes.whole(self._table.spec.name))
        return seal(msgspec.msgpack.encode(numbered))


class DeltaReader:
    """Applies deltas to a copy of a table, in order.

    Args:
        table: a copy that is equal to the table at delta `seq`.
        seq: the number of the last delta that the copy contains.
    """

    def __init__(self, table: Table, seq: int = 0) -> None:
        self.seq = seq
        self._table = table

    def __repr__(self) -> str:
        return f"<DeltaReader of {self._table!r}, {self.seq} deltas applied>"

    def apply(self, data: bytes) -> bool:
        """Apply one delta; returns False, and does nothing, if it was applied before.

        Raises:
            DeltaGapError: deltas before this one are missing; nothing was applied.
            DeltaError: the delta is damaged, has an unknown version, or belongs to another table.
        """
        name = self._table.spec.name
        try:
            numbered = _decoder.decode(unseal(data))
        except (ValueError, *UNDECODABLE) as error:
            raise DeltaError(f"a delta for table {name!r} cannot be read: {error}") from None
        if numbered.v != DELTA_VERSION:
            raise DeltaError(
                f"a delta for table {name!r} has version {numbered.v}; this Freshet reads {DELTA_VERSION}"
            )
        if numbered.piece.name != name:
            raise DeltaError(f"a delta of table {numbered.piece.name!r} was given to table {name!r}")
        if numbered.seq <= self.seq:
            return False
        if numbered.seq != self.seq + 1:
            raise DeltaGapError(
                f"table {name!r}: delta {numbered.seq} came where {self.seq + 1} was expected: "
                "apply the missing ones first, or start again from a snapshot"
            )
        apply(self._table, numbered.piece)
        self.seq = numbered.seq
        return True


def raw(array: npt.NDArray[np.generic]) -> memoryview:
    """The bytes of an array, without a copy if it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _part(at: int, end: int, count: int, least: int) -> slice:
    """The next `count` (at least `least`) positions from `at`, up to `end`."""
    return slice(at, min(at + max(count, least), end))

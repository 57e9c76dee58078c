"""A table's snapshot: entries of a key-value store from which the table can be made again, bit for bit.

What is written each time is what changed, as a numbered delta; and beside it, page by page, all that the
table holds: the next base. Once all pages of a base are written, the base before it and the deltas that
it contains are dropped. So a save costs about twice the bytes that changed whatever the size of the table,
nothing ever stops to write everything, and there is never more to read than a base and the deltas since
its first page.

    PREFIX meta                             what there is; written with every change, in the same commit
    PREFIX base/ generation(8) page(4)      rows of consecutive slots, or lines of the admission filter
    PREFIX delta/ seq(8) part(4)            changes, in order  (the character after / is 0)

Numbers in keys are big-endian; every value is sealed MessagePack. A page may be of a later moment than the
first page of its base: the deltas since then bring every row to the last moment, since a row that was
touched is in one of them and a row that was not is the same in both. Slots need not survive a restart: a
base that was not finished is begun anew.

The store is anything with `put` and `delete` to write and `get` to read, whose writes of one save become
visible together: a `SnapshotFolder`, or the state of a role in a stream.
"""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np

from embeddings.core.adoption import adopt, widen
from embeddings.errors import SnapshotError, TableError
from embeddings.save.delta import Changes, Piece, apply, drain, pieces, raw
from embeddings.save.entries import (
    FORMAT_VERSION,
    Meta,
    Page,
    RangeSink,
    Sink,
    Source,
    decode_page,
    encode_entry,
    read_meta,
)
from embeddings.spec import TableSpec
from embeddings.table.table import Table

PAGE_BYTES = 4 << 20
"""Rows of one page; also the size at which a delta is cut into parts."""

PAGES_PER_SAVE = 16
"""Pages of a base that one save writes at most."""

BASE_PER_DELTA = 1.0
"""Bytes of base written for each byte of deltas: more makes a restore read less, and a save write more."""


class _Base(msgspec.Struct):
    """A base that is being written."""

    seq: int  # the deltas up to here are in it
    row_pages: int
    line_pages: int
    next: int = 0

    @property
    def pages(self) -> int:
        return self.row_pages + self.line_pages


class _Kept(NamedTuple):
    """A delta in the store."""

    seq: int
    parts: int
    size: int


class TableSnapshot:
    """Keeps the snapshot of one table up to date.

    It has a list of the table's changes of its own; `save` returns what it wrote of them.

    Args:
        table: the table; it tracks its delta.
        prefix: of all keys of this snapshot.
        where: what errors call the store.
    """

    def __init__(self, table: Table, prefix: bytes, where: str = "snapshot") -> None:
        self.table = table
        self._prefix = prefix
        self._where = where
        self._meta = Meta(FORMAT_VERSION, table.spec)
        self._cursor = table.open_cursor(whole=True)
        self._deltas: deque[_Kept] = deque()
        self._next: _Base | None = None
        self._credit = 0.0  # bytes of base that may be written
        self._renew = False  # the next save begins a base anew
        self._hurried = False  # the base that is being written is, without regard to its cost
        self._page_slots = max(PAGE_BYTES // (8 + 4 * table.width), 1)
        self._page_lines = max(PAGE_BYTES // 68, 1)

    @property
    def seq(self) -> int:
        """The number of the last delta written."""
        return self._meta.seq

    @property
    def renewing(self) -> bool:
        """Whether what `renew` has asked for is still to be done."""
        return self._renew or self._hurried

    def renew(self) -> None:
        """Begin a new base at the next save, and write it as fast as saves come, PAGES_PER_SAVE pages each.

        Once it is whole, nothing of what left the table before that save is in the store's entries.
        """
        self._renew = True

    @property
    def kept_bytes(self) -> int:
        """Bytes of the deltas that a restore would read after the base."""
        return sum(delta.size for delta in self._deltas)

    def save(self, sink: Sink) -> Changes:
        """Write what changed since the last save, and a share of the next base.

        Returns:
            What changed.
        """
        changes = drain(self.table, self._cursor)
        meta = self._meta
        if changes:
            meta.seq += 1
            self._credit += BASE_PER_DELTA * self._put_delta(sink, changes)
        if self._renew:
            self._next = self._begin()
            self._renew, self._hurried = False, True
        for _ in range(PAGES_PER_SAVE):
            if self._next is None and not self._deltas:
                break
            base = self._next or self._begin()
            cost = self._cost(base)
            if cost > self._credit and not self._hurried:
                break
            self._next = base
            self._credit = max(self._credit - cost, 0.0)
            if base.next < base.pages:
                self._put_page(sink, base)
            if base.next == base.pages:
                self._finish(sink)
        self._put_meta(sink)
        return changes

    def replace(self, source: Source) -> None:
        """Make ready to take the place of another table's snapshot in the same store, if there is one.

        Raises:
            SnapshotError: its description cannot be read.
        """
        data = source.get(self._key(b"meta"))
        if data is not None:
            there = read_meta(data, f"{self._where}: table {self.table.spec.name!r}")
            self._meta.seq, self._meta.base = there.seq, there.base

    def save_base(self, sink: Sink, written: Callable[[], None] = lambda: None) -> Changes:
        """Write everything that the table holds, as a base that `save_whole` makes the snapshot's.

        Until then the store may hold any part of it, for nothing refers to it yet.

        Args:
            written: called after each page: a sink may let go of it.

        Returns:
            What changed since the last save.
        """
        changes = drain(self.table, self._cursor)
        if changes:
            self._meta.seq += 1
        self._next = self._begin()
        while self._next.next < self._next.pages:
            self._put_page(sink, self._next)
            written()
        return changes

    def save_whole(self, sink: RangeSink) -> None:
        """After `save_base`: drop whatever else there is. Nothing but this base is left."""
        base = self._next
        assert base is not None and base.next == base.pages
        mine = self._key(b"base/", self._meta.base + 1)
        sink.delete_range(self._key(b"base/"), mine)
        sink.delete_range(mine + base.pages.to_bytes(4, "big"), self._key(b"base0"))
        sink.delete_range(self._key(b"delta/"), self._key(b"delta0"))
        self._deltas.clear()
        self._adopt(base)
        self._put_meta(sink)

    def drop_unfinished(self, sink: RangeSink) -> None:
        """After `restore`: drop what there is of a base that was not finished."""
        sink.delete_range(self._key(b"base/", self._meta.base + 1), self._key(b"base0"))

    def restore(self, source: Source) -> bool:
        """Fill the table, which must be empty, from a store; False if the store has no such snapshot.

        Raises:
            SnapshotError: an entry is damaged or missing, or of another kind of table, or of a later version.
        """
        data = source.get(self._key(b"meta"))
        if data is None:
            return False
        table = self.table
        meta = read_meta(data, f"{self._where}: table {table.spec.name!r}")
        self._check_layout(meta.spec)
        table.make_room(meta.rows)
        for number in range(meta.pages):
            key = self._key(b"base/", meta.base) + number.to_bytes(4, "big")
            page, _ = self._read(source, key, f"page {number} of {meta.pages} of its base")
            self._apply(page.piece)
        deltas: deque[_Kept] = deque()
        for seq in range(meta.base_seq + 1, meta.seq + 1):
            parts, number, size = 1, 0, 0
            while number < parts:
                key = self._key(b"delta/", seq) + number.to_bytes(4, "big")
                page, read = self._read(source, key, f"part {number} of delta {seq} of {meta.seq}")
                self._apply(page.piece)
                parts, number, size = page.parts, number + 1, size + read
            deltas.append(_Kept(seq, parts, size))
        if len(table) != meta.rows:
            raise self._wrong(f"it has {meta.rows} rows by its own account, but {len(table)} were found")
        table.take_changes(self._cursor)
        if table.spec.evict != "none":
            adopt(table.spec, table.arrays)
        self._deltas = deltas
        # The base that was being written is begun anew, and soon: a restart must not make deltas pile up.
        self._credit = BASE_PER_DELTA * self.kept_bytes
        self._meta = meta
        meta.spec = table.spec
        return True

    def _put_delta(self, sink: Sink, changes: Changes) -> int:
        """Write a delta; returns its bytes."""
        seq = self._meta.seq
        cut = list(pieces(self.table.spec.name, changes, PAGE_BYTES))
        size = 0
        for part, piece in enumerate(cut):
            value = encode_entry(Page(FORMAT_VERSION, seq, len(cut), piece))
            sink.put(self._key(b"delta/", seq) + part.to_bytes(4, "big"), value)
            size += len(value)
        self._deltas.append(_Kept(seq, len(cut), size))
        return size

    def _begin(self) -> _Base:
        lines = self.table.filter.lines
        return _Base(
            seq=self._meta.seq,
            row_pages=-(-self.table.slots_used // self._page_slots),
            line_pages=-(-lines // self._page_lines),
        )

    def _cost(self, base: _Base) -> int:
        """About how many bytes the next page has; 0 where there is none."""
        if base.next < base.row_pages:
            slots = min(self.table.slots_used - base.next * self._page_slots, self._page_slots)
            return slots * (8 + 4 * self.table.width)
        first = (base.next - base.row_pages) * self._page_lines
        return max(min(self.table.filter.lines - first, self._page_lines), 0) * 68

    def _put_page(self, sink: Sink, base: _Base) -> None:
        table = self.table
        if base.next < base.row_pages:
            keys, rows = table.page(base.next * self._page_slots, self._page_slots)
            changes = Changes.of(table, keys=keys, rows=rows)
        else:
            first = (base.next - base.row_pages) * self._page_lines
            lines, words = table.filter.read_lines(first, self._page_lines)
            changes = Changes.of(table, lines=lines, words=words)
        value = encode_entry(Page(FORMAT_VERSION, self._meta.seq, 0, changes.whole(table.spec.name)))
        sink.put(self._key(b"base/", self._meta.base + 1) + base.next.to_bytes(4, "big"), value)
        base.next += 1
        self._meta.begun = max(self._meta.begun, base.next)

    def _finish(self, sink: Sink) -> None:
        """The next base is whole: it takes the place of the one before and of the deltas that it contains."""
        base, meta = self._next, self._meta
        assert base is not None
        for generation, pages in (
            (meta.base, range(meta.pages)),
            (meta.base + 1, range(base.next, meta.begun)),
        ):
            for page in pages:
                sink.delete(self._key(b"base/", generation) + page.to_bytes(4, "big"))
        while self._deltas and self._deltas[0].seq <= base.seq:
            delta = self._deltas.popleft()
            for part in range(delta.parts):
                sink.delete(self._key(b"delta/", delta.seq) + part.to_bytes(4, "big"))
        self._adopt(base)

    def _adopt(self, base: _Base) -> None:
        meta = self._meta
        meta.base += 1
        meta.base_seq = base.seq
        meta.pages = base.next
        meta.begun = 0
        self._next = None
        self._hurried = False

    def _put_meta(self, sink: Sink) -> None:
        self._meta.rows = len(self.table)
        sink.put(self._key(b"meta"), encode_entry(self._meta))

    def _key(self, kind: bytes, number: int | None = None) -> bytes:
        return self._prefix + kind + (b"" if number is None else number.to_bytes(8, "big"))

    def _read(self, source: Source, key: bytes, what: str) -> tuple[Page, int]:
        """An entry and its bytes."""
        value = source.get(key)
        if value is None:
            raise self._wrong(f"{what} is missing")
        try:
            return decode_page(value), len(value)
        except (ValueError, msgspec.DecodeError) as error:
            raise self._wrong(f"{what} cannot be read: {error}") from None

    def _apply(self, piece: Piece) -> None:
        spec = self.table.spec
        rows = np.frombuffer(piece.rows, dtype=np.float32)
        narrow = spec.width - (spec.extra_column - spec.age_column)
        try:
            if rows.size == len(piece.keys) // 8 * narrow < len(piece.keys) // 8 * spec.width:
                rows = widen(spec, rows.reshape(-1, narrow))
                piece = msgspec.structs.replace(piece, rows=raw(rows))
            apply(self.table, piece)
        except TableError as error:
            raise self._wrong(str(error)) from None

    def _check_layout(self, saved: TableSpec) -> None:
        spec = self.table.spec
        for name in ("dim", "optimizer", "extra", "evict"):
            then, now = getattr(saved, name), getattr(spec, name)
            if then != now and (name, then) != ("evict", "none"):
                raise self._wrong(
                    f"it was saved with {name} = {then}, but now {name} = {now}: its rows mean something else"
                )

    def _wrong(self, what: str) -> SnapshotError:
        return SnapshotError(f"{self._where}: table {self.table.spec.name!r}: {what}")

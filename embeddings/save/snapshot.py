"""A table's snapshot: entries of a key-value store from which the table is restored, bit for bit.

Each save writes the changes as a numbered delta, and some pages of the next base, a copy of the whole table.
When all pages of a base are written, the previous base and the deltas that the new one contains are deleted.
So a save writes about twice the bytes that changed, whatever the size of the table; no save rewrites the
whole table; and a restore reads a base and the deltas since its first page.

    PREFIX meta                             the description; written with every change, in the same commit
    PREFIX base/ generation(8) page(4)      rows of consecutive slots, or lines of the admission filter
    PREFIX delta/ seq(8) part(4)            changes, in order  (the character after / is 0)
    PREFIX gone                             keys whose deletion the next save reports, see `put_deleted`

Numbers in keys are big-endian; every value is sealed MessagePack. The pages of a base are written at
different times. The deltas since the first page make them consistent: each contains the rows that were
written meanwhile, and all other rows are unchanged. A restart may assign slots differently, so it starts an
unfinished base again.

The store can be any object with `put` and `delete` to write and `get` to read, if the writes of one save
become visible together: a `SnapshotFolder`, or the state of a role in a stream.
"""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np

from embeddings.core.adoption import adopt, lengthen, widen
from embeddings.errors import SnapshotError, TableError
from embeddings.save.delta import Changes, Piece, apply, drain, pieces, raw
from embeddings.save.entries import (
    FORMAT_VERSION,
    GONE,
    Page,
    RangeSink,
    Sink,
    SnapshotMeta,
    Source,
    decode_deleted,
    encode_entry,
    read_meta,
)
from embeddings.save.reading import PageKey, PageReader
from embeddings.table.table import Table

PAGE_BYTES = 4 << 20
"""Size of a page; a larger delta is cut into parts of this size."""

PAGES_PER_SAVE = 16
"""Maximum number of base pages that one save writes."""

BASE_PER_DELTA = 1.0
"""Bytes of base per byte of deltas. With more, a restore reads less and a save writes more."""


LAYOUT = ("dim", "optimizer", "extra", "evict")
"""Settings that decide what the columns of a row mean."""


def other_layout(name: str, then: object, now: object) -> str:
    """A setting has changed, for an error message."""
    return f"it was saved with {name} = {then}, but now {name} = {now}: its rows mean something else"


class _Base(msgspec.Struct):
    """An unfinished base."""

    seq: int  # number of the last delta that it contains
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

    It has its own cursor of the table's changes; `save` returns the changes that it wrote.

    Args:
        table: a table that tracks its delta.
        prefix: prefix of all keys of this snapshot.
        where: name of the store in error messages.
    """

    def __init__(self, table: Table, prefix: bytes, where: str = "snapshot") -> None:
        self.table = table
        self._prefix = prefix
        self._where = where
        self._meta = SnapshotMeta(FORMAT_VERSION, table.spec)
        self._cursor = table.open_cursor(whole=True)
        self._deltas: deque[_Kept] = deque()
        self._next: _Base | None = None
        self.gone = np.zeros(0, dtype=np.uint64)  # keys without a row, which followers may still have
        self._credit = 0.0  # bytes of base that may be written now
        self._renew = False  # the next save starts a new base
        self._hurried = False  # write the unfinished base as fast as possible, whatever it costs
        self._grown = False  # see `SnapshotMeta`
        self._page_slots = max(PAGE_BYTES // (8 + 4 * table.width), 1)
        self._page_lines = max(PAGE_BYTES // 68, 1)

    @property
    def seq(self) -> int:
        """The number of the last delta written."""
        return self._meta.seq

    @property
    def renewing(self) -> bool:
        """Whether a new base that `renew` requested is not complete yet."""
        return self._renew or self._hurried

    def renew(self) -> None:
        """Start a new base at the next save, and write PAGES_PER_SAVE of its pages with each save.

        When it is complete, the store has no entry with a row that was deleted before that save.
        """
        self._renew = True

    @property
    def kept_bytes(self) -> int:
        """Bytes of the deltas that a restore would read after the base."""
        return sum(delta.size for delta in self._deltas)

    def save(self, sink: Sink) -> Changes:
        """Write the changes since the last save, and some pages of the next base.

        Returns:
            The changes.
        """
        changes = drain(self.table, self._cursor)
        if len(self.gone):
            changes = changes.with_deleted(self.gone)
            sink.delete(self._key(GONE))
            self.gone = self.gone[:0]
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

    def rest(self, sink: Sink) -> None:
        """Nothing rests; see `RestingSnapshot`."""

    def replace(self, source: Source) -> None:
        """Prepare to replace the snapshot of another table in the same store, if there is one.

        Raises:
            SnapshotError: the description of that snapshot cannot be read.
        """
        data = source.get(self._key(b"meta"))
        if data is not None:
            there = read_meta(data, f"{self._where}: table {self.table.spec.name!r}")
            self._meta.seq, self._meta.base = there.seq, there.base

    def save_base(self, sink: Sink, written: Callable[[], None] = lambda: None) -> Changes:
        """Write the whole table as a new base, which becomes part of the snapshot by `save_whole`.

        Nothing refers to the base before that, so the store may hold an incomplete one.

        Args:
            written: called after each page, for example to write out what the sink has collected.

        Returns:
            The changes since the last save.
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
        """After `save_base`: use this base, and delete all other entries."""
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
        """After `restore`: delete the pages of an unfinished base."""
        sink.delete_range(self._key(b"base/", self._meta.base + 1), self._key(b"base0"))

    def restore(self, source: Source, applied: Callable[[], None] | None = None) -> bool:
        """Fill the table, which must be empty, from a store; returns False if the store has no such snapshot.

        Args:
            applied: called after each page.

        Raises:
            SnapshotError: an entry is damaged, missing, of a later version, or for another kind of table.
        """
        data = source.get(self._key(b"meta"))
        if data is None:
            return False
        table = self.table
        meta = read_meta(data, f"{self._where}: table {table.spec.name!r}")
        self._check_layout(meta)
        table.make_room(meta.rows)
        reader = PageReader(source, f"{self._where}: table {table.spec.name!r}")
        base = self._key(b"base/", meta.base)
        pages = [
            PageKey(base + number.to_bytes(4, "big"), f"page {number} of {meta.pages} of its base")
            for number in range(meta.pages)
        ]
        for page, _ in reader.pages(pages):
            self._apply(page.piece, applied)
        deltas: deque[_Kept] = deque()
        seqs = range(meta.base_seq + 1, meta.seq + 1)
        first = reader.pages([self._part(seq, 0) for seq in seqs])
        for seq, (page, size) in zip(seqs, first, strict=True):
            self._apply(page.piece, applied)
            rest = [self._part(seq, number) for number in range(1, page.parts)]
            for further, read in reader.pages(rest):
                self._apply(further.piece, applied)
                size += read
            deltas.append(_Kept(seq, page.parts, size))
        if len(table) != meta.rows:
            raise self._wrong(f"its description says {meta.rows} rows, but {len(table)} were found")
        table.take_changes(self._cursor)
        self.gone = decode_deleted(source.get(self._key(GONE)), f"{self._where}: table {table.spec.name!r}")
        if table.spec.evict != "none":
            adopt(table.spec, table.arrays)
        self._deltas = deltas
        # Start the unfinished base again soon: deltas must not accumulate over restarts.
        self._credit = BASE_PER_DELTA * self.kept_bytes
        self._meta = meta
        meta.spec = table.spec
        return True

    def _put_delta(self, sink: Sink, changes: Changes) -> int:
        """Write a delta; returns its size in bytes."""
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
        """Approximate size of the next page in bytes; 0 if there is none."""
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
        """The next base is complete: delete the previous base and the deltas that the new one contains."""
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

    def _part(self, seq: int, number: int) -> PageKey:
        """A part of a delta."""
        key = self._key(b"delta/", seq) + number.to_bytes(4, "big")
        return PageKey(key, f"part {number} of delta {seq}")

    def _apply(self, piece: Piece, applied: Callable[[], None] | None) -> None:
        spec = self.table.spec
        rows = np.frombuffer(piece.rows, dtype=np.float32)
        count = len(piece.keys) // 8
        try:
            if count and rows.size % count == 0 and rows.size < count * spec.width:
                rows = rows.reshape(count, -1)
                missing, age = spec.width - rows.shape[1], spec.extra_column - spec.age_column
                # The caller's columns come in pairs, and eviction's are one or two.
                if age and (missing % 2 == 1 or (missing == age and not self._grown)):
                    rows = widen(spec, rows)
                if rows.shape[1] < spec.width and self._grown:
                    rows = lengthen(spec, rows)
                piece = msgspec.structs.replace(piece, rows=raw(rows))
            apply(self.table, piece)
            if applied is not None:
                self.table.take_changes(self._cursor)
                applied()
        except TableError as error:
            raise self._wrong(str(error)) from None

    def _check_layout(self, meta: SnapshotMeta) -> None:
        saved, spec = meta.spec, self.table.spec
        self._grown = meta.grown
        for name in LAYOUT:
            then, now = getattr(saved, name), getattr(spec, name)
            if name == "extra" and then < now:
                self._grown = meta.grown = True
            elif then != now and (name, then) != ("evict", "none"):
                raise self._wrong(other_layout(name, then, now))

    def _wrong(self, what: str) -> SnapshotError:
        return SnapshotError(f"{self._where}: table {self.table.spec.name!r}: {what}")

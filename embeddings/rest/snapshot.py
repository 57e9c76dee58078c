"""The snapshot of a table whose rows rest in the same store: the rows' own entries, and a log of changes.

    PREFIX rest                             the description; written with every change, in the same commit
    PREFIX row/ key(8)                      a row
    PREFIX line/ number(4)                  a line of the admission filter
    PREFIX clock                            counts of rows by last seen, of a table with a TTL and no eviction
    PREFIX delta/ seq(8) part(4)            changes, in order, newer than the entries above
    PREFIX gone                             keys whose deletion the next save reports, see `put_deleted`

A save writes the changes as a delta, as `embeddings/save/snapshot.py` does, since that costs least for rows
that change with every save. The oldest deltas are dropped when their rows are more than a quarter of
`memory_rows`: those of their rows that did not change again are first written as entries. So a row that rests
has mostly been written already, and a restart reads only the log, at most a quarter of the memory; all other
rows come back when they are seen.

A row in the log is newer than its entry. Of a key that was removed, the entry is deleted in the same commit.
"""

from collections import deque
from typing import NamedTuple

import msgspec
import numpy as np

from embeddings.core.positions import State
from embeddings.errors import SnapshotError, TableError
from embeddings.rest.entries import ViewedSource, put_entries
from embeddings.rest.frozen import FrozenRows
from embeddings.rest.stored import CLOCK, META, RestMeta, StoredRest, delta_key, line_key
from embeddings.rest.table import RestingTable
from embeddings.save.delta import Changes, apply, drain, numbers, pieces
from embeddings.save.entries import FORMAT_VERSION, GONE, Page, Sink, encode_entry
from embeddings.save.snapshot import LAYOUT, PAGE_BYTES, other_layout
from embeddings.types import Keys, Lines
from ground.sealed import seal

LOG_SHARE = 4
"""The log holds at most one part of so many of `memory_rows`."""

SWEPT_MIN = 256
SWEPT_PER_ROW = 4
"""Entries on disk that each save checks, at least, and for each row that was made since the last one. So at
most about a third of the entries are of rows that are gone."""

LINES_AT_ONCE = 4096


class _Kept(NamedTuple):
    """A delta in the store."""

    seq: int
    parts: int
    size: int  # bytes
    keys: Keys
    lines: Lines


class RestingSnapshot:
    """Keeps the snapshot of one resting table up to date; it has the methods of `TableSnapshot`.

    Args:
        table: a table that tracks its delta.
        source: the store, in which the rows rest.
        prefix: prefix of all keys of this snapshot.
        where: name of the store in error messages.
    """

    def __init__(self, table: RestingTable, source: ViewedSource, prefix: bytes, where: str) -> None:
        self.table = table
        self._prefix = prefix
        self._source = source
        self._where = where
        self._stored = StoredRest(source, prefix, f"{where}: table {table.spec.name!r}")
        self._meta = RestMeta(FORMAT_VERSION, table.spec)
        self._cursor = table.open_cursor()
        self._log: deque[_Kept] = deque()
        self._line_latest = np.zeros(table.filter.lines, dtype=np.uint32)  # delta of each line's last change
        self._made = 0  # rows that the table had made at the last save
        self._renew = False
        self.gone = np.zeros(0, dtype=np.uint64)  # keys that the next save reports as deleted
        table.rest_in(source, prefix, where)

    @property
    def seq(self) -> int:
        """The number of the last delta written."""
        return self._meta.seq

    @property
    def renewing(self) -> bool:
        """Whether the log may still hold rows that were deleted before `renew`."""
        return self._renew

    def renew(self) -> None:
        """Drop the whole log with the next save."""
        self._renew = True

    @property
    def kept_bytes(self) -> int:
        """Bytes of the log, which a restart reads."""
        return sum(kept.size for kept in self._log)

    def save(self, sink: Sink) -> Changes:
        """Write the changes since the last save; call `rest` after it, in the same commit.

        Returns:
            The changes.
        """
        table = self.table
        made = int(table.arrays.state[State.INSERTED])
        table.sweep(SWEPT_MIN + SWEPT_PER_ROW * (made - self._made))
        self._made = made
        changes = drain(table, self._cursor)
        if len(self.gone):
            changes = changes.with_deleted(self.gone)
            sink.delete(self._prefix + GONE)
            self.gone = self.gone[:0]
        table.put_gone(sink)
        if changes:
            self._meta.seq += 1
            self._put_delta(sink, changes)
        most = table.memory_rows // LOG_SHARE
        most_lines = max(most, len(self._line_latest) // LOG_SHARE)
        whole, self._renew = self._renew, False  # whole: a delta may name deleted keys alone
        rows = sum(len(kept.keys) for kept in self._log)
        lines = sum(len(kept.lines) for kept in self._log)
        while self._log and (whole or rows > most or lines > most_lines):
            kept = self._log.popleft()
            rows, lines = rows - len(kept.keys), lines - len(kept.lines)
            self._drop(sink, kept)
        return changes

    def rest(self, sink: Sink) -> None:
        """Send rows to rest until `memory_rows` are in memory, and write the description."""
        self.table.leave(self.table.put_oldest(sink))
        meta = self._meta
        meta.first = self._log[0].seq if self._log else meta.seq + 1
        _put_meta(self.table, self._prefix, meta, sink)

    def freeze(self) -> FrozenRows:
        """All rows as of the commit that `save` and `rest` have filled, to be read after it."""
        return FrozenRows(self.table, self._source, self._prefix, self._meta.seq, self._where)

    def begin_anew(self, sink: Sink) -> None:
        """Write all rows in memory and the filter as entries: the first save of a table that is filled.

        The caller deletes what the store had of the table before.
        """
        self.table.limits.note_current()
        self.table.take_changes(self._cursor)
        for keys, rows in self.table.pages_in_memory():
            put_entries(sink, self._prefix, keys, rows)
            self.table.note_changed(keys, 0)
        put_rest(self.table, self._prefix, self._meta, sink)

    def restore(self) -> bool:
        """Restore the log's rows into the table, which must be empty; False if there is no such snapshot.

        Raises:
            SnapshotError: an entry is damaged, missing, of a later version, or for another kind of table.
        """
        meta = self._stored.meta()
        if meta is None:
            return False
        table = self.table
        for name in LAYOUT:
            then, now = getattr(meta.spec, name), getattr(table.spec, name)
            if then != now:
                raise self._stored.wrong(other_layout(name, then, now))
        try:
            table.filter.restore_lines(*self._stored.lines())
            for seq in range(meta.first, meta.seq + 1):
                self._restore_delta(seq)
            table.restore_clock(self._stored.clock())
        except SnapshotError:
            raise
        except TableError as error:
            raise self._stored.wrong(str(error)) from None
        if meta.rows < table.in_memory:
            raise self._stored.wrong(f"its description says {meta.rows} rows, its log has {table.in_memory}")
        table.restore_counts(meta.rows, meta.limits)
        table.take_changes(self._cursor)
        self.gone = self._stored.gone()
        self._meta = meta
        meta.spec = table.spec
        return True

    def _restore_delta(self, seq: int) -> None:
        found = self._stored.delta(seq)
        for piece in found.pieces:
            apply(self.table, piece)
        keys = np.concatenate([numbers(piece.keys, np.uint64) for piece in found.pieces])
        lines = np.concatenate([numbers(piece.lines, np.uint32) for piece in found.pieces])
        self._keep(_Kept(seq, len(found.pieces), found.size, keys, lines))

    def _keep(self, kept: _Kept) -> None:
        self._log.append(kept)
        self.table.note_changed(kept.keys, kept.seq)
        self._line_latest[kept.lines] = kept.seq

    def _put_delta(self, sink: Sink, changes: Changes) -> None:
        seq = self._meta.seq
        cut = list(pieces(self.table.spec.name, changes, PAGE_BYTES))
        size = 0
        for part, piece in enumerate(cut):
            value = encode_entry(Page(FORMAT_VERSION, seq, len(cut), piece))
            sink.put(self._prefix + delta_key(seq, part), value)
            size += len(value)
        self._keep(_Kept(seq, len(cut), size, changes.keys, changes.lines))

    def _drop(self, sink: Sink, kept: _Kept) -> None:
        """Delete a delta; those of its rows and lines that are in no later one become entries."""
        self.table.put_changed(sink, kept.keys, kept.seq)
        self._put_lines(sink, kept.lines[self._line_latest[kept.lines] == kept.seq])
        for part in range(kept.parts):
            sink.delete(self._prefix + delta_key(kept.seq, part))

    def _put_lines(self, sink: Sink, lines: Lines) -> None:
        _put_lines(self.table, self._prefix, lines, sink)


def put_rest(table: RestingTable, prefix: bytes, meta: RestMeta, sink: Sink) -> None:
    """Write the filter and the description of a table whose rows all have entries, and whose log is empty."""
    for first in range(0, table.filter.lines, LINES_AT_ONCE):
        lines, words = table.filter.read_lines(first, LINES_AT_ONCE)
        _put_lines(table, prefix, lines[words.any(axis=1)], sink)  # those of a new table are 0
    meta.first = meta.seq + 1
    _put_meta(table, prefix, meta, sink)


def put_copy(table: RestingTable, prefix: bytes, sink: Sink) -> None:
    """Write everything of a table into an empty store; the table stays as it is."""
    for pages in (table.pages_in_memory(), table.resting_pages()):
        for keys, rows in pages:
            put_entries(sink, prefix, keys, rows)
    put_rest(table, prefix, RestMeta(FORMAT_VERSION, table.spec), sink)


def _put_lines(table: RestingTable, prefix: bytes, lines: Lines, sink: Sink) -> None:
    for number, words in zip(lines.tolist(), table.filter.words_of(lines), strict=True):
        sink.put(prefix + line_key(number), words.tobytes())


def _put_meta(table: RestingTable, prefix: bytes, meta: RestMeta, sink: Sink) -> None:
    meta.rows = len(table)
    meta.limits = table.limits.kept
    if clock := table.clock:
        sink.put(prefix + CLOCK, seal(clock))
    sink.put(prefix + META, seal(msgspec.msgpack.encode(meta)))

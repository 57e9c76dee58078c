"""From a snapshot of a table that is whole in memory to one whose rows rest, and back, in the same store.

Both take many commits, so that memory stays bounded. Until the last of them the store holds the snapshot that
it held before, and after a crash the change begins anew.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from embeddings.errors import SnapshotError
from embeddings.rest.entries import ROW, RowEntries, RowSource
from embeddings.rest.limits import KeptLimits
from embeddings.rest.snapshot import RestingSnapshot
from embeddings.rest.stored import CLOCK, DELTA, LINE, META, StoredRest
from embeddings.save.delta import apply
from embeddings.save.entries import GONE, Sink, Source, put_deleted, read_meta
from embeddings.save.snapshot import TableSnapshot
from embeddings.table.table import PAGE_ROWS

Commit = Callable[[Callable[[Sink], None]], None]
"""Calls a function with a sink, and writes what it puts there atomically."""

DELETED_AT_ONCE = 1 << 15


class ChangedStore(RowSource, Source, Protocol):
    """A store that gives single entries, many at once, and those of a prefix."""


def let_rest(
    snapshot: RestingSnapshot, store: ChangedStore, prefix: bytes, where: str, commit: Commit
) -> bool:
    """Change a whole snapshot into one of rows that rest; False if there is no whole one.

    Args:
        snapshot: of an empty table.
        store: in which both are, with this prefix.

    Raises:
        SnapshotError: it is damaged, does not fit, or was saved without the eviction that the table has.
    """
    table = snapshot.table
    data = store.get(prefix + b"meta")
    if data is None:
        return False
    name = f"{where}: table {table.spec.name!r}"
    if read_meta(data, name).spec.evict != table.spec.evict:
        raise SnapshotError(
            f"{name}: it was saved without eviction; start it once without memory_rows, then with it"
        )
    for kind in (ROW, LINE):  # of a change that was cut short
        _delete_all(store, prefix + kind, commit)
    old = TableSnapshot(table, prefix, where)
    cursor = table.open_cursor()

    def relieve() -> None:
        if table.crowded:
            touched, _, _ = table.take_changes(cursor)
            table.note_changed(touched)
            commit(lambda sink: table.leave(table.put_oldest(sink)))

    old.restore(store, relieve)
    snapshot.gone = old.gone
    touched, _, _ = table.take_changes(cursor)
    table.note_changed(touched)

    def finish(sink: Sink) -> None:
        for kind in (b"base/", DELTA):
            for key, _ in store.scan(prefix + kind):
                sink.delete(key)
        sink.delete(prefix + b"meta")
        snapshot.begin_anew(sink)

    commit(finish)
    return True


def hold_whole(
    snapshot: TableSnapshot, store: ChangedStore, prefix: bytes, where: str, commit: Commit
) -> bool:
    """Change a snapshot of rows that rest into a whole one, and fill its table; False if there is none.

    Raises:
        SnapshotError: it is damaged, or does not fit.
    """
    table = snapshot.table
    stored = StoredRest(store, prefix, f"{where}: table {table.spec.name!r}")
    meta = stored.meta()
    if meta is None:
        return False
    if meta.spec.width != table.spec.width:
        raise stored.wrong("it was saved with another dim, optimizer, extra or evict")
    table.make_room(meta.rows)
    limits = KeptLimits(table.spec, table.arrays, table.rules)
    limits.kept = meta.limits
    gone = [stored.gone()]
    entries = RowEntries(store, prefix, table.spec.width, f"{where}: table {table.spec.name!r}")
    after, last = None, False
    while not last:
        keys, rows, last = entries.page(after, PAGE_ROWS)
        if len(keys):
            after = int(keys[-1])
            passed = limits.passed(rows)
            table.load(keys[~passed], rows[~passed])
            gone.append(keys[passed])
    table.filter.restore_lines(*stored.lines())
    for seq in range(meta.first, meta.seq + 1):
        for piece in stored.delta(seq).pieces:
            apply(table, piece)
    unsaid = np.concatenate(gone)
    unsaid = unsaid[~table.has(unsaid)]

    def write(sink: Sink) -> None:
        for key, _ in store.scan(prefix + DELTA):
            sink.delete(key)
        snapshot.save(sink)
        snapshot.gone = unsaid
        for kind in (META, CLOCK, GONE):
            sink.delete(prefix + kind)
        put_deleted(sink, prefix, unsaid)

    commit(write)
    for kind in (ROW, LINE):
        _delete_all(store, prefix + kind, commit)
    return True


def _delete_all(store: RowSource, prefix: bytes, commit: Commit) -> None:
    """Delete all entries whose key begins with a prefix."""
    keys: Iterator[bytes] = (key for key, _ in store.scan(prefix))
    while True:
        part = [key for _, key in zip(range(DELETED_AT_ONCE), keys, strict=False)]
        if not part:
            return

        def delete(sink: Sink, part: list[bytes] = part) -> None:
            for key in part:
                sink.delete(key)

        commit(delete)

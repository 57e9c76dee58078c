"""Snapshots of tables in a folder: one RocksDB, for tables that are used without a stream.

    with SnapshotFolder("model.snapshot") as folder:
        folder.save(users, items)           # everything the first time, then the changes
    with SnapshotFolder("model.snapshot") as folder:
        users = folder.restore("user")      # a new table, equal to the saved one

All tables of one `save` become visible in one atomic write, or not at all.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from rocksdict import AccessType, Rdict, WriteBatch, WriteOptions

from embeddings.errors import SnapshotError
from embeddings.save.entries import read_meta
from embeddings.save.snapshot import TableSnapshot
from embeddings.table.table import Table
from ground import rocks
from ground.errors import UNDECODABLE, FreshetError
from ground.sealed import seal, unseal

BATCH_BYTES = 64 << 20
"""Bytes of pages of a whole snapshot that are collected before they are written to RocksDB."""

OPEN_TRIES = 5
OPEN_AGAIN_S = 0.05

_TABLES = b"tables"
_TABLE = b"table/"
_META = b"meta"


class SnapshotFolder:
    """A folder with snapshots of tables. One process may write to it.

    Args:
        path: the folder; it is created if it does not exist, unless `read_only`.
        read_only: only restore; another process may write to the folder at the same time.

    Raises:
        SnapshotError: the folder has no snapshot to read, is damaged, or is in use.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self._read_only = read_only
        self._snapshots: dict[str, TableSnapshot] = {}
        if not (self.path / "CURRENT").is_file() and (read_only or rocks.is_begun(self.path)):
            raise SnapshotError(f"{self.path / 'CURRENT'}: there is no such file, so no snapshot here")
        self._db: Rdict | None = self._open(read_only)

    def __repr__(self) -> str:
        return f"<SnapshotFolder {self.path}>"

    def tables(self) -> list[str]:
        """The names of the tables that have a snapshot here."""
        data = self.get(_TABLES)
        try:
            return [] if data is None else msgspec.msgpack.decode(unseal(data), type=list[str])
        except (ValueError, *UNDECODABLE) as error:
            raise self._unreadable(error) from None

    def save(self, *tables: Table, whole: bool = False) -> None:
        """Save the current state of tables in one atomic write.

        A table that was saved or restored through this object before is saved by what changed since, at
        a cost that follows from the changes alone; any other is saved whole.

        Args:
            whole: save everything that the tables hold, and drop earlier entries.

        Raises:
            SnapshotError: the disk is full or failing; the last save is intact.
        """
        batch = _Batch()
        parts = []
        for table in tables:
            snapshot = self._snapshots.get(table.spec.name)
            known = snapshot is not None and snapshot.table is table
            if snapshot is None or not known:
                snapshot = self._begin(table)
                snapshot.replace(self)
            parts.append((snapshot, whole or not known))

        def spill() -> None:
            if batch.size > BATCH_BYTES:
                self.write(batch, sync=False)

        try:
            for snapshot, all_of_it in parts:
                if all_of_it:
                    snapshot.save_base(batch, spill)
            for snapshot, all_of_it in parts:
                if all_of_it:
                    snapshot.save_whole(batch)
                else:
                    snapshot.save(batch)
            names = {*self.tables(), *(snapshot.table.spec.name for snapshot, _ in parts)}
            batch.put(_TABLES, seal(msgspec.msgpack.encode(sorted(names))))
            self.write(batch, sync=True)
            self._database().flush()
        except BaseException:
            # The changes that these snapshots took are not in the folder: the next save must be whole.
            for snapshot, _ in parts:
                self._snapshots.pop(snapshot.table.spec.name, None)
            raise
        for snapshot, _ in parts:
            self._snapshots[snapshot.table.spec.name] = snapshot

    def restore(self, name: str | None = None, table: Table | None = None) -> Table:
        """Restore a table as it was at the last save.

        Args:
            name: name of the table; may be omitted if there is only one.
            table: an empty table with that name to fill, if settings have changed (for example a longer
                ttl_s). None: a new table with the saved settings.

        Raises:
            SnapshotError: there is no table of that name, or it is damaged, or does not fit `table`.
        """
        if table is None:
            name = name or self._only()
            table = Table(read_meta(self._meta_of(name), f"{self.path}: table {name!r}").spec)
        elif len(table):
            raise SnapshotError(
                f"{self.path}: table {table.spec.name!r} is not empty; restore into a new one"
            )
        snapshot = self._begin(table)
        if not snapshot.restore(self):
            self._meta_of(table.spec.name)
        if not self._read_only:
            batch = _Batch()
            snapshot.drop_unfinished(batch)
            self.write(batch, sync=False)
        self._snapshots[table.spec.name] = snapshot
        return table

    def purge(self, *tables: Table) -> None:
        """Save whole, and remove deleted rows from the disk. Use it after `forget`."""
        self.save(*tables, whole=True)
        database = self._database()
        try:
            database.compact_range(None, None)
            database.flush()
        except Exception as error:
            raise self._unreadable(error) from None

    def kept_bytes(self, name: str) -> int:
        """Bytes of deltas that a restore of a table reads after its base; 0 for a table not saved here."""
        snapshot = self._snapshots.get(name)
        return 0 if snapshot is None else snapshot.kept_bytes

    def get(self, key: bytes) -> bytes | None:
        """The value of one entry, None if it does not exist."""
        try:
            return self._database().get(key)
        except FreshetError:
            raise
        except Exception as error:
            raise self._unreadable(error) from None

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of entries in the order of their keys, None where there is no entry."""
        try:
            return rocks.get_many(self._database(), keys)
        except FreshetError:
            raise
        except Exception as error:
            raise self._unreadable(error) from None

    def close(self) -> None:
        """Close the folder. Safe to call twice."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, read_only: bool) -> Rdict:
        access = AccessType.read_only() if read_only else AccessType.read_write()
        tries = OPEN_TRIES if read_only else 1
        while True:
            tries -= 1
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                options = rocks.options(create=True, compress=False)  # trained floats do not compress
                return Rdict(str(self.path), options, access_type=access)
            except Exception as error:
                if rocks.read_error(error) is None:
                    raise
                # The writing process may have merged files while this one was opening them.
                if tries <= 0 or "No such file" not in str(error):
                    raise self._unreadable(error) from None
            time.sleep(OPEN_AGAIN_S)

    def _begin(self, table: Table) -> TableSnapshot:
        name = table.spec.name
        if "/" in name:
            raise SnapshotError(f"{self.path}: table {name!r}: a name with a slash cannot be saved")
        return TableSnapshot(table, _prefix(name), str(self.path))

    def _only(self) -> str:
        names = self.tables()
        if len(names) != 1:
            raise SnapshotError(
                f"{self.path}: name the table to restore; there are {', '.join(names) or 'none'}"
            )
        return names[0]

    def _meta_of(self, name: str) -> bytes:
        data = self.get(_prefix(name) + _META)
        if data is None:
            there = ", ".join(self.tables()) or "none"
            raise SnapshotError(f"{self.path}: no table {name!r} was saved here; there are {there}")
        return data

    def _database(self) -> Rdict:
        if self._db is None:
            raise SnapshotError(f"{self.path}: the folder is closed")
        return self._db

    def write(self, batch: _Batch, *, sync: bool) -> None:
        """Write a batch of entries atomically, or raise a SnapshotError."""
        options = WriteOptions()
        options.sync = sync
        try:
            self._database().write(batch.take(), options)
        except Exception as error:
            trouble = rocks.read_error(error)
            if trouble is None:
                raise
            helps = trouble.helps or "free some disk space or repair the disk"
            raise SnapshotError(
                f"{self.path}: the snapshot could not be written ({error}); {helps}: what was saved "
                "before is intact"
            ) from None

    def _unreadable(self, error: Exception) -> SnapshotError:
        return SnapshotError(
            f"{self.path}: the snapshot cannot be read ({error}); take a copy of the folder, or save anew"
        )


class _Batch:
    """Entries to be written to the folder."""

    def __init__(self) -> None:
        self._batch = WriteBatch(raw_mode=True)
        self.size = 0

    def put(self, key: bytes, value: bytes) -> None:
        self._batch.put(key, value)
        self.size += len(value)

    def delete(self, key: bytes) -> None:
        self._batch.delete(key)

    def delete_range(self, first: bytes, end: bytes) -> None:
        self._batch.delete_range(first, end)

    def take(self) -> Any:
        batch, self._batch, self.size = self._batch, WriteBatch(raw_mode=True), 0
        return batch


def _prefix(name: str) -> bytes:
    return _TABLE + name.encode() + b"/"

"""Where states lie: folders that one process holds, each with a database in it.

`RocksDisk` is the machine's own disk with RocksDB. `stream.state.testing.MemoryDisk` is one in memory that
can fail and crash, for tests and for the simulator.

Databases raise what `ground.rocks.read_error` understands; anything else is a defect.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

from rocksdict import Checkpoint, Rdict, RdictIter, ReadOptions, WriteBatch, WriteOptions

from ground import rocks
from ground.clock import SYSTEM_CLOCK, Clock
from stream.state.folder_lock import FolderLock

BLOCK_CACHE_BYTES = 64 << 20
WRITE_BUFFER_BYTES = 2 << 20  # of what a busy role writes in a second; 53 MB/s go through it

ROWS_BUFFER_BYTES = 16 << 20  # of single rows in no order: small files would be merged over and over


class Writes(Protocol):
    """Changes that are written together."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set one entry."""

    def delete(self, key: bytes) -> None:
        """Remove one entry; no harm if it is not there."""


class Held(Protocol):
    """A folder that this process holds."""

    def release(self) -> None:
        """Release the folder; call it once."""


class StoredEntries(Protocol):
    """Entries of bytes in the order of their keys."""

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of entries in the order of their keys, None where there is none."""

    def items(self, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries from key `first` on, in order."""

    def close(self) -> None:
        """Close; nothing can be read afterwards."""


class Database(StoredEntries, Protocol):
    """Entries that can be written; of one process, for several threads."""

    def get(self, key: bytes) -> bytes | None:
        """One entry's value, None if there is none."""

    def batch(self) -> Writes:
        """A new, empty batch."""

    def write(self, batch: Writes) -> None:
        """Write all of a batch or none of it; safe from a crash once this returns, if opened so."""

    def view(self) -> StoredEntries:
        """The entries of this moment, whatever is written later; close it before the database."""

    def delete(self, key: bytes) -> None:
        """Remove one entry."""

    def merge(self) -> None:
        """Rewrite all files, without what was deleted or replaced."""

    def flush(self) -> None:
        """Write what is in memory into files."""

    def copy_to(self, folder: Path) -> None:
        """Copy the entries of this moment into a folder that must not exist."""


class Disk(Protocol):
    """Folders, and the databases in them. Raises OSError as the system does."""

    def hold(self, folder: Path, clock: Clock = SYSTEM_CLOCK) -> Held:
        """Make a folder if there is none, and hold it until `release` or the end of the process.

        Raises:
            StateLockedError: another process holds it.
        """

    def is_begun(self, folder: Path) -> bool:
        """Whether a folder holds a database, or what is left of one."""

    def is_whole(self, folder: Path) -> bool:
        """Whether a folder holds a database that can be opened."""

    def open(self, folder: Path, sync: bool, rows: bool = False) -> Database:
        """Open the database in a folder; make it where none was begun.

        Args:
            sync: writes wait for the disk.
            rows: most entries are rows of tables, read and written one by one.
        """

    def names(self, folder: Path) -> list[str]:
        """What is in a folder, sorted; nothing where there is no folder."""

    def make(self, folder: Path) -> None:
        """Make a folder, and those above it."""

    def copy(self, source: Path, target: Path) -> None:
        """Copy a folder; `target` must not exist."""

    def move(self, source: Path, target: Path) -> None:
        """Rename a folder; `target` must not exist."""

    def remove(self, folder: Path) -> None:
        """Remove a folder with all that is in it; no harm if it is not there."""


class RocksDisk(Disk):
    """The machine's disk, with RocksDB."""

    def __repr__(self) -> str:
        return "ROCKS_DISK"

    def hold(self, folder: Path, clock: Clock = SYSTEM_CLOCK) -> Held:
        folder.mkdir(parents=True, exist_ok=True)
        return FolderLock(folder, clock)

    def is_begun(self, folder: Path) -> bool:
        return rocks.is_begun(folder)

    def is_whole(self, folder: Path) -> bool:
        return (folder / "CURRENT").exists()

    def open(self, folder: Path, sync: bool, rows: bool = False) -> Database:
        return _RocksDatabase(folder, sync, rows)

    def names(self, folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def make(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def copy(self, source: Path, target: Path) -> None:
        shutil.copytree(source, target)

    def move(self, source: Path, target: Path) -> None:
        source.rename(target)

    def remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)


class _RocksDatabase(Database):
    def __init__(self, folder: Path, sync: bool, rows: bool) -> None:
        options = rocks.options(
            create=not rocks.is_begun(folder),
            write_buffer_bytes=ROWS_BUFFER_BYTES if rows else WRITE_BUFFER_BYTES,
            cache_bytes=BLOCK_CACHE_BYTES,
            bloom=True,  # most look-ups of a joiner are for requests never seen
            compress=not rows,
            rows=rows,
            torn_journal="tail" if sync else "point",
        )
        self._db = Rdict(str(folder), options)
        self._write = WriteOptions()
        self._write.sync = sync

    def get(self, key: bytes) -> bytes | None:
        return self._db.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return rocks.get_many(self._db, keys)

    def batch(self) -> Writes:
        return WriteBatch(raw_mode=True)

    def write(self, batch: Writes) -> None:
        assert isinstance(batch, WriteBatch)
        self._db.write(batch, self._write)

    def items(self, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        # raw mode: keys and values are bytes, which rocksdict's own types cannot say
        entries = cast(Iterator[tuple[bytes, bytes]], self._db.items(from_key=first, read_opt=ReadOptions()))
        last = first
        for key, value in entries:
            last = key
            yield key, value
        # Such a loop also ends, without a word, at the first block that is damaged: look whether it did.
        check = self._db.iter()
        check.seek(last)
        if check.valid():
            check.next()
        check.status()

    def view(self) -> StoredEntries:
        return _RocksView(self._db)

    def delete(self, key: bytes) -> None:
        self._db.delete(key)

    def merge(self) -> None:
        self._db.flush()
        self._db.compact_range(None, None)

    def flush(self) -> None:
        self._db.flush()

    def copy_to(self, folder: Path) -> None:
        Checkpoint(self._db).create_checkpoint(str(folder))

    def close(self) -> None:
        self._db.close()


class _RocksView(StoredEntries):
    """One iterator, which sees the database as it was when it was made; one reads at a time.

    (The iterators of rocksdict's `Snapshot` see later writes.)
    """

    def __init__(self, database: Rdict) -> None:
        self._iterator: RdictIter | None = database.iter()

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        iterator = self._held()
        found: list[bytes | None] = []
        for key in keys:
            iterator.seek(key)
            there = iterator.valid() and iterator.key() == key
            found.append(iterator.value() if there else None)
        iterator.status()
        return found

    def items(self, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        iterator = self._held()
        iterator.seek(first)
        while iterator.valid():
            yield iterator.key(), iterator.value()
            iterator.next()
        iterator.status()

    def close(self) -> None:
        self._iterator = None

    def _held(self) -> RdictIter:
        assert self._iterator is not None, "a view is not read after it was closed"
        return self._iterator


ROCKS_DISK = RocksDisk()

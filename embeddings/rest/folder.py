"""A folder in which rows of tables rest that are made anew at each start: nothing in it is to be kept."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from rocksdict import Rdict, ReadOptions, WriteBatch, WriteOptions

from embeddings.errors import SnapshotError
from embeddings.rest.entries import put_entries
from embeddings.rest.table import RestingTable
from ground import rocks

WRITE_BUFFER_BYTES = 16 << 20  # counted as part of the cache
CACHE_BYTES = 64 << 20
SWEPT = 1024
"""Entries on disk that each `relieve` checks."""

_NAME = "freshet-rest-"


class RestFolder:
    """Rows at rest of some tables, in a new folder, which is removed when this is closed.

    Args:
        parent: where the folder is made; folders there that a process left behind are removed. None: the
            system's folder for temporary files.

    Raises:
        SnapshotError: it cannot be made.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self._db: Rdict | None = None
        self.path = parent or Path(tempfile.gettempdir())
        self._tables: list[RestingTable] = []
        self._write = WriteOptions()
        cast(Any, self._write).disable_wal = True  # its stub says that this is a method
        try:
            if parent is not None:
                parent.mkdir(parents=True, exist_ok=True)
                _remove_left(parent)
            self.path = Path(tempfile.mkdtemp(prefix=f"{_NAME}{os.getpid()}-", dir=parent))
            options = rocks.options(
                create=True,
                write_buffer_bytes=WRITE_BUFFER_BYTES,
                cache_bytes=CACHE_BYTES,
                bloom=True,
                compress=False,  # trained floats do not compress
                rows=True,
            )
            self._db = Rdict(str(self.path), options)
        except Exception as error:
            raise self._failure(error) from None

    def __repr__(self) -> str:
        return f"<RestFolder {self.path}>"

    def hold(self, tables: Sequence[RestingTable]) -> None:
        """Let the rows of these tables rest here. Rows that rest elsewhere are copied.

        Raises:
            SnapshotError: they cannot be written here.
        """
        self._tables = list(tables)
        for number, table in enumerate(tables):
            prefix = number.to_bytes(2, "big")
            for keys, rows in table.resting_pages():
                batch = WriteBatch(raw_mode=True)
                put_entries(batch, prefix, keys, rows)
                self._put(batch)
            for keys, _ in table.pages_in_memory():
                table.note_changed(keys)
            table.rest_in(self, prefix, f"folder {self.path}")

    def relieve(self, rows: int | None = None) -> int:
        """Send rows of crowded tables to rest; returns how many went.

        Args:
            rows: of one table, at most; None: until `memory_rows` are left.

        Raises:
            SnapshotError: the disk is full or failing; the rows stay in memory.
        """
        gone = 0
        for table in self._tables:
            if not table.crowded:
                continue
            batch = WriteBatch(raw_mode=True)
            table.sweep(SWEPT)
            touched, _, _ = table.take_changes()
            table.note_changed(touched)
            slots = table.put_oldest(batch, rows)
            try:
                self._put(batch)
            except SnapshotError:
                table.stay(slots)
                raise
            table.leave(slots)
            gone += len(slots)
        return gone

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of entries; see `RowSource`."""
        try:
            return rocks.get_many(self._database(), keys)
        except Exception as error:
            raise self._failure(error) from None

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The entries from a key on; see `RowSource`."""
        entries = self._database().items(from_key=max(prefix, start), read_opt=ReadOptions())
        try:
            for key, value in cast(Iterator[tuple[bytes, bytes]], entries):
                if not key.startswith(prefix):
                    return
                yield key, value
        except Exception as error:
            raise self._failure(error) from None

    def close(self) -> None:
        """Remove the folder. Safe to call twice."""
        db, self._db = self._db, None
        if db is not None:
            db.close()
            shutil.rmtree(self.path, ignore_errors=True)

    def __del__(self) -> None:
        self.close()

    def _put(self, batch: WriteBatch) -> None:
        try:
            self._database().write(batch, self._write)
        except Exception as error:
            raise self._failure(error) from None

    def _database(self) -> Rdict:
        if self._db is None:
            raise SnapshotError(f"folder {self.path} is closed: the rows that rested in it are gone")
        return self._db

    def _failure(self, error: Exception) -> Exception:
        trouble = rocks.read_error(error)
        if trouble is None:
            return error
        helps = trouble.helps or "start again: the folder is made anew"
        return SnapshotError(f"folder {self.path}: rows cannot rest there or be read ({error}); {helps}")


def _remove_left(parent: Path) -> None:
    """Remove the folders of processes that have ended."""
    for folder in parent.glob(f"{_NAME}*"):
        pid = folder.name.removeprefix(_NAME).partition("-")[0]
        if not pid.isdecimal():
            continue
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (PermissionError, OverflowError):
            continue

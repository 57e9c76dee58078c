"""Commits that can be undone: each one keeps the values that it replaces, until the next one.

Several states that commit as one need this. Each writes its part; if one of them fails, the others go back.
What a commit replaces is written with it, in the same atomic write, and removed by the next. An entry that
is new costs its key.
"""

from collections.abc import Iterator
from pathlib import Path

from ground.clock import SYSTEM_CLOCK, Clock
from stream.state.disk import Database, Disk, Held, StoredEntries, Writes
from stream.state.layout import UNDO

_ABSENT, _PRESENT = b"0", b"1"


class UndoableDisk(Disk):
    """A disk on which the last commit of every database can be undone.

    Args:
        disk: on which the folders are.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def open(self, folder: Path, sync: bool, rows: bool = False) -> Database:
        return _UndoableDatabase(self._disk.open(folder, sync, rows))

    def hold(self, folder: Path, clock: Clock = SYSTEM_CLOCK) -> Held:
        return self._disk.hold(folder, clock)

    def is_begun(self, folder: Path) -> bool:
        return self._disk.is_begun(folder)

    def is_whole(self, folder: Path) -> bool:
        return self._disk.is_whole(folder)

    def names(self, folder: Path) -> list[str]:
        return self._disk.names(folder)

    def make(self, folder: Path) -> None:
        self._disk.make(folder)

    def copy(self, source: Path, target: Path) -> None:
        self._disk.copy(source, target)

    def move(self, source: Path, target: Path) -> None:
        self._disk.move(source, target)

    def remove(self, folder: Path) -> None:
        self._disk.remove(folder)


def undo_commit(folder: Path, disk: Disk) -> None:
    """Undo the last commit of the state in a folder, which must be closed.

    Args:
        disk: where the folder is, not an `UndoableDisk`.

    Raises:
        StateLockedError: another process holds it.
    """
    held = disk.hold(folder)
    try:
        database = disk.open(folder / "db", True)
        try:
            batch = database.batch()
            for key, value in _noted(database):
                if value[:1] == _PRESENT:
                    batch.put(key, value[1:])
                else:
                    batch.delete(key)
                batch.delete(UNDO + key)
            database.write(batch)
        finally:
            database.close()
    finally:
        held.release()


def _noted(database: Database) -> Iterator[tuple[bytes, bytes]]:
    """What the last commit has replaced: keys and values."""
    for key, value in database.items(UNDO):
        if not key.startswith(UNDO):
            return
        yield key[len(UNDO) :], value


class _Noting(Writes):
    """A batch that notes which entries it changes."""

    def __init__(self, batch: Writes) -> None:
        self.batch = batch
        self.keys: dict[bytes, None] = {}

    def put(self, key: bytes, value: bytes) -> None:
        self.keys[key] = None
        self.batch.put(key, value)

    def delete(self, key: bytes) -> None:
        self.keys[key] = None
        self.batch.delete(key)


class _UndoableDatabase(Database):
    def __init__(self, database: Database) -> None:
        self._database = database
        self._before = [key for key, _ in _noted(database)]  # what the last commit has changed

    def batch(self) -> Writes:
        return _Noting(self._database.batch())

    def write(self, batch: Writes) -> None:
        assert isinstance(batch, _Noting)
        keys = list(batch.keys)
        for key in self._before:
            if key not in batch.keys:
                batch.batch.delete(UNDO + key)
        for key, value in zip(keys, self._database.get_many(keys) if keys else [], strict=True):
            batch.batch.put(UNDO + key, _ABSENT if value is None else _PRESENT + value)
        self._database.write(batch.batch)
        self._before = keys

    def get(self, key: bytes) -> bytes | None:
        return self._database.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return self._database.get_many(keys)

    def items(self, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._database.items(first)

    def view(self) -> StoredEntries:
        return self._database.view()

    def delete(self, key: bytes) -> None:
        self._database.delete(key)

    def merge(self) -> None:
        self._database.merge()

    def flush(self) -> None:
        self._database.flush()

    def copy_to(self, folder: Path) -> None:
        self._database.copy_to(folder)

    def close(self) -> None:
        self._database.close()

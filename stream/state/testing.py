"""A disk for tests: in memory, and able to fail, to lose what was written last, and to go bad.

    disk = MemoryDisk()
    with RoleState("joiner", "join", {}, disk=disk) as state:
        ...

Each process of a test gets a view of its own (`connect`), which can crash alone.
"""

import bisect
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from ground.clock import SYSTEM_CLOCK, Clock
from stream.errors import StateLockedError
from stream.state.disk import Database, Disk, Held, StoredEntries, Writes

UNDO_MAX = 8  # writes that a database can lose

Trouble = Callable[[str, Path], None]
"""Called around each operation with its name and its folder: "write" before and "written" after a write,
"copying" and "removing" when half of a folder is copied or removed, "merging" while a database is rewritten,
"read", "open", "make". What it raises is what the caller of the disk gets: an OSError, an
`Exception("Corruption: ...")`, the end of a process."""


class _Stored:
    """The entries of one database."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []  # sorted
        self.garbage: list[bytes] = []  # deleted or replaced, and still in the files
        self.undo: deque[dict[bytes, bytes | None]] = deque(maxlen=UNDO_MAX)
        self.damaged = False
        self.bad: set[bytes] = set()  # keys whose block has a checksum that is wrong
        self.missing = 0  # of the last writes, the first so many are not on the disk, and later ones are
        self.whole = True  # False: a copy or a removal of it was cut short

    def apply(self, changes: dict[bytes, bytes | None]) -> dict[bytes, bytes | None]:
        """Make changes (None: delete); returns what undoes them."""
        before: dict[bytes, bytes | None] = {}
        for key, value in changes.items():
            old = before[key] = self.entries.get(key)
            if old is not None:
                self.garbage.append(old)
            if value is not None:
                if old is None:
                    bisect.insort(self.keys, key)
                self.entries[key] = value
            elif old is not None:
                del self.entries[key]
                del self.keys[bisect.bisect_left(self.keys, key)]
        return before

    def copy(self) -> "_Stored":
        other = _Stored()
        other.entries, other.keys, other.garbage = dict(self.entries), list(self.keys), list(self.garbage)
        other.damaged, other.bad = self.damaged, set(self.bad)
        return other


class _Batch(Writes):
    def __init__(self) -> None:
        self.changes: dict[bytes, bytes | None] = {}

    def put(self, key: bytes, value: bytes) -> None:
        self.changes[bytes(key)] = bytes(value)

    def delete(self, key: bytes) -> None:
        self.changes[bytes(key)] = None


class MemoryDisk(Disk):
    """A disk in this process's memory.

    Args:
        trouble: called around each operation, see `Trouble`.
    """

    def __init__(self, trouble: Trouble = lambda what, folder: None) -> None:
        self._trouble = trouble
        self._databases: dict[Path, _Stored] = {}
        self._folders: set[Path] = set()
        self._holders: dict[Path, MemoryDisk] = {}

    def connect(self, trouble: Trouble = lambda what, folder: None) -> "MemoryDisk":
        """Another process's view of the same disk."""
        other = MemoryDisk(trouble)
        other._databases, other._folders, other._holders = self._databases, self._folders, self._holders
        return other

    def crash(self) -> None:
        """The process of this view has ended: its folders are released."""
        for folder in [folder for folder, holder in self._holders.items() if holder is self]:
            del self._holders[folder]

    def lose_writes(self, folder: Path, count: int) -> int:
        """Undo up to `count` of the last writes below a folder, as a disk that lied; how many."""
        lost = 0
        for path, stored in self._below(folder):
            while lost < count and stored.undo and path.name == "db":
                before = stored.undo.pop()
                there = len(stored.garbage) - sum(value is not None for value in before.values())
                stored.apply(before)
                del stored.garbage[there:]  # what was lost never came to the disk, and replaced nothing there
                lost += 1
        return lost

    def reorder_writes(self, folder: Path, count: int) -> int:
        """The disk has the later ones of its last writes below a folder, not the `count` before; how many.

        A journal with a hole: a database whose writes are synced refuses it, another one goes back to before.
        """
        for path, stored in self._below(folder):
            if path.name == "db" and len(stored.undo) > count:
                stored.missing = count
                return count
        return 0

    def flip(self, folder: Path, choose: Callable[[list[bytes]], bytes]) -> bool:
        """A bit flips at rest: whoever reads the entry that `choose` picks finds a checksum that is wrong."""
        held = [stored for path, stored in self._below(folder) if stored.keys and path.name == "db"]
        if held:
            held[0].bad.add(choose(held[0].keys))
        return bool(held)

    def damage(self, folder: Path) -> None:
        """From now on every read of the databases below a folder finds a checksum that is wrong."""
        for _, stored in self._below(folder):
            stored.damaged = True

    def holds(self, folder: Path, text: bytes) -> bool:
        """Whether some bytes are anywhere in the files below a folder, deleted entries included."""
        return text in self.contents(folder)

    def contents(self, folder: Path) -> bytes:
        """All keys and values in the files below a folder, one after the other, deleted ones included."""
        return b"\0".join(self.pieces(folder))

    def pieces(self, folder: Path) -> list[bytes]:
        """Each key and value in the files below a folder, deleted ones included."""
        found: list[bytes] = []
        for _, stored in self._below(folder):
            found += [*stored.entries, *stored.entries.values(), *stored.garbage]
        return found

    def hold(self, folder: Path, clock: Clock = SYSTEM_CLOCK) -> Held:
        self._trouble("make", folder)
        if folder in self._holders:
            raise StateLockedError(f"state {folder} is in use")
        self.make(folder)
        self._holders[folder] = self
        return _Held(self, folder)

    def is_begun(self, folder: Path) -> bool:
        return folder in self._databases

    def is_whole(self, folder: Path) -> bool:
        return folder in self._databases and self._databases[folder].whole

    def open(self, folder: Path, sync: bool, rows: bool = False) -> Database:
        self._trouble("open", folder)
        stored = self._databases.setdefault(folder, _Stored())
        if not stored.whole:
            raise Exception("Invalid argument: CURRENT: does not exist")
        if stored.missing and sync:
            raise Exception("Corruption: missing record in the journal")
        if stored.missing:
            count, stored.missing = len(stored.undo), 0
            self.lose_writes(folder, count)
        return _MemoryDatabase(self, folder, stored)

    def names(self, folder: Path) -> list[str]:
        known = self._folders | self._databases.keys()
        depth = len(folder.parts)
        return sorted({path.parts[depth] for path in known if path != folder and _is_at(path, folder)})

    def make(self, folder: Path) -> None:
        self._folders |= {folder, *folder.parents}

    def copy(self, source: Path, target: Path) -> None:
        self._trouble("make", target)
        found = self._below(source)
        if not found:
            raise FileNotFoundError(2, "No such file or directory", str(source))
        copies = {target / path.relative_to(source): stored.copy() for path, stored in found}
        for stored in copies.values():
            stored.whole = False
        self._databases |= copies
        self._trouble("copying", target)
        for (_, original), stored in zip(found, copies.values(), strict=True):
            stored.whole = original.whole

    def move(self, source: Path, target: Path) -> None:
        found = self._below(source)
        folders = {path for path in self._folders if _is_at(path, source)}
        if not found and not folders:
            raise FileNotFoundError(2, "No such file or directory", str(source))
        for path, stored in found:
            del self._databases[path]
            self._databases[target / path.relative_to(source)] = stored
        self._folders -= folders
        self._folders |= {target / path.relative_to(source) for path in folders} | set(target.parents)

    def remove(self, folder: Path) -> None:
        found = self._below(folder)
        for _, stored in found:
            stored.whole = False
        if found:
            self._trouble("removing", folder)
        for path, _ in found:
            del self._databases[path]
        self._folders -= {path for path in self._folders if _is_at(path, folder)}

    def _below(self, folder: Path) -> list[tuple[Path, _Stored]]:
        return [(path, stored) for path, stored in self._databases.items() if _is_at(path, folder)]


def _is_at(path: Path, folder: Path) -> bool:
    """Whether a path is a folder, or below it."""
    parts = folder.parts
    return path.parts[: len(parts)] == parts


class _Held(Held):
    def __init__(self, disk: MemoryDisk, folder: Path) -> None:
        self._disk, self._folder = disk, folder

    def release(self) -> None:
        if self._disk._holders.get(self._folder) is self._disk:
            del self._disk._holders[self._folder]


class _MemoryDatabase(Database):
    def __init__(self, disk: MemoryDisk, folder: Path, stored: _Stored) -> None:
        self._disk, self._folder, self._stored = disk, folder, stored

    def get(self, key: bytes) -> bytes | None:
        self._read()
        self._check(key)
        return self._stored.entries.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def batch(self) -> Writes:
        return _Batch()

    def write(self, batch: Writes) -> None:
        assert isinstance(batch, _Batch)
        self._disk._trouble("write", self._folder)
        self._stored.undo.append(self._stored.apply(batch.changes))
        self._disk._trouble("written", self._folder)

    def items(self, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._read()
        entries, keys = self._stored.entries, self._stored.keys
        for key in keys[bisect.bisect_left(keys, first) :]:
            self._check(key)
            value = entries.get(key)
            if value is not None:
                yield key, value

    def view(self) -> StoredEntries:
        self._read()
        return _MemoryDatabase(self._disk, self._folder, self._stored.copy())

    def delete(self, key: bytes) -> None:
        batch = self.batch()
        batch.delete(key)
        self.write(batch)

    def merge(self) -> None:
        self._disk._trouble("write", self._folder)
        there = len(self._stored.garbage)
        self._disk._trouble("merging", self._folder)
        if self._stored.bad:
            raise Exception("Corruption: block checksum mismatch")
        del self._stored.garbage[:there]  # what is deleted meanwhile stays
        self._stored.undo.clear()

    def flush(self) -> None:
        self._disk._trouble("write", self._folder)

    def copy_to(self, folder: Path) -> None:
        self._disk._trouble("make", folder)
        self._disk._databases[folder] = self._stored.copy()

    def close(self) -> None:
        pass

    def _read(self) -> None:
        self._disk._trouble("read", self._folder)
        if self._stored.damaged:
            raise Exception("Corruption: block checksum mismatch")

    def _check(self, key: bytes) -> None:
        if key in self._stored.bad:
            raise Exception("Corruption: block checksum mismatch")

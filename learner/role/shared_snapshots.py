"""Snapshots of the leader's state, in a folder that all learners of a group share, for new learners.

A snapshot is a database folder, `learn-TERM-SEQ`: the state after update SEQ. It is renamed into place when
it is complete.
"""

import logging
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import msgspec

from learner.meta import KEY as META
from learner.meta import LearnerMeta
from stream.errors import StateError
from stream.group.membership import SNAPSHOTS_KEPT
from stream.state.disk import ROCKS_DISK, Disk
from stream.state.role_state import RoleState

_MADE, _PIN = "made", "pin"
"""Begin names of empty folders that tell of a snapshot: `made.NAME.INGEST_MS.EXAMPLES`, `pin.LABEL.NAME`."""

_MAKING = "making-"
"""Begins the name of a copy that is being made."""

_log = logging.getLogger("freshet.learner")


class ListedSnapshot(NamedTuple):
    """A snapshot, and what it holds."""

    path: Path
    ingest_ms: int  # when the log took the newest example in it, at the latest; Unix ms
    examples: int  # learned, at most
    pin: str  # the name under which it is kept; "": it goes when newer ones come


def fnmatch_names(names: Iterable[str], pattern: str) -> list[str]:
    """The names that match a pattern."""
    return [name for name in names if fnmatch(name, pattern)]


def _in_rocksdb(copy: Path) -> Path:
    """Where RocksDB makes a copy before it renames it."""
    return copy.with_name(f"{copy.name}.tmp")


class SharedSnapshots:
    """One learner's view of the folder.

    Args:
        folder: made together with the first snapshot.
        member: the learner's name, unique in the group.
        disk: the disk of this folder and of the learners' states.
        kept: how many stay. If more than `SNAPSHOTS_KEPT`, empty folders beside them tell of their time.
    """

    def __init__(
        self, folder: Path, member: str, disk: Disk = ROCKS_DISK, kept: int = SNAPSHOTS_KEPT
    ) -> None:
        self.folder = folder
        self._kept = kept
        self._disk = disk
        self.begun_from = ""  # the name of the snapshot that the learner's state was copied from; "": none
        self._begun_with: int | None = None  # the last update of that copy; None: it was not opened yet
        self._making = folder / f"{_MAKING}{member}"
        self._left_alone: set[str] = set()
        self._first = ""  # the last that was made alone: one before it is of before a purge

    def there(self) -> list[Path]:
        """The usable snapshots, newest first."""
        return [snapshot for snapshot in self._all() if snapshot.name not in self._left_alone]

    def _all(self) -> list[Path]:
        names = [name for name in self._disk.names(self.folder) if fnmatch(name, "learn-*-*")]
        return [self.folder / name for name in reversed(names)]

    def begin(self, state: Path) -> bool:
        """Copy the newest snapshot into a state's folder that holds no state. Returns whether it did."""
        disk, making = self._disk, state / "db.making"
        for left in (self._making, _in_rocksdb(self._making), making):
            disk.remove(left)  # of a life that was cut short: it may hold ids that were forgotten since
        if disk.is_whole(state / "db"):
            return False
        for snapshot in self.there():
            try:
                disk.make(state)
                disk.remove(making)
                disk.copy(snapshot, making)
                disk.remove(state / "db")
                disk.move(making, state / "db")
            except OSError as error:  # the leader may just have replaced it by a newer one
                _log.warning("snapshot %s cannot be copied: %s", snapshot, error)
                continue
            self.begun_from, self._begun_with = snapshot.name, None
            _log.info("begins from snapshot %s", snapshot)
            return True
        return False

    def opened(self, seq: int) -> None:
        """Note, of a state that was just copied, its last update: its leader learned on while it made it."""
        if self._begun_with is None:
            self._begun_with = seq

    def listed(self) -> list[ListedSnapshot]:
        """The usable snapshots whose time is known, newest first."""
        made: dict[str, tuple[int, int]] = {}
        pins: dict[str, str] = {}
        for name in self._disk.names(self.folder):
            parts = name.split(".")
            if parts[0] == _MADE and len(parts) == 4 and parts[2].isdecimal() and parts[3].isdecimal():
                made[parts[1]] = int(parts[2]), int(parts[3])
            elif parts[0] == _PIN and len(parts) == 3:
                pins[parts[2]] = parts[1]
        return [
            ListedSnapshot(path, *made[path.name], pins.get(path.name, ""))
            for path in self.there()
            if path.name in made
        ]

    def pin(self, snapshot: str, label: str) -> None:
        """Keep a snapshot, under a name of its own, until `unpin`.

        Raises:
            OSError: the folder cannot be written.
        """
        self._disk.make(self.folder / f"{_PIN}.{label}.{snapshot}")

    def unpin(self, label: str) -> bool:
        """Let a pinned snapshot go; returns whether there was one of this name.

        Raises:
            OSError: the folder cannot be written.
        """
        found = fnmatch_names(self._disk.names(self.folder), f"{_PIN}.{label}.*")
        for name in found:
            self._disk.remove(self.folder / name)
        return bool(found)

    def leave_alone(self, right_until: int = -1) -> None:
        """Never use the last snapshot again: it is damaged, or of another history.

        Args:
            right_until: the last update of the group's history in the state that was begun from it; a
                snapshot that holds no later one stays usable.
        """
        if self.begun_from and (self._begun_with is None or self._begun_with > right_until):
            self._left_alone.add(self.begun_from)
        self.begun_from = ""

    def make(self, state: RoleState, term: int, seq: int, *, alone: bool) -> bool:
        """Copy a state as of update `seq` of a term; returns whether it could, and logs why not.

        Args:
            alone: remove all older snapshots, and what others have begun to copy: they may hold forgotten
                ids.
        """
        disk = self._disk
        whole = self.folder / f"learn-{term:015d}-{seq:015d}"
        try:
            disk.make(self.folder)
            disk.remove(self._making)
            state.copy_to(self._making)
            saved = state.get(META) if self._kept > SNAPSHOTS_KEPT else None
            # after the copy: what the copy holds is not newer
            meta = None if saved is None else msgspec.msgpack.decode(saved, type=LearnerMeta)
            if meta is not None and meta.forgets == 0:
                alone = False  # of a learner that was just started it is not known, and here it is
            if alone:
                self._first = whole.name
                disk.remove(whole)
            if whole.name not in disk.names(self.folder):
                if meta is not None:
                    disk.make(self.folder / f"{_MADE}.{whole.name}.{meta.ingest_ms}.{meta.examples}")
                disk.move(self._making, whole)
            names = disk.names(self.folder) if alone else [self._making.name]
            for name in fnmatch_names(names, f"{_MAKING}*"):
                disk.remove(self.folder / name)
            kept = {path.name for path in self.there()[: 1 if alone else self._kept]}
            if not alone:
                kept |= {listed.path.name for listed in self.listed() if listed.pin}
            for old in self._all() if alone else self.there():  # a damaged one may hold forgotten ids too
                # a deposed leader that was paused may have made one of before a purge since
                if old.name not in kept or old.name < self._first:
                    disk.remove(old)
            self._remove_marks()
        except (OSError, StateError) as error:
            disk.remove(self._making)
            _log.warning("no snapshot could be made in %s: %s", self.folder, error)
            return False
        return True

    def _remove_marks(self) -> None:
        """Remove what tells of snapshots that are gone."""
        names = self._disk.names(self.folder)
        for name in [*fnmatch_names(names, f"{_MADE}.*"), *fnmatch_names(names, f"{_PIN}.*")]:
            if not any(part in names for part in name.split(".")[1:]):
                self._disk.remove(self.folder / name)

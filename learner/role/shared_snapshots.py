"""Snapshots of the leader's state, in a folder that all learners of a group share, for new learners.

A snapshot is a database folder, `learn-TERM-SEQ`: the state after update SEQ. It is renamed into place when
it is complete.
"""

import logging
from fnmatch import fnmatch
from pathlib import Path

from stream.errors import StateError
from stream.state.disk import ROCKS_DISK, Disk
from stream.state.role_state import RoleState

KEPT = 2

_log = logging.getLogger("freshet.learner")


class SharedSnapshots:
    """One learner's view of the folder.

    Args:
        folder: made together with the first snapshot.
        member: the learner's name, unique in the group.
        disk: the disk of this folder and of the learners' states.
    """

    def __init__(self, folder: Path, member: str, disk: Disk = ROCKS_DISK) -> None:
        self.folder = folder
        self._disk = disk
        self.begun_from = ""  # the name of the snapshot that the learner's state was copied from; "": none
        self._making = folder / f"making-{member}"
        self._left_alone: set[str] = set()

    def there(self) -> list[Path]:
        """The usable snapshots, newest first."""
        return [snapshot for snapshot in self._all() if snapshot.name not in self._left_alone]

    def _all(self) -> list[Path]:
        names = [name for name in self._disk.names(self.folder) if fnmatch(name, "learn-*-*")]
        return [self.folder / name for name in reversed(names)]

    def begin(self, state: Path) -> bool:
        """Copy the newest snapshot into a state's folder that holds no state. Returns whether it did."""
        disk = self._disk
        if disk.is_whole(state / "db"):
            return False
        for snapshot in self.there():
            making = state / "db.making"
            try:
                disk.make(state)
                disk.remove(making)
                disk.copy(snapshot, making)
                disk.remove(state / "db")
                disk.move(making, state / "db")
            except OSError as error:  # the leader may just have replaced it by a newer one
                _log.warning("snapshot %s cannot be copied: %s", snapshot, error)
                continue
            self.begun_from = snapshot.name
            _log.info("begins from snapshot %s", snapshot)
            return True
        return False

    def leave_alone(self) -> None:
        """Never use the last snapshot again: it is damaged, or of another history."""
        self._left_alone.add(self.begun_from)

    def make(self, state: RoleState, term: int, seq: int, *, alone: bool) -> None:
        """Copy a state as of update `seq` of a term. A failure is logged and not raised.

        Args:
            alone: remove all older snapshots: they may hold forgotten ids.
        """
        disk = self._disk
        whole = self.folder / f"learn-{term:015d}-{seq:015d}"
        try:
            disk.make(self.folder)
            disk.remove(self._making)
            state.copy_to(self._making)
            if alone:
                disk.remove(whole)
            if whole.name not in disk.names(self.folder):
                disk.move(self._making, whole)
            kept = self.there()[: 1 if alone else KEPT]
            for old in self._all() if alone else self.there():  # a damaged one may hold forgotten ids too
                if old not in kept:
                    disk.remove(old)
        except (OSError, StateError) as error:
            disk.remove(self._making)
            _log.warning("no snapshot could be made in %s: %s", self.folder, error)

"""Snapshots of a leader's state in a folder that all learners of a group see, for those that begin anew.

A snapshot is a database folder, `learn-TERM-SEQ`, of the state's moment behind update SEQ; it appears whole.
"""

import logging
import shutil
from pathlib import Path

from stream.errors import StateError
from stream.state.role_state import RoleState

KEPT = 2

_log = logging.getLogger("freshet.learner")


class SharedSnapshots:
    """One learner's view of the folder.

    Args:
        folder: it is made when the first snapshot is.
        member: the learner's name, unlike those of the others.
    """

    def __init__(self, folder: Path, member: str) -> None:
        self.folder = folder
        self.begun_from = ""  # the name of the snapshot that the learner's state was copied from; "": none
        self._making = folder / f"making-{member}"
        self._left_alone: set[str] = set()

    def there(self) -> list[Path]:
        """The snapshots that may be begun from, newest first."""
        found = [path for path in self.folder.glob("learn-*-*") if path.name not in self._left_alone]
        return sorted(found, reverse=True)

    def begin(self, state: Path) -> bool:
        """Fill a state's folder that holds no state from the newest snapshot; whether that was done."""
        if (state / "db" / "CURRENT").exists():
            return False
        for snapshot in self.there():
            making = state / "db.making"
            try:
                state.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(making, ignore_errors=True)
                shutil.copytree(snapshot, making)
                shutil.rmtree(state / "db", ignore_errors=True)
                making.rename(state / "db")
            except OSError as error:  # its maker may just have removed it for a newer one
                _log.warning("snapshot %s cannot be copied: %s", snapshot, error)
                continue
            self.begun_from = snapshot.name
            _log.info("begins from snapshot %s", snapshot)
            return True
        return False

    def leave_alone(self) -> None:
        """Begin no more from the snapshot that was begun from last: it is damaged, or of another history."""
        self._left_alone.add(self.begun_from)

    def make(self, state: RoleState, term: int, seq: int, *, alone: bool) -> None:
        """Copy a state as it is behind update `seq` of a term; where that fails, say so and go on.

        Args:
            alone: no older one stays: they may hold what is to be gone.
        """
        whole = self.folder / f"learn-{term:015d}-{seq:015d}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self._making, ignore_errors=True)
            state.copy_to(self._making)
            if alone:
                shutil.rmtree(whole, ignore_errors=True)
            if not whole.exists():
                self._making.rename(whole)
            for old in self.there()[1 if alone else KEPT :]:
                shutil.rmtree(old, ignore_errors=True)
        except (OSError, StateError) as error:
            shutil.rmtree(self._making, ignore_errors=True)
            _log.warning("no snapshot could be made in %s: %s", self.folder, error)

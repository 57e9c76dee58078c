"""Beginning anew: a learner ignores the model in a log and learns from the oldest examples in that log.

The old state is moved aside, not removed. If the state's folder holds a mark, the learner leads at its next
start whatever the log holds. It removes the mark once its first update is sent, so that a later restart
resumes from the new state.
"""

from fnmatch import fnmatch
from pathlib import Path

from stream.state.disk import ROCKS_DISK, Disk

_MARK = "anew"
_ASIDE = "db.before-anew"


def begin_anew(folder: Path, snapshots: Path, disk: Disk = ROCKS_DISK) -> list[Path]:
    """Make the learner of a state's folder begin anew at its next start; returns the folders moved aside.

    No learner may be running in the folder. A second call changes nothing until that learner has published.
    Folders that an earlier call moved aside are removed.

    Args:
        folder: of the learner's state.
        snapshots: the folder that all learners of its group see.
        disk: the disk of both folders.

    Raises:
        OSError: a folder cannot be written.
    """
    if is_marked(folder, disk):
        return []
    moves = [(folder / "db", folder / _ASIDE)] if disk.is_begun(folder / "db") else []
    for name in disk.names(snapshots):
        if fnmatch(name, "learn-*-*"):
            moves.append((snapshots / name, snapshots / f"before-anew-{name}"))
    for source, aside in moves:
        disk.remove(aside)
        disk.move(source, aside)
    disk.make(folder / _MARK)
    return [aside for _, aside in moves]


def is_marked(folder: Path, disk: Disk = ROCKS_DISK) -> bool:
    """Whether the learner is to begin anew."""
    return _MARK in disk.names(folder)


def unmark(folder: Path, disk: Disk = ROCKS_DISK) -> None:
    """The learner has begun anew."""
    disk.remove(folder / _MARK)

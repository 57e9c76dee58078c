"""Beginning anew: a learner that leaves a log's older model behind and learns from the oldest examples kept.

What it had is put aside, not removed. A mark in the state's folder tells the learner, at its next start, to
lead whatever the log holds; the learner removes the mark once its first update is sent, so that a restart
goes on with what was learnt.
"""

from fnmatch import fnmatch
from pathlib import Path

from stream.state.disk import ROCKS_DISK, Disk

_MARK = "anew"
_ASIDE = "db.before-anew"


def begin_anew(folder: Path, snapshots: Path, disk: Disk = ROCKS_DISK) -> list[Path]:
    """Have the learner of a state's folder begin anew when it starts; returns what was put aside.

    No learner may be at work in the folder. Asked again before that learner has published, it changes
    nothing. What an earlier beginning put aside is removed.

    Args:
        folder: of the learner's state.
        snapshots: the folder that all learners of its group see.
        disk: where both lie.

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

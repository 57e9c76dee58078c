"""Where the states of a learner's processes lie, and how new ones take the place of old ones: by one rename.

    FOLDER/db                  of one process
    FOLDER/shards-N/RANK/db    of N shards
    FOLDER/resharding          new states while they are written, in the same form
    FOLDER/resharded           the same, whole: from now on these count, and the others are removed

Who ends before the rename has changed nothing. Who ends after it leaves the rest to the next one that starts
a learner here.
"""

import re
from fnmatch import fnmatch
from pathlib import Path

from stream.state.disk import ROCKS_DISK, Disk

WRITING, WHOLE = "resharding", "resharded"
ASIDE = "before-reshard-"
"""Begins the names of shared snapshots of one process: what shards learn, no standby can repeat."""

_SHARDS = re.compile(r"shards-([1-9]\d*)")
_ONE = "db"


def state_folder(folder: Path, shards: int, rank: int) -> Path:
    """The folder of one process's state.

    >>> state_folder(Path("learn"), 4, 2), state_folder(Path("learn"), 1, 0)
    (PosixPath('learn/shards-4/2'), PosixPath('learn'))
    """
    return folder if shards == 1 else folder / f"shards-{shards}" / str(rank)


def place_folder(state: Path) -> Path:
    """The folder beside a shard's state that its process holds from its start on, and who starts it."""
    return state / "place"


def numbers_there(folder: Path, disk: Disk = ROCKS_DISK) -> list[int]:
    """In how many processes the learners work whose states are in a folder, ascending."""
    names = disk.names(folder)
    found = [int(match[1]) for name in names if (match := _SHARDS.fullmatch(name))]
    return sorted(found + [1] * (_ONE in names))


def finish_resharding(folder: Path, snapshots: Path, disk: Disk = ROCKS_DISK) -> bool:
    """Let new states that are whole take the place of the old ones; returns whether there were any.

    Args:
        folder: of the learner's states.
        snapshots: the folder that learners of one process share.

    Raises:
        StateLockedError: another process is at it.
        OSError: a folder cannot be written.
    """
    if WHOLE not in disk.names(folder):
        return False
    held = disk.hold(folder)
    try:
        for shards in numbers_there(folder / WHOLE, disk):  # none: they have been moved
            for old in numbers_there(folder, disk):
                disk.remove(_top(folder, old))
            disk.move(_top(folder / WHOLE, shards), _top(folder, shards))
        for name in disk.names(snapshots):
            if fnmatch(name, "learn-*-*"):
                disk.remove(snapshots / f"{ASIDE}{name}")
                disk.move(snapshots / name, snapshots / f"{ASIDE}{name}")
        disk.remove(folder / WHOLE)
    finally:
        held.release()
    return True


def _top(folder: Path, shards: int) -> Path:
    return folder / (_ONE if shards == 1 else f"shards-{shards}")

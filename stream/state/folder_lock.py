"""A folder that one process holds: a locked file in it, with the pid of the holder for people."""

import contextlib
import fcntl
import os
from pathlib import Path

from ground.clock import SYSTEM_CLOCK, Clock
from stream.errors import StateError, StateLockedError


class FolderLock:
    """Held from construction until `release` or the end of the process.

    Args:
        path: the folder, which must exist.

    Raises:
        StateLockedError: another process holds it.
        StateError: the file cannot be opened.
    """

    def __init__(self, path: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        try:
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StateError(f"state {path}: cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = b""
            for _ in range(20):  # the holder writes its pid just after it takes the lock
                holder = os.pread(lock, 32, 0).strip()
                if holder:
                    break
                clock.sleep(0.005)
            os.close(lock)
            raise StateLockedError(
                f"state {path} is in use by process {holder.decode() or '(unknown)'}; "
                "stop that process, or give this one a name, and so a folder, of its own (group.name)"
            ) from None
        os.ftruncate(lock, 0)
        with contextlib.suppress(OSError):  # on a full disk the file names no holder
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    @property
    def descriptor(self) -> int:
        """Of the locked file: a process that inherits it holds the folder too, until it ends."""
        return self._lock

    def release(self) -> None:
        """Release the folder; call it once."""
        os.ftruncate(self._lock, 0)
        os.close(self._lock)

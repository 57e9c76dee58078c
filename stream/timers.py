"""Timers by the million: the next ones in memory, all of them on disk.

A timer is (deadline, name); they come due in that order. A timer cannot be taken back: whoever gets
one that no longer means anything ignores it.
"""

import heapq
import struct
from collections.abc import Iterator

from stream.state import Commit, RoleState


def timer_key(deadline: float, name: str) -> bytes:
    """A timer as bytes that sort like (deadline, name); `deadline` in seconds, not negative."""
    # the bits of a float that is not negative sort like the float
    return struct.pack(">d", deadline) + name.encode()


def timer_parts(key: bytes) -> tuple[float, str]:
    """(deadline, name) of a timer."""
    deadline: float = struct.unpack_from(">d", key)[0]
    return deadline, key[8:].decode()


class Timers:
    """One queue of timers under a prefix of a role's state.

    In memory are those before `_boundary` (None: all), and those which the next commit will write.
    """

    def __init__(self, state: RoleState, prefix: bytes, near_max: int = 20_000) -> None:
        """Open the queue that is on disk under `prefix`, keeping about `near_max` timers in memory."""
        self._state = state
        self._prefix = prefix
        self._near_max = near_max
        self._near: list[bytes] = []  # a heap
        self._boundary: bytes | None = b""
        self._unsaved: set[bytes] = set()
        self._done: list[bytes] = []  # on disk, but come due since the last commit

    def add(self, deadline: float, name: str) -> None:
        """Set a timer."""
        key = timer_key(deadline, name)
        if key in self._unsaved:
            return
        self._unsaved.add(key)
        if self._boundary is None or key < self._boundary:
            heapq.heappush(self._near, key)

    def due(self, clock: float) -> Iterator[tuple[float, str]]:
        """Take out, one by one, the timers whose deadline is at or before `clock`."""
        while (first := self._first()) is not None:
            deadline, name = timer_parts(first)
            if deadline > clock:
                return
            self._take()
            yield deadline, name

    def pop(self) -> tuple[float, str] | None:
        """Take out the next timer, due or not; None if there is none."""
        first = self._first()
        if first is None:
            return None
        self._take()
        return timer_parts(first)

    def flush(self, commit: Commit) -> None:
        """Write what has changed; memory beyond the limit is given back."""
        for key in self._done:
            commit.delete(self._prefix + key)
        for key in self._unsaved:
            commit.put(self._prefix + key, b"")
        self._done.clear()
        self._unsaved.clear()
        if len(self._near) > 2 * self._near_max:
            self._near.sort()  # a sorted list is a heap
            self._boundary = self._near[self._near_max]
            del self._near[self._near_max :]

    def _first(self) -> bytes | None:
        while not self._near and self._boundary is not None:
            self._load()
        return self._near[0] if self._near else None

    def _take(self) -> None:
        key = heapq.heappop(self._near)
        if key in self._unsaved:
            self._unsaved.remove(key)
        else:
            self._done.append(key)

    def _load(self) -> None:
        """Bring the next timers in from disk, with those not yet on disk that come between."""
        assert self._boundary is not None
        begin, self._boundary = self._boundary, None
        loaded: set[bytes] = set()
        strip = len(self._prefix)
        for key, _ in self._state.scan(self._prefix, self._prefix + begin):
            if len(loaded) == self._near_max:
                self._boundary = key[strip:]
                break
            loaded.add(key[strip:])
        loaded.update(
            key for key in self._unsaved if key >= begin and (self._boundary is None or key < self._boundary)
        )
        self._near = sorted(loaded)

"""Timers by the million: the next ones in memory, all of them on disk, in blocks.

A timer is (deadline, name); they come due in that order. Timers cannot be cancelled; callers
ignore stale ones. So after a restart some timers may come due again.

On disk timers lie in blocks, one for each second of deadlines of which a commit has any, under
`prefix | second | number`: a commit writes a few of them however many timers were set, and a block goes
once all timers of its second were taken.
"""

import bisect
import math
import struct
from collections import deque
from collections.abc import Sequence
from itertools import groupby

import msgspec

from stream.state.role_state import Commit, RoleState

Timer = tuple[float, str]
"""(deadline in Unix seconds, not negative; name)."""

_KEY = struct.Struct(">QQ")  # second, number
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Timer]).decode


def _second(timer: Timer) -> int:
    return int(timer[0])


class Timers:
    """One queue of timers under a prefix of a role's state.

    In memory are those of the seconds before `_boundary` (None: of all), and those which the next commit
    will write.
    """

    def __init__(self, state: RoleState, prefix: bytes, near_max: int = 20_000) -> None:
        """Open the queue that is on disk under `prefix`, keeping about `near_max` timers in memory."""
        self._state = state
        self._prefix = prefix
        self._near_max = near_max
        self._near: list[Timer] = []  # in order; those before `_at` were taken
        self._at = 0
        self._boundary: int | None = 0
        self._unsaved: list[Timer] = []
        self._blocks: deque[bytes] = deque()  # those on disk of seconds before the boundary, in order
        self._load()
        self.next_s = self._near[0][0] if self._near else math.inf
        """When the next timer is due; infinity: there is none."""

    def add(self, deadline: float, name: str) -> None:
        """Set a timer."""
        timer = deadline, name
        self._unsaved.append(timer)
        near = self._near
        if self._boundary is not None and deadline >= self._boundary:
            return  # there are earlier ones, so `next_s` stays
        if self._at == len(near) or timer >= near[-1]:
            near.append(timer)
        else:
            bisect.insort(near, timer, self._at)
        if deadline < self.next_s:
            self.next_s = deadline

    def due(self, clock: float, most: int) -> Sequence[Timer]:
        """Take out the timers whose deadline is at or before `clock`, in order: 1 to `most` of them."""
        if clock < self.next_s:
            return ()
        near, at = self._near, self._at
        end = at + 1
        if end < len(near) and (following_s := near[end][0]) > clock:  # as in most calls
            self._at, self.next_s = end, following_s
            return near[at:end]
        taken: list[Timer] = []
        while self.next_s <= clock and len(taken) < most:
            near, at = self._near, self._at
            end, last = at + 1, min(len(near), at + most - len(taken))
            while end < last and near[end][0] <= clock:
                end += 1
            taken += near[at:end]
            self._at = end
            self._look()
        return taken

    def pop(self) -> Timer | None:
        """Take out the next timer, due or not; None if there is none."""
        if self.next_s == math.inf:
            return None
        timer = self._near[self._at]
        self._at += 1
        self._look()
        return timer

    def flush(self, commit: Commit, number: int) -> None:
        """Write what has changed; timers beyond the memory limit are evicted.

        Args:
            number: of this commit, another than of any before.
        """
        first: Timer = self._near[self._at] if self.next_s < math.inf else (math.inf, "")
        while self._blocks and self._second_of(self._blocks[0]) + 1 <= first[0]:
            commit.delete(self._blocks.popleft())
        # what is before the first one was taken; a later one may have been too, and then comes again
        unsaved = sorted(timer for timer in self._unsaved if timer >= first)
        for second, timers in groupby(unsaved, _second):
            key = self._prefix + _KEY.pack(second, number)
            commit.put(key, _encode(list(timers)))
            if self._boundary is None or second < self._boundary:
                bisect.insort(self._blocks, key)
        self._unsaved.clear()
        del self._near[: self._at]
        self._at = 0
        if len(self._near) > 2 * self._near_max:
            self._forget_far()

    def _look(self) -> None:
        """Find when the next timer is due."""
        while self._at == len(self._near) and self._boundary is not None:
            self._load()
        self.next_s = self._near[self._at][0] if self._at < len(self._near) else math.inf

    def _forget_far(self) -> None:
        boundary = _second(self._near[self._near_max])
        cut = bisect.bisect_left(self._near, (float(boundary), ""))
        if cut == 0:
            return  # all are of one second
        self._boundary = boundary
        del self._near[cut:]
        while self._blocks and self._second_of(self._blocks[-1]) >= boundary:
            self._blocks.pop()

    def _load(self) -> None:
        """Bring the next timers in from disk, with those not yet on disk that come between."""
        assert self._boundary is not None
        begin, self._boundary = self._boundary, None
        loaded: list[Timer] = []
        last = begin
        for key, block in self._state.scan(self._prefix, self._prefix + _KEY.pack(begin, 0)):
            second = self._second_of(key)
            if len(loaded) >= self._near_max and second > last:
                self._boundary = second
                break
            last = second
            loaded += _decode(block)
            self._blocks.append(key)
        end = math.inf if self._boundary is None else self._boundary
        loaded += [timer for timer in self._unsaved if begin <= timer[0] < end]
        loaded.sort()
        self._near = loaded
        self._at = 0

    def _second_of(self, key: bytes) -> int:
        second: int = _KEY.unpack_from(key, len(self._prefix))[0]
        return second

"""Actions that wait for their impression: bounded, and kept in the state."""

import heapq
from collections import OrderedDict
from typing import NamedTuple

import msgspec

from stream.ingest.records import Seeking, names_of
from stream.records.forgetting import Entity
from stream.state.role_state import Commit, RoleState

WAITING = b"match/waiting/"
DUE_SPARE = 1_000
"""So many moments of actions that wait no longer may be kept, or as many as actions wait."""

_encode = msgspec.msgpack.Encoder().encode


class Waiter(NamedTuple):
    """One action that waits."""

    offset: int  # of its record
    key: bytes
    seeking: Seeking

    @property
    def settles_s(self) -> float:
        """The clock from which on the newest impression that is known counts."""
        return self.seeking.time + self.seeking.settle_s

    @property
    def ends_s(self) -> float:
        """The clock at which it gives up."""
        return self.seeking.time + self.seeking.wait_s


class Waiters:
    """The waiting actions of one partition of topic `matches`."""

    def __init__(self, state: RoleState, partition: int) -> None:
        """Those that the state has."""
        self._prefix = WAITING + partition.to_bytes(4, "big")
        self._waiters: OrderedDict[int, Waiter] = OrderedDict()  # by offset: the oldest is first
        self._of_key: dict[bytes, dict[int, None]] = {}
        self._due: list[tuple[float, int]] = []
        self._added: set[int] = set()
        self._removed: set[int] = set()
        for name, value in state.scan(self._prefix):
            offset = int.from_bytes(name[len(self._prefix) :], "big")
            key, seeking = msgspec.msgpack.decode(value, type=tuple[bytes, Seeking])
            self._add(Waiter(offset, key, seeking))

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, waiter: Waiter) -> None:
        """Let an action wait."""
        self._add(waiter)
        self._added.add(waiter.offset)

    def of_key(self, key: bytes) -> list[Waiter]:
        """The actions that look for a key, the oldest first."""
        return [self._waiters[offset] for offset in self._of_key.get(key, ())]

    def remove(self, waiter: Waiter) -> None:
        """An action waits no longer."""
        del self._waiters[waiter.offset]
        offsets = self._of_key[waiter.key]
        del offsets[waiter.offset]
        if not offsets:
            del self._of_key[waiter.key]
        if waiter.offset in self._added:
            self._added.remove(waiter.offset)
        else:
            self._removed.add(waiter.offset)
        if len(self._due) > 2 * len(self._waiters) + DUE_SPARE:
            self._due = [moment for moment in self._due if moment[1] in self._waiters]
            heapq.heapify(self._due)

    def forget(self, entity: Entity) -> int:
        """Remove the actions of an entity's ids, and those that look for one of them; returns how many."""
        gone = [
            waiter
            for waiter in self._waiters.values()
            if names_of(waiter.key, entity)
            or any(isinstance(v, int | str) and entity.named(n, v) for n, v in waiter.seeking.match.items())
        ]
        for waiter in gone:
            self.remove(waiter)
        return len(gone)

    def pop_due(self, clock_s: float) -> Waiter | None:
        """The next action for which a clock has come: it settles, or gives up. It goes on waiting."""
        while self._due and self._due[0][0] <= clock_s:
            due_s, offset = heapq.heappop(self._due)
            waiter = self._waiters.get(offset)
            if waiter is not None:
                if due_s < waiter.ends_s:
                    heapq.heappush(self._due, (waiter.ends_s, offset))
                return waiter
        return None

    def oldest(self) -> Waiter:
        """The action that came first."""
        return next(iter(self._waiters.values()))

    def flush(self, commit: Commit) -> None:
        """Write what has changed into the commit."""
        for offset in self._added:
            waiter = self._waiters[offset]
            commit.put(self._prefix + offset.to_bytes(8, "big"), _encode((waiter.key, waiter.seeking)))
        for offset in self._removed:
            commit.delete(self._prefix + offset.to_bytes(8, "big"))
        self._added.clear()
        self._removed.clear()

    def _add(self, waiter: Waiter) -> None:
        self._waiters[waiter.offset] = waiter
        self._of_key.setdefault(waiter.key, {})[waiter.offset] = None
        first_s = waiter.settles_s if waiter.seeking.settle_s else waiter.ends_s
        heapq.heappush(self._due, (first_s, waiter.offset))

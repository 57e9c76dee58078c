"""Which rows in memory were not used for longest: the time of a row's last use, in calls of its table.

Exact in a small table. In a large one the times of a sample say which rows are among the oldest sixteenth,
and a hand takes such rows in the order of slots, as the clock algorithm does (Corbató 1968).
"""

import numpy as np
import numpy.typing as npt

from embeddings.core.memory import reserve
from embeddings.core.positions import State
from embeddings.core.store import Store
from embeddings.types import Slots

EXACT_SLOTS = 1 << 14
SAMPLE = 4096
SHARE = 1.0 / 16.0
WINDOW = 1 << 16  # slots that are compared at once


class Recency:
    """The last use of the row at each slot."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last: npt.NDArray[np.uint32] = reserve((len(store.slot_key),), np.uint32)
        self._now = np.uint32(0)
        self._hand = 0

    def use(self, slots: Slots) -> None:
        """The rows at slots (n,) are used now; -1 is skipped."""
        self._now += np.uint32(1)
        self._last[slots[slots >= 0]] = self._now

    def oldest(self, count: int) -> Slots:
        """Slots of `count` rows among those not used for longest, (count,); fewer if there are fewer rows."""
        high = int(self._store.state[State.HIGH])
        count = min(count, int(self._store.state[State.LIVE]))
        if count <= 0:
            return np.zeros(0, dtype=np.int64)
        if high <= EXACT_SLOTS:
            slots = np.flatnonzero(self._store.in_use[:high])
            return slots[np.argsort(self._last[slots], kind="stable")[:count]]
        share = max(SHARE, min(1.5 * count / high, 1.0))
        found: list[Slots] = []
        while count > 0:
            least = self._quantile(share, high)
            for _ in range(-(-high // WINDOW)):
                first = self._hand if self._hand < high else 0
                last = min(first + WINDOW, high)
                self._hand = last
                mine = self._store.in_use[first:last].astype(np.bool_) & (self._last[first:last] <= least)
                slots = (first + np.flatnonzero(mine))[:count]
                if len(slots) == count:
                    self._hand = int(slots[-1]) + 1
                self._last[slots] = _TAKEN
                found.append(slots)
                count -= len(slots)
                if count <= 0:
                    break
            share = min(2.0 * share, 1.0)
        return np.concatenate(found)

    def _quantile(self, share: float, high: int) -> np.uint32:
        sample = np.linspace(0, high - 1, SAMPLE).astype(np.int64)
        times = self._last[sample[self._store.in_use[sample] != 0]]
        if share >= 1.0 or not len(times):
            return np.uint32(_TAKEN - 1)
        return np.uint32(np.quantile(times, share, method="lower"))


_TAKEN = (1 << 32) - 1
"""The last use of a row that was chosen: it is not chosen again before its slot is used anew."""

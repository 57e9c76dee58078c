"""Which rows at rest are gone: those that a limit of eviction passed, and those whose time is over.

A row in memory that was evicted is removed before the next limit is set (`embeddings/core/eviction.py`). A
row at rest may be read only after many limits, and with `least_frequent` a later limit can be lower than an
earlier one. So the limits are kept until a round over all rows at rest, begun after them, has ended. A row
has not been sighted since a limit if its stamp is older, so it is compared with every limit that is kept.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embeddings.core.eviction import LIMIT_WORDS
from embeddings.core.lifetimes import floor_at
from embeddings.core.positions import Ages, State
from embeddings.core.store import Store
from embeddings.spec import Rules, TableSpec
from embeddings.types import Floats

Bools = npt.NDArray[np.bool_]


class KeptLimits:
    """The limits of a table that evicts, oldest first."""

    def __init__(self, spec: TableSpec, store: Store, rules: Rules) -> None:
        self._spec = spec
        self._store = store
        self._rules = rules
        self.kept: list[tuple[int, int, int]] = []  # generation, class, stamp
        self._before_round = 0  # how many of them were there when the round began

    def note(self) -> None:
        """Take the limits that were set since the last call."""
        state = self._store.state
        if self._spec.evict == "least_frequent":
            count = int(state[State.LIMITS])
            noted = self._store.alive[: LIMIT_WORDS * count].reshape(-1, LIMIT_WORDS)
            self.kept += [(int(g), int(c), int(s)) for g, c, s in noted]
            state[State.LIMITS] = 0
        elif self._spec.evict == "least_recent":
            self.note_current()  # each limit passes all rows that an earlier one has passed

    def note_current(self) -> None:
        """Take the current limit alone, of a table that was whole in memory: it had removed what earlier ones
        passed."""
        ages = self._store.ages
        if self._spec.evict != "none" and ages[Ages.LIMIT_GENERATION]:
            at = ages[Ages.LIMIT_GENERATION], ages[Ages.LIMIT_CLASS], ages[Ages.LIMIT_STAMP]
            self.kept = [(int(at[0]), int(at[1]), int(at[2]))]

    def begin_round(self) -> None:
        """A round over all rows at rest begins."""
        self._before_round = len(self.kept)

    def end_round(self) -> None:
        """The round has removed every row that these limits had passed when it began."""
        if self._spec.evict == "least_frequent":
            del self.kept[: self._before_round]

    def passed(self, rows: Floats) -> Bools:
        """Which of the rows (n, W) a limit has evicted, (n,)."""
        out = np.zeros(len(rows), dtype=np.bool_)
        if not self.kept:
            return out
        bits = rows.view(np.uint32)
        stamp = bits[:, self._rules.age_column].astype(np.int64)
        rank = np.zeros(len(rows), dtype=np.int64)
        if self._rules.classes > 1:
            uses = bits[:, self._rules.age_column + 1].astype(np.int64)
            rank = np.minimum(uses, self._rules.classes - 1)
        for generation, least, oldest in self.kept:
            out |= (stamp < generation) & ((rank < least) | ((rank == least) & (stamp < oldest)))
        return out

    def over(self, rows: Floats) -> Bools:
        """Which of the rows (n, W) have expired so long ago that they are counted no longer, (n,)."""
        if self._spec.ttl_s == 0:
            return np.zeros(len(rows), dtype=np.bool_)
        seen = rows.view(np.uint32)[:, self._spec.seen_column].astype(np.int64)
        floor = int(floor_at(int(self._store.ages[Ages.NEWEST]), self._rules))
        return (seen >> self._rules.seen_shift) < floor

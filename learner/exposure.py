"""Exposure: which items an order shows, beside how well it ranks them.

An item is exposed where it is among the first `top` candidates of a request. Of the items that were ever
candidates:

    coverage   share of the items that are exposed at least once
    gini       of the numbers of exposures: 0 if all items have as many, towards 1 if one item has all
    young      share of the exposures whose item was first a candidate less than a day before

`young` leaves out the first day, in which every item is young.

A live server counts what was shown lately, in memory of a fixed size: `RecentExposure`.
"""

import threading
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from ground.distinct import distinct
from ground.rows import Rows

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.uint64]

YOUNG_S = 86_400.0


class ExposureSummary(TypedDict):
    """Exposure of one order of the candidates; None: not known."""

    coverage: float | None
    gini: float | None
    young: float | None


class ItemExposure:
    """Counts the exposures of items in requests that are added in order; memory grows with the items alone.

    >>> exposure = ItemExposure(top=1)
    >>> items, request = np.array([7, 8, 7, 9], np.uint64), np.array([0, 0, 1, 1])
    >>> exposure.add(items, request, np.zeros(4), np.array([1.0, 0.0, 1.0, 0.0]))
    >>> exposure.summary()["coverage"]
    0.3333333333333333

    Args:
        top: how many candidates of a request are exposed.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._items = np.zeros(0, dtype=np.uint64)  # ascending
        self._first = np.zeros(0)  # event time
        self._counts = np.zeros(0)
        self._began = np.inf
        self._aged = np.zeros(2)  # exposures after the first day: of young items, all

    def add(self, items: Ids, request: npt.NDArray[np.int64] | Ids, time: Floats, p: Floats | None) -> None:
        """Add whole requests of n candidates.

        Args:
            items, request, time: (n,), numbers of requests ascend; event times in seconds.
            p: (n,), predictions by which they are ordered, ties as they came; None: they are in order.
        """
        n = len(items)
        if n == 0:
            return
        order = np.arange(n) if p is None else np.lexsort((-p, request))
        place = np.arange(n) - np.searchsorted(request, request)  # requests are together in both orders
        shown = order[place < self._top]
        known, at = np.unique(np.concatenate([self._items, items]), return_inverse=True)
        old, new = at[: len(self._items)], at[len(self._items) :]
        first, counts = np.full(len(known), np.inf), np.zeros(len(known))
        first[old], counts[old] = self._first, self._counts
        np.minimum.at(first, new, time)
        counts += np.bincount(new[shown], minlength=len(known))
        self._items, self._first, self._counts = known, first, counts
        self._began = min(self._began, float(time.min()))
        later = shown[time[shown] >= self._began + YOUNG_S]
        young = np.count_nonzero(time[later] - first[new[later]] < YOUNG_S)
        self._aged += np.array([young, len(later)])

    def summary(self) -> ExposureSummary:
        """Coverage, Gini and the share of young items so far."""
        n, total = len(self._counts), float(self._counts.sum())
        young, aged = self._aged.tolist()
        return ExposureSummary(
            coverage=float((self._counts > 0.0).mean()) if n else None,
            gini=_gini(self._counts) if total else None,
            young=young / aged if aged else None,
        )


SHOWN_MAX = 100_000
"""Shown candidates behind the numbers of a server, the newest ones."""
ITEMS_MAX = 1_000_000
"""Items whose first time is kept, 16 bytes each; with more, nobody knows who is young."""
NEW_MAX = 10_000


class ShownLately(NamedTuple):
    """Of the newest candidates that were shown; None: not known (yet)."""

    candidates: int  # up to SHOWN_MAX
    items: int  # different ones among them
    gini: float | None  # of how often each of these items was shown
    young: float | None  # share that was first shown less than a day before


class RecentExposure:
    """Counts which items were shown lately. `add` and `summary` may be called from two threads.

    A shown negative that stands for others, which a joiner left out (`join.negative_rate`), counts as many.

    >>> exposure = RecentExposure()
    >>> exposure.add(np.array([7, 7, 7, 9], np.uint64), np.zeros(4), np.ones(4))
    >>> exposure.summary()
    ShownLately(candidates=4, items=2, gini=0.25, young=None)

    Args:
        shown_max: how many candidates are kept, 18 bytes each.
        items_max: of how many items the first time is kept.
    """

    def __init__(self, shown_max: int = SHOWN_MAX, items_max: int = ITEMS_MAX) -> None:
        self._lock = threading.Lock()
        self._items_max = items_max
        self._shown = np.zeros(shown_max, dtype=np.uint64)  # a ring
        self._weight = np.zeros(shown_max, dtype=np.float32)
        self._young = np.full(shown_max, np.nan, dtype=np.float32)  # 1, 0; nan: nobody knows
        self._added = 0
        self._known = np.zeros(0, dtype=np.uint64)  # ascending, with the time that each was first shown
        self._first = np.zeros(0)
        self._new: dict[int, float] = {}  # the same of items that are not in `_known` yet
        self._began: float | None = None

    @property
    def items_known(self) -> int:
        """Of how many items the first time is kept."""
        return len(self._known) + len(self._new)

    def add(self, items: Ids, time: Floats, weight: Floats) -> None:
        """Add n candidates that were shown.

        Args:
            items: (n,), keys; 0: the candidate has none, and is left out.
            time: (n,), event times in seconds.
            weight: (n,), for how many each stands.
        """
        there = items != 0
        items, time, weight = items[there], time[there], weight[there]
        if not len(items):
            return
        with self._lock:
            if self._began is None:
                self._began = float(time.min())
            age = time - self._first_times(items, time)
            aged = (time >= self._began + YOUNG_S) & (len(self._known) < self._items_max)
            at = (self._added + np.arange(len(items))) % len(self._shown)
            self._shown[at], self._weight[at] = items, weight
            self._young[at] = np.where(aged, age < YOUNG_S, np.nan)
            self._added += len(items)

    def forget(self, items: Ids) -> None:
        """Leave items (k,) out, as if they had never been shown."""
        with self._lock:
            self._weight[np.isin(self._shown, items)] = 0.0
            self._merge()
            keep = ~np.isin(self._known, items)
            self._known, self._first = self._known[keep], self._first[keep]

    def summary(self) -> ShownLately:
        """The numbers now; it sorts what it holds, some milliseconds."""
        with self._lock:
            n = min(self._added, len(self._shown))
            kept = self._weight[:n] > 0.0
            shown, weight = self._shown[:n][kept], self._weight[:n][kept].astype(np.float64)
            young = self._young[:n][kept]
        items = distinct(shown)
        aged = ~np.isnan(young)
        return ShownLately(
            candidates=len(shown),
            items=len(items),
            gini=_gini(np.bincount(np.searchsorted(items, shown), weight).astype(np.float64))
            if len(items)
            else None,
            young=float(np.average(young[aged], weights=weight[aged])) if aged.any() else None,
        )

    def _first_times(self, items: Ids, time: Floats) -> Floats:
        """When each was first shown, (n,); notes the time of those that never were."""
        at = np.searchsorted(self._known, items)
        found = np.full(len(items), np.nan)
        inside = at < len(self._known)
        inside[inside] = self._known[at[inside]] == items[inside]
        found[inside] = self._first[at[inside]]
        for i in np.flatnonzero(~inside).tolist():
            found[i] = self._new.setdefault(int(items[i]), float(time[i]))
        if len(self._new) >= NEW_MAX:
            self._merge()
        return found

    def _merge(self) -> None:
        known = np.concatenate([self._known, np.fromiter(self._new, np.uint64, len(self._new))])
        first = np.concatenate([self._first, np.fromiter(self._new.values(), np.float64, len(self._new))])
        order = np.argsort(known)[: self._items_max]
        self._known, self._first, self._new = known[order], first[order], {}


def column_keys(rows: Rows, column: int) -> Ids:
    """The key of each of n rows in one column, (n,); 0: it has none."""
    keys = np.zeros(rows.n, dtype=np.uint64)
    mine = rows.column == column
    keys[np.repeat(np.arange(rows.n), np.diff(rows.start))[mine]] = rows.key[mine]
    return keys


def tells_apart(keys: Ids, request: npt.NDArray[np.int64]) -> bool:
    """Whether keys (n,) differ within a request; `request` (n,): its number, ascending."""
    return bool(((keys[1:] != keys[:-1]) & (request[1:] == request[:-1])).any())


def _gini(counts: Floats) -> float:
    n = len(counts)
    rank = np.arange(1, n + 1)
    return float(2.0 * (rank * np.sort(counts)).sum() / (n * counts.sum()) - (n + 1) / n)

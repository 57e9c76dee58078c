"""Exposure: which items an order shows, beside how well it ranks them.

An item is exposed where it is among the first `top` candidates of a request. Of the items that were ever
candidates:

    coverage   share of the items that are exposed at least once
    gini       of the numbers of exposures: 0 if all items have as many, towards 1 if one item has all
    young      share of the exposures whose item was first a candidate less than a day before

`young` leaves out the first day, in which every item is young.
"""

from typing import TypedDict

import numpy as np
import numpy.typing as npt

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
        rank = np.arange(1, n + 1)
        return ExposureSummary(
            coverage=float((self._counts > 0.0).mean()) if n else None,
            gini=float(2.0 * (rank * np.sort(self._counts)).sum() / (n * total) - (n + 1) / n)
            if total
            else None,
            young=young / aged if aged else None,
        )

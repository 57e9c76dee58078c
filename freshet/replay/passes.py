"""Metrics of more predictions than are sorted at once: in passes over them, in bounded memory.

All metrics are exact but two: the AUC comes from 8,192 bins on the logit scale, and the AUC within a user who
has very many candidates is the mean over parts of them.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from freshet.replay.growing import partition
from learner.metrics import Cumulative, Summary, gauc_sums
from learner.ranking import rank_requests

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.uint64]

PARTS_MAX = 200
"""Parts of the users: each is a file while they are divided."""


class Passes:
    """Summaries of predictions for the same n candidates.

    Args:
        y, user, request, weight: (n,); numbers of requests ascend.
        top: places that NDCG and recall count.
        rows_max: about how many are sorted at once.
    """

    def __init__(self, y: Floats, user: Ids, request: Ids, weight: Floats, top: int, rows_max: int) -> None:
        self._y, self._user, self._request, self._weight = y, user, request, weight
        self._top = top
        self._rows_max = rows_max
        self._users = partition(user, min(-(-len(y) // rows_max), PARTS_MAX))

    def summary(self, p: Floats, first: int, end: int) -> Summary:
        """All metrics of predictions p (n,) for the candidates [first, end)."""
        total = Cumulative()
        within, ranked = np.zeros(2), np.zeros(4)
        for part in request_parts(self._request, first, end, self._rows_max):
            probability, y, request, w = p[part], self._y[part], self._request[part], self._weight[part]
            total.add(probability, y, w)
            within += gauc_sums(probability, y, request, w)
            ranks = rank_requests(probability, y, request, self._top)
            sums = ranks.ndcg.sum(), ranks.reciprocal_rank.sum(), ranks.recall.sum()
            ranked += (len(ranks.request), *sums)
        found = total.summary(_share(self._by_user(p, first, end)))
        found["request_auc"] = _share(within)
        count = ranked[:1]
        found["ndcg"], found["mrr"], found["recall"] = (_share(np.r_[x, count]) for x in ranked[1:])
        return found

    def _by_user(self, p: Floats, first: int, end: int) -> Floats:
        sums = np.zeros(2)
        for rows in self._users:
            mine = rows[np.searchsorted(rows, first) : np.searchsorted(rows, end)]
            for at in range(0, len(mine), 2 * self._rows_max):
                part = mine[at : at + 2 * self._rows_max]
                sums += gauc_sums(p[part], self._y[part], self._user[part], self._weight[part])
        return sums


def request_parts(
    request: npt.NDArray[np.int64] | Ids, first: int, end: int, rows_max: int
) -> Iterator[slice]:
    """The rows [first, end) in parts of whole requests, of about `rows_max` each.

    Args:
        request: (n,), ascending.
    """
    while first < end:
        last = min(first + rows_max, end) - 1
        behind = min(int(np.searchsorted(request, request[last], side="right")), end)
        yield slice(first, behind)
        first = behind


def _share(sums: Floats) -> float | None:
    value, weight = sums.tolist()
    return value / weight if weight else None

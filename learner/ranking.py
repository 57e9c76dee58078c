"""Metrics of order within each request: NDCG@k, the reciprocal rank, recall@k.

They are of the requests that have labels of both kinds, since no order of the others is better than another.
Candidates with equal predictions count as in random order: each metric is its mean over all their orders, so
a constant prediction earns what chance earns.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Requests = npt.NDArray[np.uint64] | npt.NDArray[np.int64]

TOP = 10
"""The places that NDCG@k and recall@k count, unless somebody says otherwise."""


class RequestRanks(NamedTuple):
    """R requests with labels of both kinds, in the order of their numbers."""

    request: npt.NDArray[np.int64]  # (R,), their numbers
    ndcg: Floats  # (R,), discounted gain of the first k places / the best (Järvelin & Kekäläinen 2002)
    reciprocal_rank: Floats  # (R,), 1 / the place of the first candidate of label 1
    recall: Floats  # (R,), share of the candidates of label 1 that are in the first k places


def rank_requests(p: Floats, y: Floats, request: Requests, top: int = TOP) -> RequestRanks:
    """The metrics of each request.

    >>> p, y = np.array([0.1, 0.9, 0.4]), np.array([0.0, 0.0, 1.0])
    >>> rank_requests(p, y, np.zeros(3, np.int64)).reciprocal_rank
    array([0.5])

    Args:
        p: (n,), predictions; higher comes first.
        y: (n,), labels, 0 or 1.
        request: (n,), the number of each candidate's request, in any order.
        top: k.
    """
    numbers, index = np.unique(request, return_inverse=True)
    size = np.bincount(index, minlength=len(numbers))
    positives = np.bincount(index, y, len(numbers))
    mixed = (positives > 0) & (positives < size)
    kept = mixed[index]
    renumbered = (np.cumsum(mixed) - 1)[index[kept]]
    count = int(mixed.sum())
    total = positives[mixed]
    if count == 0:
        empty = np.zeros(0)
        return RequestRanks(numbers[:0].astype(np.int64), empty, empty, empty)
    p, y = p[kept], y[kept]
    order = np.lexsort((-p, renumbered))
    p, y, of = p[order], y[order], renumbered[order]
    first = np.searchsorted(of, np.arange(count))
    place = np.arange(len(of)) - first[of]
    # Ties: runs of equal predictions of one request.
    begins = np.r_[True, (of[1:] != of[:-1]) | (p[1:] != p[:-1])]
    starts = np.flatnonzero(begins)
    length = np.diff(np.r_[starts, len(of)])
    hits = np.add.reduceat(y, starts)
    tie_of, start = of[starts], place[starts]
    share = hits / length
    discounts = 1.0 / np.log2(np.arange(2, min(top, int(size.max())) + 2))
    gains = np.r_[0.0, np.cumsum(discounts)]  # of so many first places
    last = len(gains) - 1
    gained = gains[np.minimum(start + length, last)] - gains[np.minimum(start, last)]
    dcg = np.bincount(tie_of, share * gained, count)
    ideal = gains[np.minimum(total.astype(np.int64), last)]
    within = np.clip(top - start, 0, length)
    recall = np.bincount(tie_of, share * within, count) / total
    found = np.flatnonzero(hits > 0)
    tie = found[np.searchsorted(tie_of[found], np.arange(count))]
    return RequestRanks(
        numbers[mixed].astype(np.int64),
        dcg / ideal,
        _reciprocal_rank(start[tie], length[tie], hits[tie]),
        recall,
    )


def _reciprocal_rank(start: npt.NDArray[np.int64], length: npt.NDArray[np.int64], hits: Floats) -> Floats:
    """The mean of 1 / place of the first hit over the orders of a tie, (R,).

    Args:
        start: (R,), places before the tie.
        length: (R,), candidates in it.
        hits: (R,), how many of them are hits, at least 1.
    """
    found = np.zeros(len(start))
    none_yet = np.ones(len(start))  # probability that no place so far has a hit
    rows = np.arange(len(start))
    step = 0
    while len(rows):
        left = length[rows] - step
        chance = hits[rows] / left
        found[rows] += none_yet[rows] * chance / (start[rows] + step + 1)
        none_yet[rows] *= 1.0 - chance
        step += 1
        rows = rows[length[rows] - step >= hits[rows]]
    return found

"""What requests were filled in with, as values of a request: for the log, for explanations, for export.

Encoded again with their request, these values give the same bits.
"""

from collections.abc import Callable, Sequence
from math import isnan
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ground.rows import Rows
from learner.features.encoder import Batch
from learner.features.known.given import AT, KEYS, MEAN
from learner.features.known.rings import read_ring
from stream.records.types import Features

Ints = npt.NDArray[np.int64]
Floats32 = npt.NDArray[np.float32]


class Taken(NamedTuple):
    """The values of one request."""

    context: Features
    candidates: list[Features]

    def put_into(self, context: Features, candidates: Sequence[Features]) -> tuple[Features, list[Features]]:
        """A request's features with these."""
        both = zip(candidates, self.candidates, strict=True)
        return {**context, **self.context}, [{**given, **mine} if mine else given for given, mine in both]


def told_rates(
    name: str, batch: Batch, keeper: Ints, state: int, value: Floats32, mean: Floats32
) -> list[Taken]:
    """What is filled in of a rate, as values of each request.

    Args:
        keeper: (n,), -1 without one.
        state: the column of the values that came with their request.
        value, mean: (n,).
    """
    both = zip(value.tolist(), mean.tolist(), strict=True)
    if np.isnan(mean).any():
        told = [rate_value(name, number, of_all) for number, of_all in both]
    else:
        name_of_mean = name + MEAN
        told = [{name: number, name_of_mean: of_all} for number, of_all in both]
    return share(batch.requests, keeper, _came(batch.rows, state), told.__getitem__)


def told_histories(
    name: str, batch: Batch, keeper: Ints, state: int, length: int, place: Ints, held: Floats32
) -> list[Taken]:
    """What is filled in of a history, as values of each request.

    Args:
        keeper, state: as for `told_rates`.
        place: of each keeper its row in `held`, or -1.
    """
    request = np.repeat(np.arange(len(batch.times)), np.diff(batch.requests))

    def history(r: int) -> Features:
        at = place[keeper[r]]
        ring = held[at].view(np.uint32) if at >= 0 else None
        return history_value(name, ring, length, int(batch.times[request[r]]))

    return share(batch.requests, keeper, _came(batch.rows, state), history)


def _came(rows: Rows, state: int) -> npt.NDArray[np.bool_]:
    """Whether the value of each row came with its request, (n,)."""
    came = np.zeros(rows.n, dtype=np.bool_)
    given = np.flatnonzero(rows.column == state)
    came[np.searchsorted(rows.start, given, side="right") - 1] = True
    return came


def share(
    requests: Ints, keeper: Ints, came: npt.NDArray[np.bool_], value: Callable[[int], Features]
) -> list[Taken]:
    """The values of R requests of n rows: in the context what all candidates share.

    Args:
        requests: (R + 1,).
        keeper: (n,), -1 without one.
        came: (n,), whether the row's value came with its request, which is not repeated.
        value: of a row.
    """
    found = []
    for first, end in zip(requests[:-1].tolist(), requests[1:].tolist(), strict=True):
        mine, sent = keeper[first:end].tolist(), came[first:end].tolist()
        if end > first and mine[0] >= 0 and mine.count(mine[0]) == len(mine) and not any(sent):
            found.append(Taken(value(first), [{} for _ in mine]))
            continue
        if min(mine, default=-1) >= 0 and not any(sent):
            found.append(Taken({}, list(map(value, range(first, end)))))
            continue
        own: list[Features] = [
            value(r) if whose >= 0 and not given else {}
            for r, whose, given in zip(range(first, end), mine, sent, strict=True)
        ]
        found.append(Taken({}, own))
    return found


def history_value(name: str, ring: npt.NDArray[np.uint32] | None, length: int, second: int) -> Features:
    """A history by the ids' keys, as they stand in a ring before a second."""
    key, time = np.empty(length, dtype=np.uint64), np.empty(length, dtype=np.int64)
    m = 0 if ring is None else read_ring(ring, second, key, time)
    return {name + KEYS: key[:m].view(np.int64).tolist(), name + AT: time[:m].tolist()}


def rate_value(name: str, value: float, mean: float) -> Features:
    """A rate, and the mean of all, NaN if none is measured."""
    return {name: value} if isnan(mean) else {name: value, name + MEAN: mean}


def merged(parts: Sequence[list[Taken]]) -> list[Taken]:
    """The values of several features."""
    if len(parts) == 1:
        return parts[0]
    found = []
    for requests in zip(*parts, strict=True):
        context: Features = {}
        candidates: list[Features] = [{} for _ in requests[0].candidates]
        for one in requests:
            context |= one.context
            for all_of_them, mine in zip(candidates, one.candidates, strict=True):
                all_of_them |= mine
        found.append(Taken(context, candidates))
    return found

"""Adding up what shards have learned of a weight or row, each from the same old value, in the order of ranks.

    all evidence is kept     new = old + Σ g_r                          g_r = new_r - old
    λ kept at a sighting     new = old ∏ D_r + F Σ g_r                  g_r = new_r - D_r old, D_r = λ^n_r
                             F = (1 - ∏ D_r) / Σ (1 - D_r)
    optimizer, Adam          means of both moments; the number of steps is a sum
    optimizer, others        old + Σ changes
    last seen, count         the latest; old + Σ changes
    histories, rates         see `learner.shards.known.merging`

n_r is the number of sightings at shard r. To first order F is 1, and nothing is lost. If all sightings gain
as much, the result is that of one learner, however many there are: a weight that has forgotten all of its
past at each shard becomes the mean of theirs. Adding evidence is that of streaming variational Bayes
(Broderick et al. 2013, arXiv 1307.6769).

What one shard alone has changed is taken as it is, bit for bit.
"""

from collections.abc import Sequence
from math import exp, expm1
from typing import NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from embeddings import TableSpec
from learner.shards.known.merging import merge_rows

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
T = TypeVar("T", bound=np.generic)


class RowParts(NamedTuple):
    """What the columns of a table's rows, as they travel, mean."""

    spec: TableSpec  # of the rows as they travel, without columns for eviction
    log_keep: Floats  # (extra,), ln λ of each of the fast part's numbers, two for each weight
    target: Ints  # (extra,), whose sightings count for it
    ring: int = 0  # the extra numbers are a history of so many ids, or a rate (WINDOWS), and no weights


class Learned(NamedTuple):
    """What one shard has made of some of d rows."""

    place: Ints  # (k,), which of the d rows, each once
    rows: Rows  # (k, width)
    sightings: npt.NDArray[np.uint32]  # (k, targets), of these rows at this shard, in this turn


def add_rows(parts: RowParts, old: Rows, learned: Sequence[Learned]) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """The rows after a turn, from those before it and what each shard made of them.

    Returns:
        The rows (d, width), and which of them have changed, (d,).
    """
    spec = parts.spec
    new, changed = np.empty_like(old), np.zeros(len(old), dtype=np.bool_)
    moments = 2 * spec.dim if spec.optimizer == "adam" else 0
    columns = (spec.dim, spec.dim + moments, spec.extra_column, spec.seen_column)
    place, rows, sightings = (np.concatenate(arrays) for arrays in zip(*learned, strict=True))
    if parts.ring:
        return cast(tuple[Rows, npt.NDArray[np.bool_]], merge_rows(old, place, rows, parts.ring))
    _add(old, new, changed, place, rows, sightings, columns, parts.log_keep, parts.target)
    return new, changed


@njit(cache=True, nogil=True, error_model="numpy")
def _add(old, new, changed, place, rows, sightings, columns, log_keep, target):
    """Add up the shards' rows (K, width), in the order of ranks, by their `place` (K,) among the old ones.

    Args:
        columns: where the vector ends, Adam's moments end, the fast part's numbers begin and end.
    """
    moments, moments_end, extra, seen = columns
    width = old.shape[1]
    first, following = np.full(len(old), -1, dtype=np.int64), np.full(len(place), -1, dtype=np.int64)
    for k in range(len(place) - 1, -1, -1):  # lists of each row's makers, in the order of ranks
        following[k] = first[place[k]]
        first[place[k]] = k
    old_bits, new_bits, row_bits = old.view(np.uint32), new.view(np.uint32), rows.view(np.uint32)
    for i in range(len(old)):
        k = first[i]
        if k < 0 or following[k] < 0:
            for j in range(width):
                new_bits[i, j] = row_bits[k, j] if k >= 0 else old_bits[i, j]
        else:
            for j in range(extra):
                total, makers, before = 0.0, 0, np.float64(old[i, j])
                is_mean = moments <= j < moments_end
                k = first[i]
                while k >= 0:
                    total += np.float64(rows[k, j]) - (0.0 if is_mean else before)
                    makers += 1
                    k = following[k]
                new[i, j] = np.float32(total / makers if is_mean else before + total)
            for j in range(extra, seen):
                log, t, before = log_keep[j - extra], target[j - extra], np.float64(old[i, j])
                gain, logs, lost = 0.0, 0.0, 0.0
                k = first[i]
                while k >= 0:
                    mine = log * sightings[k, t]
                    gain += np.float64(rows[k, j]) - exp(mine) * before
                    logs += mine
                    lost -= expm1(mine)
                    k = following[k]
                factor = -expm1(logs) / lost if lost > 0.0 else 1.0
                new[i, j] = np.float32(exp(logs) * before + factor * gain)
            latest, count = old_bits[i, seen], np.int64(old_bits[i, seen + 1])
            k = first[i]
            while k >= 0:
                latest = max(latest, row_bits[k, seen])
                count += np.int64(row_bits[k, seen + 1]) - np.int64(old_bits[i, seen + 1])
                k = following[k]
            new_bits[i, seen], new_bits[i, seen + 1] = latest, min(count, np.int64(0xFFFFFFFF))
        for j in range(width):
            changed[i] |= new_bits[i, j] != old_bits[i, j]


def decayed(old: Floats, gain: Floats, logs: Floats, lost: Floats) -> Floats:
    """Σ of gains where a share of what was there is kept at each sighting; arrays of one shape.

    Args:
        gain: Σ g_r.
        logs: Σ ln D_r.
        lost: Σ (1 - D_r).
    """
    factor = np.where(lost > 0.0, -np.expm1(logs) / np.where(lost > 0.0, lost, 1.0), 1.0)
    return np.asarray(np.exp(logs) * old + factor * gain)


def add_changes(old: npt.NDArray[T], news: Sequence[npt.NDArray[T]]) -> npt.NDArray[T]:
    """old + Σ (new_r - old), all arrays of one shape, element by element."""
    total, changed = old.astype(np.float64), np.zeros(old.shape, dtype=np.int32)
    result = old.copy()
    for new in news:
        here = new != old
        changed += here
        total += new.astype(np.float64) - old.astype(np.float64)
        result[here] = new[here]
    several = changed > 1
    result[several] = total[several].astype(old.dtype)
    return result


def mean(
    old: npt.NDArray[np.float32], news: Sequence[npt.NDArray[np.float32]], steps: Sequence[int]
) -> npt.NDArray[np.float32]:
    """The mean of shards' weights, by their steps; of those that took none, nothing."""
    stepped = [(new, n) for new, n in zip(news, steps, strict=True) if n]
    if len(stepped) < 2:
        return stepped[0][0] if stepped else old
    total = np.zeros(old.shape)
    for new, n in stepped:
        total += n * new.astype(np.float64)
    return (total / sum(n for _, n in stepped)).astype(np.float32)

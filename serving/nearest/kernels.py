"""Compiled loops over the entries of all items. They run beside answers, so they release the GIL."""

from math import log2

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def runs(start, column):
    """Of each entry (E,) of some rows, how many entries of the same column come before it in its row."""
    out = np.zeros(len(column), dtype=np.int64)
    for r in range(len(start) - 1):
        for e in range(start[r] + 1, start[r + 1]):
            if column[e] == column[e - 1]:
                out[e] = out[e - 1] + 1
    return out


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def add_gains(ids, xs, gains, out):
    """Add to out (n,) float32 x times the gain of each item's entry: ids, xs (n or more,), gains (V,). An
    entry beyond V was added since the gains were made, and has none."""
    for i in range(len(out)):
        if ids[i] < len(gains):
            out[i] += xs[i] * gains[ids[i]]


@njit(cache=True, nogil=True)
def pool(ids, xs, vectors, at, out):
    """Add to out (m, D), from column `at` on, x times the vector of each item's entry: ids, xs (m,),
    vectors (V, d)."""
    for i in range(len(ids)):
        for d in range(vectors.shape[1]):
            out[i, at + d] += xs[i] * vectors[ids[i], d]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def project(vectors, weight):
    """The products (V,) of vectors (V, d) with weight (d,) float32."""
    out = np.empty(vectors.shape[0], dtype=np.float32)
    for v in range(vectors.shape[0]):
        total = np.float32(0.0)
        for d in range(len(weight)):
            total += vectors[v, d] * weight[d]
        out[v] = total
    return out


@njit(cache=True, nogil=True)
def means(weights, seen, column, columns, count_weights, tau):
    """The posterior means (n,) float32 of entries for the first target, with those of their counts.

    Args:
        weights: (n, k), (b, L) of each speed from the column's place on.
        seen: (n,), sightings.
        column: (n,) int32.
        columns: `WeightColumns` of the fast part.
        count_weights: (targets, C, buckets, 2).
        tau: prior variances.
    """
    first_tau, column_speeds, weight_at, count_of, counts_at, _ = columns
    out = np.zeros(len(column), dtype=np.float32)
    for i in range(len(column)):
        c = column[i]
        at = weight_at[c]
        for s in range(column_speeds[c]):
            prior = tau[first_tau[c] + s]
            out[i] += weights[i, at + 2 * s] * prior / (1.0 + prior * weights[i, at + 2 * s + 1])
        q = count_of[c]
        if q >= 0:
            bucket = min(int(2.0 * log2(1.0 + seen[i])), count_weights.shape[2] - 1)
            prior = tau[counts_at + q]
            out[i] += count_weights[0, q, bucket, 0] * prior / (1.0 + prior * count_weights[0, q, bucket, 1])
    return out

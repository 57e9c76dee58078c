"""Bags: pool lists of ids into rows of a matrix, and sum the gradients by distinct id, without a copy per id.

`start` (n + 1,) int64 says which entries are in which bag; `inverse` (k,) int64 is the number of each entry's
vector; `x` (k,) float32 are the weights of the entries, or (0,) for ones.
"""

import numpy as np
from numba import njit

from ground.kernels.intrinsics import prefetch
from ground.kernels.simd import WIDE, load, put, splat, sum_of

_NEAR = 8  # prefetch distance in bags


@njit(cache=True, nogil=True)
def pool_bags(start, inverse, x, vectors, first, mean, out):
    """Write the pooled vectors of n bags into columns first to first + d of out.

    Args:
        vectors: (m, d) float32.
        mean: divide by the number of entries of the bag.
        out: (n, width) float32; bags without entries are left as they are.
    """
    dim = vectors.shape[1]
    n = start.shape[0] - 1
    k = inverse.shape[0]
    weighted = x.shape[0] > 0
    for r in range(n):
        begin, end = start[r], start[r + 1]
        if k > 0:
            prefetch(vectors, inverse[min(end + _NEAR, k - 1)], 0)
        if begin == end:
            continue
        share = np.float32(1.0) / np.float32(end - begin) if mean else np.float32(1.0)
        for j in range(0, dim, WIDE):
            total = splat(np.float32(0.0))
            for e in range(begin, end):
                vector = load(vectors, np.uint64(inverse[e]), j, dim)
                total = total + (splat(x[e]) * vector if weighted else vector)
            put(out, r, first + j, first + dim, splat(share) * total)


@njit(cache=True, nogil=True)
def unpool_bags(start, inverse, x, gradients, first, mean, sums):
    """The reverse of `pool_bags`: add the gradients by its output to sums (m, d), by distinct id."""
    dim = sums.shape[1]
    n = start.shape[0] - 1
    k = inverse.shape[0]
    weighted = x.shape[0] > 0
    for r in range(n):
        begin, end = start[r], start[r + 1]
        if k > 0:
            prefetch(sums, inverse[min(end + _NEAR, k - 1)], 0)
        if begin == end:
            continue
        share = np.float32(1.0) / np.float32(end - begin) if mean else np.float32(1.0)
        for e in range(begin, end):
            number = np.uint64(inverse[e])
            by = splat(share * x[e] if weighted else share)
            for j in range(0, dim, WIDE):
                gradient = by * load(gradients, r, first + j, first + dim)
                put(sums, number, j, dim, load(sums, number, j, dim) + gradient)


@njit(cache=True, nogil=True)
def weigh_bags(start, inverse, vectors, gradients, first, out):
    """The gradient by each entry's weight, of bags pooled by sum: out (k,) float32."""
    dim = vectors.shape[1]
    for r in range(start.shape[0] - 1):
        for e in range(start[r], start[r + 1]):
            total = np.float32(0.0)
            for j in range(0, dim, WIDE):
                vector = load(vectors, np.uint64(inverse[e]), j, dim)
                total += sum_of(vector * load(gradients, r, first + j, first + dim))
            out[e] = total

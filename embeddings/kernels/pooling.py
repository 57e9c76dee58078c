"""Rows of many ids: vectors of lists of ids pooled by weight, and the gradients back."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def entry_rows(start):
    """The row of each entry, (E,) int64."""
    out = np.empty(start[-1], dtype=np.int64)
    for r in range(len(start) - 1):
        for e in range(start[r], start[r + 1]):
            out[e] = r
    return out


@njit(cache=True, nogil=True)
def pool(rows, index, x, vectors, dim, column, out):
    """Add each entry's x times its vector to its row of `out`, from `column` on.

    Args:
        rows: (k,) int64, each entry's row.
        index: (k,) int64, each entry's vector; below 0: none.
        x: (k,) float32; all 1 for a sum, one over the row's entries for a mean.
        vectors: (m, dim or more) float32; a table's arena will do.
        dim: how many of a vector's columns to take.
        column: (k,) int32, where the columns of each entry's feature begin.
        out: (n, width) float32, added to in place.
    """
    for i in range(len(rows)):
        v = index[i]
        if v < 0:
            continue
        for j in range(dim):
            out[rows[i], column[i] + j] += x[i] * vectors[v, j]


@njit(cache=True, nogil=True)
def unpool(rows, x, gradients, column, dim):
    """The gradient of each entry's vector, (k, dim) float32: the counterpart of `pool`."""
    out = np.empty((len(rows), dim), dtype=np.float32)
    for i in range(len(rows)):
        for j in range(dim):
            out[i, j] = x[i] * gradients[rows[i], column[i] + j]
    return out

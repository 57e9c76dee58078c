"""Pool the vectors of lists of ids into rows of a matrix, and distribute the gradients back."""

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
    """Add x times its vector, for each entry, to its row of `out`, from `column` on.

    Args:
        rows: (k,) int64, the row of each entry.
        index: (k,) int64, the vector of each entry; below 0: none.
        x: (k,) float32; 1 for a sum, 1 / (number of entries of the row) for a mean.
        vectors: (m, at least dim) float32, for example the arena of a table.
        dim: number of columns of a vector to use.
        column: (k,) int32, the first column of each entry's feature.
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
    """The gradient of the vector of each entry, (k, dim) float32: the reverse of `pool`."""
    out = np.empty((len(rows), dim), dtype=np.float32)
    for i in range(len(rows)):
        for j in range(dim):
            out[i, j] = x[i] * gradients[rows[i], column[i] + j]
    return out

"""Dense vectors for sparse rows, for the memories that measure similarity.

Every (column, key) stands for one fixed random vector of signs, and a row for the sum of its own:
a Rademacher projection, so two rows' cosine is near that of their one-hot vectors (Achlioptas 2003),
and near 0 for rows that share nothing.
"""

import numpy as np
from numba import njit

from error_memory.residual.cells import tag_of
from ground.rows import Rows

DIM = 64
"""One 64-bit hash gives an entry all its signs."""


@njit(cache=True, nogil=True)
def _sum_signs(start, column, key, x, h):
    for i in range(len(start) - 1):
        for j in range(start[i], start[i + 1]):
            bits = tag_of(column[j], key[j])
            for d in range(DIM):
                if (bits >> np.uint64(d)) & np.uint64(1):
                    h[i, d] += x[j]
                else:
                    h[i, d] -= x[j]
        norm = np.float32(0.0)
        for d in range(DIM):
            norm += h[i, d] * h[i, d]
        if norm > 0.0:
            norm = np.float32(1.0) / np.sqrt(norm)
            for d in range(DIM):
                h[i, d] *= norm


def hash_rows(rows: Rows) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Unit vectors (n, DIM) of sparse rows; an empty row is all zeros."""
    h = np.zeros((rows.n, DIM), dtype=np.float32)
    _sum_signs(rows.start, rows.column, rows.key, rows.x, h)
    return h

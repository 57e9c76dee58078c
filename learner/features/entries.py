"""Small kernels between entries and rows: times, the columns of an error memory."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def entry_times(requests, start, times):
    """The event time of each entry in whole seconds, (E,) uint32."""
    out = np.empty(start[-1], dtype=np.uint32)
    for q in range(len(requests) - 1):
        second = np.uint32(times[q])
        for e in range(start[requests[q]], start[requests[q + 1]]):
            out[e] = second
    return out


@njit(cache=True, nogil=True)
def newest(place, times, size):
    """The latest of the times (E,) of the entries at each place below `size`; (size,) uint32."""
    out = np.zeros(size, dtype=np.uint32)
    for e in range(len(place)):
        i = place[e]
        if i >= 0 and times[e] > out[i]:
            out[i] = times[e]
    return out


# nogil=False on purpose: see `learner.fast.reading`.
@njit(cache=True, nogil=False)
def append_remembered(start, column, key, x, left, buckets, counts_left, speeds):
    """Append to each row the columns that only an error memory has: the count columns, with the bucket as
    key, then the row's own columns again, for their second speed.

    Args:
        start, column, key, x: the arrays of a `Rows` of n rows.
        left: (E,) float32, a number for each of its entries; entries at the second speed get 1.
        buckets: (n, C) int32, -1 for a feature that the row lacks.
        counts_left: (n, C) float32, a number for each count column.
        speeds: (columns,) int32, how many each column has.

    Returns:
        The four arrays of the longer `Rows`, and the numbers of its entries.
    """
    n, counted = buckets.shape
    total = 2 * start[n] + n * counted
    out_start = np.zeros(n + 1, dtype=np.int64)
    out_column = np.empty(total, dtype=np.int32)
    out_key = np.empty(total, dtype=np.uint64)
    out_x = np.empty(total, dtype=np.float32)
    out_left = np.empty(total, dtype=np.float32)
    counts_at = len(speeds)
    at = 0
    for r in range(n):
        for e in range(start[r], start[r + 1]):
            out_column[at] = column[e]
            out_key[at] = key[e]
            out_x[at] = x[e]
            out_left[at] = left[e]
            at += 1
        for c in range(counted):
            if buckets[r, c] >= 0:
                out_column[at] = counts_at + c
                out_key[at] = np.uint64(buckets[r, c])
                out_x[at] = 1.0
                out_left[at] = counts_left[r, c]
                at += 1
        for e in range(start[r], start[r + 1]):
            if speeds[column[e]] > 1:
                out_column[at] = counts_at + counted + column[e]
                out_key[at] = key[e]
                out_x[at] = x[e]
                out_left[at] = 1.0
                at += 1
        out_start[r + 1] = at
    return out_start, out_column[:at], out_key[:at], out_x[:at], out_left[:at]


@njit(cache=True, nogil=True)
def without(start, column, key, x, dropped):
    """The four arrays of a `Rows` without the entries of the columns `dropped`, (m,) int32."""
    keep = np.ones(len(column), dtype=np.bool_)
    out_start = np.zeros(len(start), dtype=np.int64)
    n = 0
    for r in range(len(start) - 1):
        for e in range(start[r], start[r + 1]):
            for c in dropped:
                if column[e] == c:
                    keep[e] = False
            n += keep[e]
        out_start[r + 1] = n
    return out_start, column[keep], key[keep], x[keep]

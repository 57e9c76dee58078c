"""The compiled part of encoding: feature pairs, and entries sorted by the table that holds them."""

import numpy as np
from numba import njit

from ground.kernels.mixing import join_keys


# nogil=False on purpose: see `learner.fast.reading`.
@njit(cache=True, nogil=False)
def by_row(first, last, key, x):
    """Lay out the entries of F features row by row, in the schema's order.

    Args:
        first, last: (F, n) int64, feature f's entries of row r are first[f, r]:last[f, r].
        key, x: (K,) uint64 and (K,) float32, into which they point.

    Returns:
        The four arrays of a `Rows`.
    """
    fields, n = first.shape
    start = np.zeros(n + 1, dtype=np.int64)
    for r in range(n):
        total = start[r]
        for f in range(fields):
            total += last[f, r] - first[f, r]
        start[r + 1] = total
    out_column = np.empty(start[n], dtype=np.int32)
    out_key = np.empty(start[n], dtype=np.uint64)
    out_x = np.empty(start[n], dtype=np.float32)
    at = 0
    for r in range(n):
        for f in range(fields):
            for e in range(first[f, r], last[f, r]):
                out_column[at] = f
                out_key[at] = key[e]
                out_x[at] = x[e]
                at += 1
    return start, out_column, out_key, out_x


@njit(cache=True, nogil=True)
def first_keys(requests, start, column, key, wanted):
    """The key of column `wanted` in each request's first row, (R,) uint64; 0 where it has none."""
    out = np.zeros(len(requests) - 1, dtype=np.uint64)
    for q in range(len(requests) - 1):
        r = requests[q]
        if r == requests[q + 1]:
            continue
        for e in range(start[r], start[r + 1]):
            if column[e] == wanted:
                out[q] = key[e]
                break
    return out


# nogil=False on purpose: see `learner.fast.reading`.
@njit(cache=True, nogil=False)
def add_pairs(start, column, key, x, pair_column, pair_salt):
    """Append to each row the pairs of its entries.

    Args:
        start, column, key, x: the arrays of a `Rows` that holds features only.
        pair_column: (F, F) int32, the column of the pair (i, j) with i < j, or -1 for no pair.
        pair_salt: (P,) uint64, by pair column - F.

    Returns:
        The four arrays of the longer `Rows`. A pair's x is the product of its sides'.
    """
    n = len(start) - 1
    first = pair_column.shape[0]
    pairs = np.zeros(first, dtype=np.bool_)  # whether a column is in any pair
    for a in range(first):
        for b in range(first):
            if pair_column[a, b] >= 0:
                pairs[a] = True
                pairs[b] = True
    total = 0
    longest = 0
    for r in range(n):
        m = 0
        for e in range(start[r], start[r + 1]):
            m += pairs[column[e]]
        total += start[r + 1] - start[r] + m * (m - 1) // 2
        longest = max(longest, m)
    mine = np.empty(longest, dtype=np.int64)  # the entries of a row that may be in pairs
    out_start = np.zeros(n + 1, dtype=np.int64)
    out_column = np.empty(total, dtype=np.int32)
    out_key = np.empty(total, dtype=np.uint64)
    out_x = np.empty(total, dtype=np.float32)
    at = 0
    for r in range(n):
        m = 0
        for i in range(start[r], start[r + 1]):
            out_column[at] = column[i]
            out_key[at] = key[i]
            out_x[at] = x[i]
            at += 1
            if pairs[column[i]]:
                mine[m] = i
                m += 1
        for one in range(m):
            i = mine[one]
            for other in range(one + 1, m):
                j = mine[other]
                a, b = (i, j) if column[i] < column[j] else (j, i)
                c = pair_column[column[a], column[b]]
                if c < 0:
                    continue
                out_column[at] = c
                out_key[at] = join_keys(pair_salt[c - first], key[a], key[b])
                out_x[at] = x[a] * x[b]
                at += 1
        out_start[r + 1] = at
    return out_start, out_column[:at], out_key[:at], out_x[:at]


@njit(cache=True, nogil=True)
def join_all(salt, left, right):
    """The keys of all pairs of left (l,) and right (r,), (l * r,) uint64."""
    out = np.empty(len(left) * len(right), dtype=np.uint64)
    at = 0
    for a in left:
        for b in right:
            out[at] = join_keys(salt, a, b)
            at += 1
    return out


@njit(cache=True, nogil=True)
def sort_by_table(column, table_of, tables):
    """A stable order of entries by table.

    Args:
        column: (E,) int32.
        table_of: (columns,) int32, the table of each column.
        tables: how many tables there are.

    Returns:
        (order (E,) int64, bounds (tables + 1,) int64): entries of table t are order[bounds[t]:bounds[t+1]].
    """
    bounds = np.zeros(tables + 1, dtype=np.int64)
    for c in column:
        bounds[table_of[c] + 1] += 1
    for t in range(tables):
        bounds[t + 1] += bounds[t]
    at = bounds[:-1].copy()
    order = np.empty(len(column), dtype=np.int64)
    for e in range(len(column)):
        t = table_of[column[e]]
        order[at[t]] = e
        at[t] += 1
    return order, bounds


@njit(cache=True, nogil=True)
def compact(slots, mark, order, base, index, distinct):
    """Number the distinct slots of one table from `base` on.

    Args:
        slots: (k,) int64, one per entry of this table, -1 where there is none.
        mark: (capacity,) int32 scratch, all -1 before and after.
        order: (k,) int64, the entries' positions in `index`.
        base: the first number to give.
        index: (E,) int64, receives each entry's number, or -1.
        distinct: (k,) int64, receives the distinct slots in the order of their first sight.

    Returns:
        How many distinct slots there are.
    """
    n = 0
    for i in range(len(slots)):
        s = slots[i]
        if s < 0:
            index[order[i]] = -1
            continue
        if mark[s] < 0:
            mark[s] = n
            distinct[n] = s
            n += 1
        index[order[i]] = base + mark[s]
    for i in range(n):
        mark[distinct[i]] = -1
    return n

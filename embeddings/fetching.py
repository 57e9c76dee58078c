"""Rows of many tables for one prediction: found, copied and pooled in one call.

A prediction asks for some ids of every table. Table by table that is a dozen calls each, which cost more
than what they do, and each gives other threads a chance to take the interpreter away. Here it is one.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from embeddings.expiry import exists
from embeddings.index import locate
from embeddings.spec import Rules
from embeddings.table import Table
from ground.intrinsics import borrow


class Reader(NamedTuple):
    """What is needed of a table to read from it; it stays valid as long as the table."""

    buckets: npt.NDArray[np.uint64]
    slot_key: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.float32]
    bits: npt.NDArray[np.uint32]
    ages: npt.NDArray[np.int64]
    state: npt.NDArray[np.int64]
    rules: Rules
    dim: int
    extra_column: int
    extra: int
    count_column: int


def reader_of(table: Table) -> Reader:
    """A reader of a table whose rows are float32."""
    store, spec = table.arrays, table.spec
    return Reader(
        store.buckets, store.slot_key, store.rows, store.bits, store.ages, store.state, table.rules,
        spec.dim, spec.extra_column, spec.extra, spec.seen_column + 1,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def fetch(  # type: ignore[no-untyped-def]
    readers, order, bounds, keys, times, entry_row, x, first_column, place, extras, counts, pooled
):
    """Read the rows of E entries in T tables.

    Args:
        readers: a tuple of T readers.
        order: (E,) int64, the entries by table; those of table t are order[bounds[t]:bounds[t + 1]].
        keys, times, entry_row, x: (E,), of each entry: uint64, uint32 seconds, its row, float32.
        first_column: (T,) int64, where the pooled vectors of a table go in `pooled`; -1: nowhere.
        place: (E,) int64, out: the number of the entry's row, -1 without one.
        extras: (E, k) float32, zeros; out: the caller's columns by number.
        counts: (E,) uint32, out: the counts by number.
        pooled: (n, width) float32; each entry's x times its vector is added to its row.

    Returns:
        How many numbers were given. Neighbours with one key share theirs.
    """
    keys, times, entry_row, x, place = (
        borrow(keys),
        borrow(times),
        borrow(entry_row),
        borrow(x),
        borrow(place),
    )
    order, extras, counts, pooled = borrow(order), borrow(extras), borrow(counts), borrow(pooled)
    count = 0
    for t in range(len(readers)):
        r = readers[t]
        buckets, slot_key, rows = borrow(r.buckets), borrow(r.slot_key), borrow(r.rows)
        bits, ages, state = borrow(r.bits), borrow(r.ages), borrow(r.state)
        rules, dim, extra, extra_column, count_column = (
            r.rules,
            r.dim,
            r.extra,
            r.extra_column,
            r.count_column,
        )
        ages_matter = rules.ttl_s > 0 or rules.classes > 0
        last = slot = np.int64(-1)
        for i in range(bounds[t], bounds[t + 1]):
            e = order[i]
            if last >= 0 and keys[last] == keys[e] and times[last] == times[e]:
                place[e] = place[last]  # and `slot` is as before
            else:
                slot = locate(buckets, slot_key, state, keys[e])
                if slot >= 0 and ages_matter and not exists(bits, ages, slot, np.int64(times[e]), rules):
                    slot = np.int64(-1)
                if slot >= 0:
                    for j in range(extra):
                        extras[count, j] = rows[slot, extra_column + j]
                    counts[count] = bits[slot, count_column]
                    place[e] = count
                    count += 1
                else:
                    place[e] = -1
            last = e
            column = first_column[t]
            if slot >= 0 and column >= 0:
                for j in range(dim):
                    pooled[entry_row[e], column + j] += x[e] * rows[slot, j]
    for i in range(bounds[len(readers)], len(order)):
        place[order[i]] = -1
    return count

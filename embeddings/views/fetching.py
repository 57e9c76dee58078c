"""Look up, copy and pool the rows of many tables for one prediction, in one call.

A prediction needs some ids of every table. A dozen calls per table would cost more than their work, and
other threads could take the GIL between them.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit
from numba.np.numpy_support import carray

from embeddings.core.index import ask_tag, guess_one, locate, tag_of
from embeddings.core.positions import Reader
from embeddings.kernels.expiry import exists
from embeddings.spec import Rules
from embeddings.table.table import Table
from ground.kernels.intrinsics import address, borrow, prefetch

ASK_AHEAD = 24
"""Prefetch distance in entries: between prefetch and search of a bucket, then until the row is read."""

Readers = npt.NDArray[np.int64]
"""(T, len(Reader)): addresses and layouts of T tables, for reading from them.

Plain numbers: passing the arrays of nine tables to each call would take 30 µs, as long as reading. They are
valid as long as the tables exist, since arrays never move; keep a reference to the tables.
"""


def readers_of(tables: Sequence[Table]) -> Readers:
    """The readers of tables with float32 rows."""
    readers = np.zeros((len(tables), len(Reader)), dtype=np.int64)
    for reader, table in zip(readers, tables, strict=True):
        store, spec, rules = table.arrays, table.spec, table.rules
        for address_at, length_at, array in (
            (Reader.BUCKETS, Reader.BUCKETS_LENGTH, store.buckets),
            (Reader.ROWS, Reader.ROWS_LENGTH, store.rows),
            (Reader.AGES, Reader.AGES_LENGTH, store.ages),
            (Reader.STATE, Reader.STATE_LENGTH, store.state),
        ):
            reader[address_at], reader[length_at] = array.__array_interface__["data"][0], len(array)
        reader[Reader.ROW_WIDTH] = store.rows.shape[1]
        reader[Reader.KEY_COLUMN] = spec.width
        reader[Reader.DIM : Reader.TTL] = spec.dim, spec.extra_column, spec.extra, spec.seen_column + 1
        reader[Reader.TTL :] = rules.ttl_s, rules.tick_s, rules.classes, rules.age_column
    return readers


@njit(cache=True, nogil=False)
def fetch(
    readers, order, bounds, like, keys, times, entry_row, x, first_column, number, extras, counts, pooled
):
    """Read the rows of E entries in T tables.

    Args:
        readers: (T, len(Reader)), see `readers_of`.
        order: (E,) int64, the entries by table; those of table t are order[bounds[t]:bounds[t + 1]].
        like: (E,) int64, an earlier entry in `order` with the same key and time; -1: none is known.
        keys, times, entry_row, x: (E,), per entry: uint64; uint32 seconds; its row in `pooled`; float32.
        first_column: (T,) int64, the first column of a table's vectors in `pooled`; -1: not pooled.
        number: (E,) int64, out: the number of the entry's row, -1 without one.
        extras: (E, k) float32, zeros; out: the caller's columns by number.
        counts: (E,) uint32, out: the counts by number.
        pooled: (n, width) float32; x times the vector of each entry is added to its row.

    Returns:
        How many numbers were assigned. An entry has the same number as the entry in `like`.
    """
    keys, times, entry_row = borrow(keys), borrow(times), borrow(entry_row)
    x, number = borrow(x), borrow(number)
    order, extras, counts, pooled = borrow(order), borrow(extras), borrow(counts), borrow(pooled)
    new = np.empty(len(order), dtype=np.int64)  # entries of one table without a `like`
    tags = np.empty(len(order), dtype=np.uint64)
    slots = np.empty(len(order), dtype=np.int64)  # by entry
    count = 0
    for t in range(readers.shape[0]):
        r = readers[t]
        shape = (r[Reader.ROWS_LENGTH], r[Reader.ROW_WIDTH])
        buckets = carray(address(r[Reader.BUCKETS]), (r[Reader.BUCKETS_LENGTH], 8), np.uint64)
        rows = carray(address(r[Reader.ROWS]), shape, np.float32)
        bits = carray(address(r[Reader.ROWS]), shape, np.uint32)
        slot_key = np.lib.stride_tricks.as_strided(
            carray(address(r[Reader.ROWS] + 4 * r[Reader.KEY_COLUMN]), (r[Reader.ROWS_LENGTH],), np.uint64),
            (r[Reader.ROWS_LENGTH],),
            (4 * r[Reader.ROW_WIDTH],),
        )
        ages = carray(address(r[Reader.AGES]), (r[Reader.AGES_LENGTH],), np.int64)
        state = carray(address(r[Reader.STATE]), (r[Reader.STATE_LENGTH],), np.int64)
        dim, extra_column, extra = r[Reader.DIM], r[Reader.EXTRA_COLUMN], r[Reader.EXTRA]
        rules = Rules(
            r[Reader.TTL], r[Reader.TICK], 0, 0.0, 0, 0, 0, r[Reader.AGE_COLUMN], r[Reader.CLASSES],
            0, dim, 0, 0.0, 0,
        )  # fmt: skip
        ages_matter = rules.ttl_s > 0 or rules.classes > 0
        column = first_column[t]
        k = 0
        for i in range(bounds[t], bounds[t + 1]):
            if like[order[i]] < 0:
                new[k] = order[i]
                k += 1
        for step in range(k + 2 * ASK_AHEAD):
            # Rows are scattered over memory: waiting for each of them would take most of the time.
            if step < k:
                tags[step] = tag_of(state, keys[new[step]])
                ask_tag(buckets, state, tags[step])
            i = step - ASK_AHEAD
            if 0 <= i < k:
                guessed = guess_one(buckets, state, tags[i])
                slots[new[i]] = guessed
                if guessed >= 0:
                    prefetch(rows, guessed, extra_column)
                    prefetch(rows, guessed, r[Reader.KEY_COLUMN])
                    if column >= 0:
                        prefetch(rows, guessed, 0)
            i = step - 2 * ASK_AHEAD
            if i < 0:
                continue
            e = new[i]
            slot = slots[e]  # -1 if the tag is in no bucket: the key is absent
            if slot >= 0 and slot_key[slot] != keys[e]:
                slot = locate(buckets, slot_key, state, keys[e])
            if slot >= 0 and ages_matter and not exists(bits, ages, slot, np.int64(times[e]), rules):
                slot = np.int64(-1)
            slots[e] = slot
            if slot >= 0:
                for j in range(extra):
                    extras[count, j] = rows[slot, extra_column + j]
                counts[count] = bits[slot, r[Reader.COUNT_COLUMN]]
                number[e] = count
                count += 1
            else:
                number[e] = -1
        for i in range(bounds[t], bounds[t + 1]):
            e = order[i]
            if like[e] >= 0:
                number[e] = number[like[e]]
                slots[e] = slots[like[e]]
            if slots[e] >= 0 and column >= 0:
                for j in range(dim):
                    pooled[entry_row[e], column + j] += x[e] * rows[slots[e], j]
    for i in range(bounds[readers.shape[0]], len(order)):
        number[order[i]] = -1
    return count

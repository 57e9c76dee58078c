"""Rows of many tables for one prediction: found, copied and pooled in one call.

A prediction asks for some ids of every table. Table by table that is a dozen calls each, which cost more
than what they do, and each gives other threads a chance to take the interpreter away. Here it is one.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit
from numba.np.numpy_support import carray

from embeddings.core.index import ask_tag, guess_one, locate, tag_of
from embeddings.kernels.expiry import exists
from embeddings.spec import Rules
from embeddings.table.table import Table
from ground.kernels.intrinsics import address, borrow, prefetch

# Positions in a reader.
BUCKETS: Final = 0  # the address of each array, and how long it is
BUCKETS_SIZE: Final = 1
ROWS: Final = 2
ROWS_SIZE: Final = 3
ROW_WIDTH: Final = 4  # of a row in memory, its key included
KEY_COLUMN: Final = 5
AGES: Final = 6
AGES_SIZE: Final = 7
STATE: Final = 8
STATE_SIZE: Final = 9
DIM: Final = 10
EXTRA_COLUMN: Final = 11
EXTRA: Final = 12
COUNT_COLUMN: Final = 13
TTL: Final = 14
TICK: Final = 15
CLASSES: Final = 16
AGE_COLUMN: Final = 17
READER_SIZE: Final = 18

ASK_AHEAD = 24
"""Entries from asking for an index bucket to looking into it, and as many from there to reading the row."""

Readers = npt.NDArray[np.int64]
"""(T, READER_SIZE): what is needed of T tables to read from them.

Numbers, with addresses among them: to take the arrays of nine tables apart at each call costs 30 µs, as
much as reading. They hold as long as their tables, whose arrays never move; keep the tables.
"""


def readers_of(tables: Sequence[Table]) -> Readers:
    """Readers of tables whose rows are float32."""
    readers = np.zeros((len(tables), READER_SIZE), dtype=np.int64)
    for reader, table in zip(readers, tables, strict=True):
        store, spec, rules = table.arrays, table.spec, table.rules
        for at, array in (
            (BUCKETS, store.buckets), (ROWS, store.rows), (AGES, store.ages), (STATE, store.state)
        ):  # fmt: skip
            reader[at], reader[at + 1] = array.ctypes.data, len(array)
        reader[ROW_WIDTH] = store.rows.shape[1]
        reader[KEY_COLUMN] = spec.width
        reader[DIM:TTL] = spec.dim, spec.extra_column, spec.extra, spec.seen_column + 1
        reader[TTL:] = rules.ttl_s, rules.tick_s, rules.classes, rules.age_column
    return readers


@njit(cache=True, nogil=False)
def fetch(
    readers, order, bounds, like, keys, times, entry_row, x, first_column, place, extras, counts, pooled
):
    """Read the rows of E entries in T tables.

    Args:
        readers: (T, READER_SIZE), see `readers_of`.
        order: (E,) int64, the entries by table; those of table t are order[bounds[t]:bounds[t + 1]].
        like: (E,) int64, an entry before it in `order` with the same key and time; -1: none is known.
        keys, times, entry_row, x: (E,), of each entry: uint64, uint32 seconds, its row, float32.
        first_column: (T,) int64, where the pooled vectors of a table go in `pooled`; -1: nowhere.
        place: (E,) int64, out: the number of the entry's row, -1 without one.
        extras: (E, k) float32, zeros; out: the caller's columns by number.
        counts: (E,) uint32, out: the counts by number.
        pooled: (n, width) float32; each entry's x times its vector is added to its row.

    Returns:
        How many numbers were given. An entry shares that of the one it is like.
    """
    keys, times, entry_row, x, place = (
        borrow(keys),
        borrow(times),
        borrow(entry_row),
        borrow(x),
        borrow(place),
    )
    order, extras, counts, pooled = borrow(order), borrow(extras), borrow(counts), borrow(pooled)
    new = np.empty(len(order), dtype=np.int64)  # those of one table that are like none
    tags = np.empty(len(order), dtype=np.uint64)
    slots = np.empty(len(order), dtype=np.int64)  # by entry
    count = 0
    for t in range(readers.shape[0]):
        r = readers[t]
        shape = (r[ROWS_SIZE], r[ROW_WIDTH])
        buckets = carray(address(r[BUCKETS]), (r[BUCKETS_SIZE], 8), np.uint64)
        rows = carray(address(r[ROWS]), shape, np.float32)
        bits = carray(address(r[ROWS]), shape, np.uint32)
        slot_key = np.lib.stride_tricks.as_strided(
            carray(address(r[ROWS] + 4 * r[KEY_COLUMN]), (r[ROWS_SIZE],), np.uint64),
            (r[ROWS_SIZE],),
            (4 * r[ROW_WIDTH],),
        )
        ages = carray(address(r[AGES]), (r[AGES_SIZE],), np.int64)
        state = carray(address(r[STATE]), (r[STATE_SIZE],), np.int64)
        dim, extra_column, extra = r[DIM], r[EXTRA_COLUMN], r[EXTRA]
        rules = Rules(r[TTL], r[TICK], 0, 0.0, 0, 0, 0, r[AGE_COLUMN], r[CLASSES], 0, dim, 0, 0.0, 0)
        ages_matter = rules.ttl_s > 0 or rules.classes > 0
        column = first_column[t]
        k = 0
        for i in range(bounds[t], bounds[t + 1]):
            if like[order[i]] < 0:
                new[k] = order[i]
                k += 1
        for step in range(k + 2 * ASK_AHEAD):
            # Rows lie all over memory: waiting for one after the other would take longer than all else.
            if step < k:
                tags[step] = tag_of(state, keys[new[step]])
                ask_tag(buckets, state, tags[step])
            i = step - ASK_AHEAD
            if 0 <= i < k:
                guessed = guess_one(buckets, state, tags[i])
                slots[new[i]] = guessed
                if guessed >= 0:
                    prefetch(rows, guessed, extra_column)
                    prefetch(rows, guessed, r[KEY_COLUMN])
                    if column >= 0:
                        prefetch(rows, guessed, 0)
            i = step - 2 * ASK_AHEAD
            if i < 0:
                continue
            e = new[i]
            slot = slots[e]  # a key whose tag is nowhere is nowhere
            if slot >= 0 and slot_key[slot] != keys[e]:
                slot = locate(buckets, slot_key, state, keys[e])
            if slot >= 0 and ages_matter and not exists(bits, ages, slot, np.int64(times[e]), rules):
                slot = np.int64(-1)
            slots[e] = slot
            if slot >= 0:
                for j in range(extra):
                    extras[count, j] = rows[slot, extra_column + j]
                counts[count] = bits[slot, r[COUNT_COLUMN]]
                place[e] = count
                count += 1
            else:
                place[e] = -1
        for i in range(bounds[t], bounds[t + 1]):
            e = order[i]
            if like[e] >= 0:
                place[e] = place[like[e]]
                slots[e] = slots[like[e]]
            if slots[e] >= 0 and column >= 0:
                for j in range(dim):
                    pooled[entry_row[e], column + j] += x[e] * rows[slots[e], j]
    for i in range(bounds[readers.shape[0]], len(order)):
        place[order[i]] = -1
    return count

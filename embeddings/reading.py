"""Rows for other threads: found and copied in one go, each whole, while one thread learns."""

import numpy as np
from numba import njit

from embeddings.expiry import exists
from embeddings.index import locate
from embeddings.lookup import copy_row, look_up
from embeddings.store import AHEAD, MOVED
from embeddings.versions import begin_read, is_whole
from ground.intrinsics import borrow, fence

BUSY = np.int64(-2)
"""In place of a slot: the row could not be read whole in `_TRIES` tries."""

_TRIES = 100  # some microseconds: longer than a writer has a row open, unless its thread is not running


@njit(cache=True, nogil=True)
def read(store, rules, keys, slots, now, out):  # type: ignore[no-untyped-def]
    """Copy the first columns of the rows of keys (n,) that exist at `now`; zeros for those without.

    Args:
        keys: (n,) uint64.
        slots: (n,) int64, out: where each was read, -1 without a row, BUSY where it is to be asked again.
        out: (n, columns) float32, out.

    Returns:
        How many are BUSY.
    """
    buckets = borrow(store.buckets)
    slot_key = borrow(store.slot_key)
    versions = borrow(store.versions)
    flags = borrow(store.flags)
    bits = borrow(store.bits)
    rows = borrow(store.rows)
    ages = borrow(store.ages)
    state = borrow(store.state)
    keys, slots, out = borrow(keys), borrow(slots), borrow(out)
    n = keys.shape[0]
    busy = 0
    for turn in range(n + 3 * AHEAD):
        i = look_up(buckets, flags, bits, state, keys, turn, out.shape[1], False, slots)
        if i < 0:
            continue
        key = keys[i]
        slot = slots[i]
        result = BUSY
        for tries in range(_TRIES):
            moved = state[MOVED]
            fence()
            if slot < 0 or tries > 0:
                slot = locate(buckets, slot_key, state, key)
            if slot < 0:
                fence()
                # An entry on its way from one bucket to another may have been missed in both.
                if moved & 1 == 0 and state[MOVED] == moved:
                    result = np.int64(-1)
                    break
                continue
            version = begin_read(versions, slot)
            owner = slot_key[slot]
            there = exists(bits, ages, slot, now, rules)
            copy_row(rows, slot, out, i)
            if is_whole(versions, slot, version) and owner == key:
                result = slot if there else np.int64(-1)
                break
        slots[i] = result
        if result < 0:
            out[i, :] = 0
            busy += result == BUSY
    return busy

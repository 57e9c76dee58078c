"""Scans of a whole table: rows changed since the last drain, rows that exist, and a hash of them."""

import numpy as np
from numba import njit

from embeddings.core.positions import State
from embeddings.core.slots import rewind
from embeddings.core.store import OWN_COLUMNS
from embeddings.kernels.expiry import exists
from ground.kernels.intrinsics import borrow
from ground.kernels.mixing import mix
from ground.kernels.simd import copy

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SHIFT_32 = np.uint64(32)


@njit(cache=True, nogil=True)
def drain(store, keys):
    """Move the keys of rows written since the last drain into `keys` (TOUCHED,); returns how many.

    No slot may be in use by a caller: the list of free slots is put in order.
    """
    slot_key = borrow(store.slot_key)
    in_use = borrow(store.in_use)
    listed = borrow(store.listed)
    touched = borrow(store.touched)
    state = borrow(store.state)
    count = 0
    for i in range(state[State.TOUCHED]):
        slot = touched[i]
        if in_use[slot] != 0:
            keys[count] = slot_key[slot]
            count += 1
        listed[slot >> 3] = 0  # this also clears the other seven bits; their slots are in `touched` too
    state[State.TOUCHED] = 0
    rewind(borrow(store.free), state)
    return count


@njit(cache=True, nogil=True)
def live(store, rules, now, slots):
    """Write the slots of all rows that exist at `now`, in order, to `slots` (LIVE,); returns how many."""
    bits = borrow(store.bits)
    in_use = borrow(store.in_use)
    state = borrow(store.state)
    ages = borrow(store.ages)
    count = 0
    for slot in range(state[State.HIGH]):
        if in_use[slot] != 0 and exists(bits, ages, slot, now, rules):
            slots[count] = slot
            count += 1
    return count


@njit(cache=True, nogil=True)
def page(store, first, keys, rows):
    """Copy the rows in use among n slots from `first` on: keys (n,), rows (n, W) uint32, out.

    Returns how many rows there are.
    """
    bits = borrow(store.bits)
    slot_key = borrow(store.slot_key)
    in_use = borrow(store.in_use)
    state = borrow(store.state)
    count = 0
    for slot in range(first, min(first + keys.shape[0], state[State.HIGH])):
        if in_use[slot] != 0:
            keys[count] = slot_key[slot]
            copy(bits, slot, 0, rows, count, 0, rows.shape[1])
            count += 1
    return count


@njit(cache=True, nogil=True)
def digest(store, rules, now):
    """Sum, modulo 2⁶⁴, of a hash of each existing (key, row); it does not depend on the order of slots."""
    bits = borrow(store.bits)
    slot_key = borrow(store.slot_key)
    in_use = borrow(store.in_use)
    state = borrow(store.state)
    ages = borrow(store.ages)
    total = np.uint64(0)
    for slot in range(state[State.HIGH]):
        if in_use[slot] == 0:
            continue
        if not exists(bits, ages, slot, now, rules):
            continue
        h = mix(slot_key[slot] + _GOLDEN)
        for j in range(bits.shape[1] - OWN_COLUMNS):
            h = (h ^ np.uint64(bits[slot, j])) * _GOLDEN
            h ^= h >> _SHIFT_32
        total += mix(h)
    return total

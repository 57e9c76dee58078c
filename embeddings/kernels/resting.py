"""Rows that leave memory for the disk and come back: they remain counted, and no delta lists them."""

import numpy as np
from numba import njit

from embeddings.core.index import ask, remove
from embeddings.core.lifetimes import advance, count_in
from embeddings.core.positions import State
from embeddings.core.slots import release, take_slot
from embeddings.core.store import AHEAD
from embeddings.core.versions import end_write
from ground.kernels.intrinsics import borrow
from ground.kernels.simd import copy


@njit(cache=True, nogil=True)
def come_back(store, keys, rows, slots):
    """Copy whole rows (n, W) of absent keys into memory; slots (n,) int64 out, -1 if no slot is free."""
    buckets = borrow(store.buckets)
    bits = borrow(store.bits)
    slot_key = borrow(store.slot_key)
    versions = borrow(store.versions)
    in_use = borrow(store.in_use)
    free = borrow(store.free)
    path = borrow(store.path)
    state = borrow(store.state)
    usable = state[State.FREE_TAIL]
    n = keys.shape[0]
    for i in range(n):
        if i + AHEAD < n:
            ask(buckets, state, keys[i + AHEAD])
        slot = take_slot(buckets, path, slot_key, versions, in_use, free, state, keys[i], usable)
        if slot >= 0:
            copy(rows, i, 0, bits, slot, 0, rows.shape[1])
            end_write(versions, slot)
            state[State.RESTING] -= 1
        slots[i] = slot


@njit(cache=True, nogil=True)
def leave_memory(store, slots):
    """Free the slots (n,) of rows that from now on are on disk only."""
    buckets = borrow(store.buckets)
    slot_key = borrow(store.slot_key)
    in_use = borrow(store.in_use)
    free = borrow(store.free)
    state = borrow(store.state)
    n = slots.shape[0]
    for i in range(n):
        if i + AHEAD < n:
            ask(buckets, state, slot_key[slots[i + AHEAD]])
        slot = slots[i]
        remove(buckets, state, slot_key[slot], slot)
        release(in_use, free, state, slot)
    state[State.RESTING] += n


@njit(cache=True, nogil=True)
def count_seen(store, rules, seen):
    """Count rows by last seen (n,) uint32, of a table with a TTL and no eviction, that are not in memory."""
    alive = borrow(store.alive)
    ages = borrow(store.ages)
    for i in range(seen.shape[0]):
        advance(alive, ages, np.int64(seen[i]), rules)
        count_in(alive, ages, seen[i], rules)

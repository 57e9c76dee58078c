"""From keys to slots, a batch at a time: find, find or make, put back, take out.

Kernels run some iterations ahead of themselves with prefetches, since nearly every access is a miss
of the cache.
"""

import numpy as np
from numba import njit

from embeddings.admission import admit
from embeddings.expiry import gone
from embeddings.index import address, first_half, locate, remove, second_half
from embeddings.intrinsics import borrow, prefetch
from embeddings.slots import mark, release, start_row, take_slot
from embeddings.store import (
    AHEAD,
    BASE,
    DELETED,
    EXPIRED,
    FREE_TAIL,
    FULL,
    INSERTED,
    REFUSED,
    SPLIT,
)
from ground.mixing import mix


@njit(cache=True, nogil=True)
def upsert(  # type: ignore[no-untyped-def]
    store, keys, times, ttl_s, tick_s, admit_after, admit_age_s, dim, init, scale, seed, slots, removed
):
    """Find each key or give it a row, sighting by sighting.

    Args:
        keys, times: (n,) uint64 and (n,) uint32.
        slots: (n,) int64, out: the slot of each sighting, -1 where it has none.
        removed: (n,) uint64, out: keys whose row was found expired.

    Returns:
        How many keys are in `removed`.
    """
    index_keys = borrow(store.keys)
    entries = borrow(store.entries)
    rows = borrow(store.rows)
    bits = borrow(store.bits)
    slot_key = borrow(store.slot_key)
    flags = borrow(store.flags)
    touched = borrow(store.touched)
    free = borrow(store.free)
    template = borrow(store.template)
    sightings = borrow(store.sightings)
    line_changed = borrow(store.line_changed)
    changed = borrow(store.changed)
    path = borrow(store.path)
    state = borrow(store.state)
    n = keys.shape[0]
    seen_column = bits.shape[1] - 2
    usable = state[FREE_TAIL]
    gone_count = 0
    for i in range(n):
        if i + AHEAD < n:
            base = state[BASE]
            h = mix(keys[i + AHEAD])
            prefetch(index_keys, address(first_half(h), base, base + state[SPLIT]), 0)
            prefetch(index_keys, address(second_half(h), base, base + state[SPLIT]), 0)
        key = keys[i]
        time = times[i]
        slot = locate(index_keys, entries, state[BASE], state[BASE] + state[SPLIT], key)
        if slot >= 0:
            if ttl_s == 0:
                slots[i] = slot
                continue
            seen = bits[slot, seen_column]
            if not gone(np.int64(seen), np.int64(time), ttl_s, tick_s):
                if time > seen:
                    bits[slot, seen_column] = time
                    mark(flags, touched, state, slot)
                slots[i] = slot
                continue
            remove(index_keys, entries, state, key)
            release(flags, free, state, slot)
            removed[gone_count] = key
            gone_count += 1
            state[EXPIRED] += 1
        slot = np.int64(-1)
        if not admit(sightings, line_changed, changed, state, key, time, admit_after, admit_age_s):
            state[REFUSED] += 1
        else:
            slot = take_slot(index_keys, entries, path, slot_key, flags, free, state, key, usable)
            if slot < 0:
                state[FULL] += 1
            else:
                start_row(rows, bits, template, slot, key, time, dim, init, scale, seed)
                mark(flags, touched, state, slot)
                state[INSERTED] += 1
        slots[i] = slot
    return gone_count


@njit(cache=True, nogil=True)
def find(store, keys, times, ttl_s, tick_s, slots):  # type: ignore[no-untyped-def]
    """The slot of each key, -1 where it has none at its time. Changes nothing. Arguments as in `upsert`."""
    index_keys = borrow(store.keys)
    entries = borrow(store.entries)
    bits = borrow(store.bits)
    state = borrow(store.state)
    n = keys.shape[0]
    seen_column = bits.shape[1] - 2
    base = state[BASE]
    size = base + state[SPLIT]
    for i in range(n):
        if i + AHEAD < n:
            h = mix(keys[i + AHEAD])
            prefetch(index_keys, address(first_half(h), base, size), 0)
            prefetch(index_keys, address(second_half(h), base, size), 0)
        slot = locate(index_keys, entries, base, size, keys[i])
        if (
            slot >= 0
            and ttl_s > 0
            and gone(np.int64(bits[slot, seen_column]), np.int64(times[i]), ttl_s, tick_s)
        ):
            slot = np.int64(-1)
        slots[i] = slot


@njit(cache=True, nogil=True)
def put(store, keys, rows, slots):  # type: ignore[no-untyped-def]
    """Store whole rows (n, W), bit for bit, under their keys, new or not; slots (n,) out, -1 where full."""
    index_keys = borrow(store.keys)
    entries = borrow(store.entries)
    bits = borrow(store.bits)
    slot_key = borrow(store.slot_key)
    flags = borrow(store.flags)
    touched = borrow(store.touched)
    free = borrow(store.free)
    path = borrow(store.path)
    state = borrow(store.state)
    usable = state[FREE_TAIL]
    n = keys.shape[0]
    for i in range(n):
        if i + AHEAD < n:
            base = state[BASE]
            h = mix(keys[i + AHEAD])
            prefetch(index_keys, address(first_half(h), base, base + state[SPLIT]), 0)
            prefetch(index_keys, address(second_half(h), base, base + state[SPLIT]), 0)
        slot = locate(index_keys, entries, state[BASE], state[BASE] + state[SPLIT], keys[i])
        if slot < 0:
            slot = take_slot(index_keys, entries, path, slot_key, flags, free, state, keys[i], usable)
            if slot >= 0:
                state[INSERTED] += 1
        if slot >= 0:
            bits[slot, :] = rows[i]
            mark(flags, touched, state, slot)
        slots[i] = slot


@njit(cache=True, nogil=True)
def delete(store, keys, removed):  # type: ignore[no-untyped-def]
    """Take keys out; `removed` (n,) uint64, out: those that were there. Returns how many."""
    index_keys = borrow(store.keys)
    entries = borrow(store.entries)
    flags = borrow(store.flags)
    free = borrow(store.free)
    state = borrow(store.state)
    count = 0
    for i in range(keys.shape[0]):
        slot = locate(index_keys, entries, state[BASE], state[BASE] + state[SPLIT], keys[i])
        if slot >= 0:
            remove(index_keys, entries, state, keys[i])
            release(flags, free, state, slot)
            removed[count] = keys[i]
            count += 1
    state[DELETED] += count
    return count

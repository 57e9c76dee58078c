"""Batch operations on a store, compiled: each takes whole arrays and loops over ids in order.

A slot of -1 means "no row" everywhere: it reads as zeros and is never written. Kernels run some
iterations ahead of themselves with prefetches, since nearly every access is a miss of the cache.
"""

from math import cos, log, pi, sqrt

import numpy as np
from numba import njit

from embeddings.admission import admit
from embeddings.index import address, first_half, locate, place, remove, second_half
from embeddings.intrinsics import borrow, prefetch
from embeddings.store import (
    BASE,
    DELETED,
    DIRTY,
    EXPIRED,
    FREE_HEAD,
    FREE_TAIL,
    FULL,
    HIGH,
    IN_USE,
    INSERTED,
    LISTED,
    LIVE,
    LOAD_MAX,
    REFUSED,
    SPLIT,
    SWEEP,
    TOUCHED,
)
from ground.mixing import mix

AHEAD = 12
"""How many ids ahead of their use a cache line is asked for."""

INIT_ZEROS, INIT_UNIFORM, INIT_NORMAL = 0, 1, 2
_COUNT_MAX = np.int64(0xFFFFFFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SHIFT_11 = np.uint64(11)
_SHIFT_32 = np.uint64(32)
_UNIT = 1.0 / (1 << 53)


@njit(cache=True, nogil=True, forceinline=True)
def gone(seen, now, ttl_s, tick_s):  # type: ignore[no-untyped-def]
    """Whether a row last seen at `seen` no longer exists at `now`."""
    if tick_s > 1:
        now -= now % tick_s
    return ttl_s > 0 and seen + ttl_s < now


@njit(cache=True, nogil=True, forceinline=True)
def mark(flags, touched, state, slot):  # type: ignore[no-untyped-def]
    """Note that a live slot was written since the last drain."""
    flag = flags[slot]
    if flag & LISTED == 0:
        touched[state[TOUCHED]] = np.uint32(slot)
        state[TOUCHED] += 1
    if flag & IN_USE != 0:
        flags[slot] = flag | DIRTY | LISTED
    else:
        flags[slot] = flag | LISTED


@njit(cache=True, nogil=True, forceinline=True)
def release(flags, free, state, slot):  # type: ignore[no-untyped-def]
    """Free the slot of a key that left the index. Its row stays as it was until the slot is used again."""
    flags[slot] &= ~np.uint8(IN_USE | DIRTY)
    tail = state[FREE_TAIL]
    free[tail % free.shape[0]] = np.uint32(slot)
    state[FREE_TAIL] = tail + 1
    state[LIVE] -= 1


@njit(cache=True, nogil=True)
def start_row(rows, bits, template, slot, key, time, dim, init, scale, seed):  # type: ignore[no-untyped-def]
    """Write a new row: nothing of its last owner stays; the vector depends on key and seed alone."""
    row = rows[slot]
    row[:] = template
    if init != INIT_ZEROS:
        draw = mix(key + mix(np.uint64(seed) + _GOLDEN))
        for j in range(dim):
            draw += _GOLDEN  # SplitMix64 (Steele, Lea and Flood 2014)
            u = float(mix(draw) >> _SHIFT_11) * _UNIT
            if init == INIT_UNIFORM:
                row[j] = np.float32(scale * (2.0 * u - 1.0))
            else:
                v = float(mix(~draw) >> _SHIFT_11) * _UNIT
                row[j] = np.float32(scale * sqrt(-2.0 * log(1.0 - u)) * cos(2.0 * pi * v))  # Box and Muller
    bits[slot, bits.shape[1] - 2] = time


@njit(cache=True, nogil=True)
def take_slot(index_keys, entries, path, slot_key, flags, free, state, key, usable):  # type: ignore[no-untyped-def]
    """Put an absent key in and give it a slot; -1 if the table is full.

    Slots freed at or beyond position `usable` of the ring stay as they are: the caller of this very
    batch may still hold their numbers.
    """
    head = state[FREE_HEAD]
    if head < usable:
        slot = np.int64(free[head % free.shape[0]])
    elif state[HIGH] < slot_key.shape[0]:
        slot = state[HIGH]
    else:
        return np.int64(-1)
    if not place(index_keys, entries, path, state, key, slot, LOAD_MAX):
        return np.int64(-1)
    if head < usable:
        state[FREE_HEAD] = head + 1
    else:
        state[HIGH] = slot + 1
    slot_key[slot] = key
    flags[slot] |= IN_USE
    state[LIVE] += 1
    return slot


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
    for i in range(keys.shape[0]):
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


@njit(cache=True, nogil=True)
def sweep(store, now, ttl_s, tick_s, budget, removed):  # type: ignore[no-untyped-def]
    """Free the expired among the next `budget` slots, in turn; returns how many, as `delete` does."""
    index_keys = borrow(store.keys)
    entries = borrow(store.entries)
    bits = borrow(store.bits)
    slot_key = borrow(store.slot_key)
    flags = borrow(store.flags)
    free = borrow(store.free)
    state = borrow(store.state)
    seen_column = bits.shape[1] - 2
    count = 0
    for _ in range(min(budget, state[HIGH])):
        slot = state[SWEEP]
        if slot >= state[HIGH]:
            slot = 0
        state[SWEEP] = slot + 1
        if flags[slot] & IN_USE != 0 and gone(np.int64(bits[slot, seen_column]), now, ttl_s, tick_s):
            key = slot_key[slot]
            remove(index_keys, entries, state, key)
            release(flags, free, state, slot)
            removed[count] = key
            count += 1
    state[EXPIRED] += count
    return count


@njit(cache=True, nogil=True)
def gather(bits, slots, first, out):  # type: ignore[no-untyped-def]
    """Copy columns first.. of rows `bits` (R, W) at `slots` (n,) into `out` (n, columns); -1 gives zeros."""
    n = slots.shape[0]
    width = out.shape[1]
    for i in range(n):
        if i + AHEAD < n and slots[i + AHEAD] >= 0:
            prefetch(bits, slots[i + AHEAD], first)
            prefetch(bits, slots[i + AHEAD], first + width - 1)
        slot = slots[i]
        if slot >= 0:
            for j in range(width):
                out[i, j] = bits[slot, first + j]
        else:
            out[i, :] = 0


@njit(cache=True, nogil=True)
def scatter(store, slots, first, values):  # type: ignore[no-untyped-def]
    """Copy `values` (n, columns), as uint32 bits, into columns first.. of the rows at `slots` (n,)."""
    bits = borrow(store.bits)
    flags = borrow(store.flags)
    touched = borrow(store.touched)
    state = borrow(store.state)
    for i in range(slots.shape[0]):
        slot = slots[i]
        if slot >= 0:
            for j in range(values.shape[1]):
                bits[slot, first + j] = values[i, j]
            mark(flags, touched, state, slot)


@njit(cache=True, nogil=True)
def touch(store, slots, times, increments):  # type: ignore[no-untyped-def]
    """Last seen becomes the later of itself and `times`, the count grows by `increments`, up to 2³²-1."""
    bits = borrow(store.bits)
    flags = borrow(store.flags)
    touched = borrow(store.touched)
    state = borrow(store.state)
    n = slots.shape[0]
    seen_column = bits.shape[1] - 2
    for i in range(n):
        if i + AHEAD < n and slots[i + AHEAD] >= 0:
            prefetch(bits, slots[i + AHEAD], seen_column)
        slot = slots[i]
        if slot >= 0:
            if times[i] > bits[slot, seen_column]:
                bits[slot, seen_column] = times[i]
            count = np.int64(bits[slot, seen_column + 1]) + np.int64(increments[i])
            bits[slot, seen_column + 1] = np.uint32(min(count, _COUNT_MAX))
            mark(flags, touched, state, slot)


@njit(cache=True, nogil=True)
def mark_all(store, slots):  # type: ignore[no-untyped-def]
    """Note that the rows at `slots` (n,) were written."""
    flags = borrow(store.flags)
    touched = borrow(store.touched)
    state = borrow(store.state)
    for i in range(slots.shape[0]):
        if slots[i] >= 0:
            mark(flags, touched, state, slots[i])


@njit(cache=True, nogil=True)
def drain(store, keys):  # type: ignore[no-untyped-def]
    """Live keys written since the last drain into `keys` (TOUCHED,); returns how many, and forgets."""
    slot_key = borrow(store.slot_key)
    flags = borrow(store.flags)
    touched = borrow(store.touched)
    state = borrow(store.state)
    count = 0
    for i in range(state[TOUCHED]):
        slot = touched[i]
        if flags[slot] & DIRTY != 0:
            keys[count] = slot_key[slot]
            count += 1
        flags[slot] &= ~np.uint8(DIRTY | LISTED)
    state[TOUCHED] = 0
    return count


@njit(cache=True, nogil=True)
def live(store, now, ttl_s, tick_s, slots):  # type: ignore[no-untyped-def]
    """Slots of all rows that exist at `now`, in slot order, into `slots` (LIVE,); returns how many."""
    bits = borrow(store.bits)
    flags = borrow(store.flags)
    state = borrow(store.state)
    seen_column = bits.shape[1] - 2
    count = 0
    for slot in range(state[HIGH]):
        if flags[slot] & IN_USE != 0 and not gone(np.int64(bits[slot, seen_column]), now, ttl_s, tick_s):
            slots[count] = slot
            count += 1
    return count


@njit(cache=True, nogil=True)
def digest(store, now, ttl_s, tick_s):  # type: ignore[no-untyped-def]
    """Sum, modulo 2⁶⁴, of a hash of each existing (key, row): the same whatever the order of slots."""
    bits = borrow(store.bits)
    slot_key = borrow(store.slot_key)
    flags = borrow(store.flags)
    state = borrow(store.state)
    seen_column = bits.shape[1] - 2
    total = np.uint64(0)
    for slot in range(state[HIGH]):
        if flags[slot] & IN_USE == 0:
            continue
        if gone(np.int64(bits[slot, seen_column]), now, ttl_s, tick_s):
            continue
        h = mix(slot_key[slot] + _GOLDEN)
        for j in range(bits.shape[1]):
            h = (h ^ np.uint64(bits[slot, j])) * _GOLDEN
            h ^= h >> _SHIFT_32
        total += mix(h)
    return total

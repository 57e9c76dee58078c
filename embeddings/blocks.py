"""A batch's distinct ids at once: each row is fetched a single time, with everything that a sighting does.

The same as sighting by sighting (`lookup.upsert`), for a batch within which no row can expire: its
times lie no further apart than the TTL. First the rows that are there are fetched; what has none
yet is then taken in the order of the stream, so that admission counts as it would one by one.
"""

import numpy as np
from numba import njit

from embeddings.admission import admit
from embeddings.expiry import gone
from embeddings.index import remove
from embeddings.intrinsics import borrow, prefetch, prefetch_element
from embeddings.slots import mark, release, start_row, take_slot
from embeddings.store import AHEAD, EXPIRED, FULL, INSERTED, REFUSED


@njit(cache=True, nogil=True)
def fetch(store, keys, slots, first, times, newest, dim, ttl_s, tick_s, vectors, removed):  # type: ignore[no-untyped-def]
    """Fetch the rows of distinct ids: the expired are taken out, the others seen, their vectors copied.

    Args:
        keys, slots: (m,), from the index; a slot becomes -1 if its row has expired.
        first: (m,) int64, where in `times` an id's first sighting is.
        times: (n,) uint32.
        newest: (m,) uint32, the latest sighting of each id.
        vectors: (m, dim) float32, out: zeros where there is no row.
        removed: (m,) uint64, out: keys whose row had expired.

    Returns:
        (how many ids have no row, how many keys are in `removed`).
    """
    rows = borrow(store.rows)
    bits = borrow(store.bits)
    index_keys = borrow(store.keys)
    entries = borrow(store.entries)
    flags = borrow(store.flags)
    touched = borrow(store.touched)
    free = borrow(store.free)
    state = borrow(store.state)
    seen_column = bits.shape[1] - 2
    m = slots.shape[0]
    missing = 0
    gone_count = 0
    for i in range(m):
        if i + AHEAD < m and slots[i + AHEAD] >= 0:
            for column in range(0, dim, 16):
                prefetch(rows, slots[i + AHEAD], column)
            if ttl_s > 0:
                prefetch(rows, slots[i + AHEAD], seen_column)
                prefetch_element(flags, slots[i + AHEAD])
        slot = slots[i]
        if slot >= 0 and ttl_s > 0:
            seen = bits[slot, seen_column]
            if gone(np.int64(seen), np.int64(times[first[i]]), ttl_s, tick_s):
                remove(index_keys, entries, state, keys[i])
                release(flags, free, state, slot)
                removed[gone_count] = keys[i]
                gone_count += 1
                slots[i] = slot = np.int64(-1)
            elif newest[i] > seen:
                bits[slot, seen_column] = newest[i]
                mark(flags, touched, state, slot)
        if slot >= 0:
            for j in range(dim):
                vectors[i, j] = rows[slot, j]
        else:
            missing += 1
            for j in range(dim):
                vectors[i, j] = np.float32(0.0)
    state[EXPIRED] += gone_count
    return missing, gone_count


@njit(cache=True, nogil=True)
def make_missing(  # type: ignore[no-untyped-def]
    store, keys, first, inverse, times, newest, usable,
    ttl_s, admit_after, admit_age_s, dim, init, scale, seed, slots, vectors,
):  # fmt: skip
    """Give rows to the ids that have none, in the order of their sightings, as far as they are admitted.

    Args:
        keys: (m,) uint64, distinct.
        first: (m,) int64, where in `times` an id's first sighting is.
        inverse: (n,) int64, the number of each sighting's id; m, in place, for sightings that are refused.
        times, newest: (n,) and (m,) uint32, as for `fetch`.
        usable: as for `take_slot`.
        slots, vectors: (m,) and (m, dim), as `fetch` left them; filled in place.
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
    seen_column = bits.shape[1] - 2
    m = keys.shape[0]
    none = np.int64(-1)
    made = np.zeros(m, dtype=np.bool_)
    # Where every first sighting is admitted, only first sightings need a look.
    every = admit_after > 1
    for at in range(inverse.shape[0] if every else m):
        i = at if every else first[at]
        number = inverse[i] if every else at
        if slots[number] >= 0:
            if made[number] and ttl_s > 0 and times[i] > bits[slots[number], seen_column]:
                bits[slots[number], seen_column] = times[i]
            continue
        key = keys[number]
        slot = none
        if not admit(sightings, line_changed, changed, state, key, times[i], admit_after, admit_age_s):
            state[REFUSED] += 1
        else:
            slot = take_slot(index_keys, entries, path, slot_key, flags, free, state, key, usable)
            if slot < 0:
                state[FULL] += 1
        if slot < 0:
            inverse[i] = m
            continue
        start_row(rows, bits, template, slot, key, times[i], dim, init, scale, seed)
        if not every and ttl_s > 0:
            bits[slot, seen_column] = newest[number]
        mark(flags, touched, state, slot)
        state[INSERTED] += 1
        slots[number] = slot
        made[number] = True
        for j in range(dim):
            vectors[number, j] = rows[slot, j]

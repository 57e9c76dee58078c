"""From keys to slots, a batch at a time: find, find or make, put back, take out.

Nearly every access is a miss of the cache, so lookups are pipelined: a key's index line is asked for
long before it is looked into, and its row long before it is used (software pipelining of prefetches,
Chen et al. 2004).
"""

import numpy as np
from numba import njit

from embeddings.admission import admit
from embeddings.eviction import (
    GENERATION,
    LEFT,
    NEWEST,
    STRIDE,
    begin,
    evicted,
    leave,
    limit,
    pass_time,
    turn,
    use,
)
from embeddings.expiry import exists, gone, sweep_evicted
from embeddings.index import first_bucket, locate, remove, second_bucket, slot_with_tag, tag_of
from embeddings.slots import mark, release, start_row, take_slot
from embeddings.store import (
    AHEAD,
    BASE,
    DELETED,
    EXPIRED,
    FREE_TAIL,
    FULL,
    HIGH,
    INSERTED,
    REFUSED,
    SPLIT,
    TAIL,
)
from embeddings.versions import begin_write, end_write
from ground.intrinsics import borrow, prefetch, prefetch_element

_UNSEEN = np.int64(-2)  # a distinct key none of whose sightings has been looked at
_LANES = 16


@njit(cache=True, nogil=True, forceinline=True)
def _ask_for_row(flags, bits, slot, width, to_write):  # type: ignore[no-untyped-def]
    """The first `width` columns of a row, its last ones with the key, and its flags if `to_write`."""
    if to_write:
        prefetch_element(flags, slot)
    for column in range(0, width, _LANES):
        prefetch(bits, slot, column)
    prefetch(bits, slot, bits.shape[1] - 1)


@njit(cache=True, nogil=True, forceinline=True)
def look_up(buckets, flags, bits, state, keys, i, width, to_write, slots):  # type: ignore[no-untyped-def]
    """One turn of a pipeline over keys (n,), for i from 0 to n + 3 AHEAD; returns the key that is ready.

    Ask for the first bucket of key i; look into that of key i - AHEAD, and ask for its row, or for its
    second bucket; look into that where need be, AHEAD keys later; and AHEAD keys later still its row
    has come. Then slots[j] is the slot of the last of these keys, j, by its tag alone: to be compared
    with the key. A j below 0 means that none is ready.
    """
    n = keys.shape[0]
    base = state[BASE]
    size = base + state[SPLIT]
    if i < n:
        tag = tag_of(state, keys[i])
        prefetch(buckets, first_bucket(tag, base, size), 0)
    j = i - AHEAD
    if 0 <= j < n:
        tag = tag_of(state, keys[j])
        slot = slot_with_tag(buckets, first_bucket(tag, base, size), tag)
        slots[j] = slot
        if slot >= 0:
            _ask_for_row(flags, bits, slot, width, to_write)
        else:
            prefetch(buckets, second_bucket(tag, base, size), 0)
    j -= AHEAD
    if 0 <= j < n and slots[j] < 0:
        tag = tag_of(state, keys[j])
        slot = slot_with_tag(buckets, second_bucket(tag, base, size), tag)
        slots[j] = slot
        if slot >= 0:
            _ask_for_row(flags, bits, slot, width, to_write)
    return j - AHEAD


@njit(cache=True, nogil=True, forceinline=True)
def copy_row(source, row, out, i):  # type: ignore[no-untyped-def]
    """The first columns of a row into out[i]."""
    row = np.uint64(row)
    width = out.shape[1]
    whole = width - width % _LANES
    for first in range(0, whole, _LANES):
        for j in range(_LANES):
            out[i, first + j] = source[row, first + j]
    for j in range(whole, width):
        out[i, j] = source[row, j]


@njit(cache=True, nogil=True)
def upsert(  # type: ignore[no-untyped-def]
    store, rules, keys, times, unique, inverse, latest, tally, stamps, one_by_one, slots, vectors, removed
):
    """Find each key of a batch or give it a row, as if sighting by sighting in order.

    Distinct keys that have a row which outlives the batch, nearly all of them, are found once each;
    their sightings do nothing but renew last seen, in whatever order. The sightings of all
    others are then taken one by one.

    Args:
        rules: the table's `Rules`.
        keys, times: (n,) uint64 and (n,) uint32.
        unique: (m,) uint64, the distinct keys.
        inverse: (n,) int64, in: the number of each key in `unique`; out: the number of its slot.
        latest: (m,) uint32, the latest time of each distinct key.
        tally: (m,) uint32, the number of sightings of each; used where uses are counted.
        stamps: (m,) int64, the generation of the last of them; used where rows are evicted, for which
            the clock was moved on already, unless one by one.
        one_by_one: take every sighting by itself: rows may be evicted within the batch.
        slots: (n,) int64, out: the slots by number; -1 where there is no row.
        vectors: (n, dim) float32, out: the first columns of the rows by number; not if of 0 columns.
        removed: uint64, out: keys whose row was found expired or evicted; (n,) if rows can only expire,
            n more than there are slots if they can be evicted.

    Returns:
        How many numbers there are, at least m, and how many keys are in `removed`.
    """
    buckets = borrow(store.buckets)
    rows = borrow(store.rows)
    bits = borrow(store.bits)
    slot_key = borrow(store.slot_key)
    versions = borrow(store.versions)
    flags = borrow(store.flags)
    touched = borrow(store.touched)
    free = borrow(store.free)
    template = borrow(store.template)
    sightings = borrow(store.sightings)
    line_changed = borrow(store.line_changed)
    changed = borrow(store.changed)
    ages = borrow(store.ages)
    held = borrow(store.held)
    age_times = borrow(store.age_times)
    path = borrow(store.path)
    state = borrow(store.state)
    unique, slots, vectors = borrow(unique), borrow(slots), borrow(vectors)
    m = unique.shape[0]
    seen_column = bits.shape[1] - TAIL
    width = vectors.shape[1]
    ttl_s, tick_s = rules.ttl_s, rules.tick_s
    evicts = rules.classes > 0
    apart = m if one_by_one else 0
    if one_by_one:
        slots[:m] = _UNSEEN
    for step in range(0 if one_by_one else m + 3 * AHEAD):
        i = look_up(buckets, flags, bits, state, unique, step, width, True, slots)
        if i < 0:
            continue
        slot = slots[i]
        if slot >= 0 and slot_key[slot] != unique[i]:
            slot = locate(buckets, slot_key, state, unique[i])
            slots[i] = slot
        if slot >= 0 and (ttl_s > 0 or evicts):
            wrote = False
            if ttl_s > 0:
                seen = bits[slot, seen_column]
                if gone(np.int64(seen), np.int64(latest[i]), ttl_s, tick_s):
                    slot = _UNSEEN
                elif latest[i] > seen and not evicted(bits, ages, slot, rules):
                    bits[slot, seen_column] = latest[i]
                    wrote = True
            if slot >= 0 and evicts:
                if evicted(bits, ages, slot, rules):
                    slot = _UNSEEN
                else:
                    times_used = np.int64(tally[i]) if rules.classes > 1 else np.int64(1)
                    wrote |= use(bits, held, ages, slot, rules, stamps[i], times_used)
            if wrote:
                mark(flags, touched, state, slot)
        if slot >= 0:
            copy_row(rows, slot, vectors, i)
        else:
            slots[i] = _UNSEEN
            apart += 1
    if apart == 0:
        return m, 0

    n = keys.shape[0]
    usable = state[FREE_TAIL]
    current = np.empty(m, dtype=np.int64)  # the number that stands for a distinct key at this sighting
    for i in range(m):
        current[i] = i if slots[i] == _UNSEEN else -1
    count = m
    out = 0
    for i in range(n):
        which = inverse[i]
        if current[which] < 0:
            continue
        key = keys[i]
        time = times[i]
        now = np.int64(0)
        if one_by_one:
            if ages[LEFT] == 0 and turn(held, ages, age_times, rules.rows_max, ttl_s):
                out = sweep_evicted(
                    buckets, bits, slot_key, flags, free, state, ages, rules, state[HIGH], removed, out
                )
                limit(held, ages, state, rules.rows_max)
            ages[LEFT] -= 1
            pass_time(ages, age_times, time)
            now = ages[GENERATION]
        elif evicts:
            now = stamps[which]
        slot = locate(buckets, slot_key, state, key)
        if slot >= 0 and (ttl_s > 0 or evicts):
            seen = bits[slot, seen_column]
            lost = gone(np.int64(seen), np.int64(time), ttl_s, tick_s)
            state[EXPIRED] += lost
            if lost or evicted(bits, ages, slot, rules):
                remove(buckets, slot_key, state, key)
                release(flags, free, state, slot)
                removed[out] = key
                out += 1
                slot = np.int64(-1)
            else:
                wrote = evicts and use(bits, held, ages, slot, rules, now, np.int64(1))
                if ttl_s > 0 and time > seen:
                    bits[slot, seen_column] = time
                    wrote = True
                if wrote:
                    mark(flags, touched, state, slot)
        if slot < 0:
            if not admit(sightings, line_changed, changed, state, key, time, rules):
                state[REFUSED] += 1
            else:
                slot = take_slot(buckets, path, slot_key, versions, flags, free, state, key, usable)
                if slot < 0:
                    state[FULL] += 1
                else:
                    start_row(rows, bits, versions, template, slot, key, time, rules)
                    mark(flags, touched, state, slot)
                    state[INSERTED] += 1
                    if evicts:
                        begin(bits, held, ages, slot, rules, now, np.int64(1))
                        out = sweep_evicted(
                            buckets, bits, slot_key, flags, free, state, ages, rules,
                            state[STRIDE], removed, out,
                        )  # fmt: skip
        number = current[which]
        if slots[number] != slot:
            if slots[number] != _UNSEEN:
                number = count
                count += 1
                current[which] = number
            slots[number] = slot
            if slot >= 0:
                copy_row(rows, slot, vectors, number)
            else:
                vectors[number, :] = 0
        inverse[i] = number
    return count, out


@njit(cache=True, nogil=True)
def find(store, rules, keys, times, slots):  # type: ignore[no-untyped-def]
    """The slot of each key, -1 where it has none at its time. Changes nothing. Arguments as in `upsert`."""
    buckets = borrow(store.buckets)
    slot_key = borrow(store.slot_key)
    flags = borrow(store.flags)
    bits = borrow(store.bits)
    state = borrow(store.state)
    ages = borrow(store.ages)
    keys, slots = borrow(keys), borrow(slots)
    n = keys.shape[0]
    for step in range(n + 3 * AHEAD):
        i = look_up(buckets, flags, bits, state, keys, step, 0, False, slots)
        if i < 0:
            continue
        slot = slots[i]
        if slot >= 0 and slot_key[slot] != keys[i]:
            slot = locate(buckets, slot_key, state, keys[i])
        if (
            slot >= 0
            and (rules.ttl_s > 0 or rules.classes > 0)
            and not exists(bits, ages, slot, np.int64(times[i]), rules)
        ):
            slot = np.int64(-1)
        slots[i] = slot


@njit(cache=True, nogil=True)
def put(store, keys, rows, slots):  # type: ignore[no-untyped-def]
    """Store whole rows (n, W), bit for bit, under their keys, new or not; slots (n,) out, -1 where full."""
    buckets = borrow(store.buckets)
    bits = borrow(store.bits)
    slot_key = borrow(store.slot_key)
    versions = borrow(store.versions)
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
            prefetch(buckets, first_bucket(tag_of(state, keys[i + AHEAD]), base, base + state[SPLIT]), 0)
        slot = locate(buckets, slot_key, state, keys[i])
        if slot >= 0:
            begin_write(versions, slot)
        else:
            slot = take_slot(buckets, path, slot_key, versions, flags, free, state, keys[i], usable)
            if slot >= 0:
                state[INSERTED] += 1
        if slot >= 0:
            bits[slot, : rows.shape[1]] = rows[i]
            end_write(versions, slot)
            mark(flags, touched, state, slot)
        slots[i] = slot


@njit(cache=True, nogil=True)
def delete(store, rules, keys, removed, counted):  # type: ignore[no-untyped-def]
    """Take keys out; `removed` (n,) uint64, out: those that were there. Returns how many.

    `counted`: take existing rows out of eviction's count, too.
    """
    buckets = borrow(store.buckets)
    slot_key = borrow(store.slot_key)
    flags = borrow(store.flags)
    free = borrow(store.free)
    state = borrow(store.state)
    bits = borrow(store.bits)
    ages = borrow(store.ages)
    held = borrow(store.held)
    count = 0
    for i in range(keys.shape[0]):
        slot = locate(buckets, slot_key, state, keys[i])
        if slot >= 0:
            if counted and rules.classes > 0 and exists(bits, ages, slot, ages[NEWEST], rules):
                leave(bits, held, ages, slot, rules)
            remove(buckets, slot_key, state, keys[i])
            release(flags, free, state, slot)
            removed[count] = keys[i]
            count += 1
    state[DELETED] += count
    return count

"""From keys to slots, a batch at a time: find, record sightings, load, delete.

Nearly every access misses the cache, so each kernel prefetches a line long before it uses it (Chen et al.
2004), in two passes: one over the index, one over the rows. The rest of the cost would be mispredicted
branches, so the passes avoid branches.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from embeddings.core.eviction import beyond, count_again, leave, limit_of, used
from embeddings.core.index import guess, locate, remove
from embeddings.core.lifetimes import advance, count_in, count_out, renew
from embeddings.core.positions import Ages, Before, State
from embeddings.core.slots import mark, mark_if, release, take_slot
from embeddings.core.store import AHEAD, TAIL
from embeddings.core.versions import begin_write, end_write
from embeddings.kernels.expiry import exists, gone
from embeddings.types import Floats, Keys, Slots
from ground.kernels.intrinsics import borrow, prefetch, prefetch_element
from ground.kernels.simd import WIDE, copy

PUT_AT_ONCE = 1024
"""Rows that are looked up before the first is written: few enough that prefetched lines stay cached."""

UNSEEN = np.int64(-2)
"""Instead of a slot: the sightings of this distinct key must be processed one by one."""


class Sightings(NamedTuple):
    """A batch of n sightings, of m distinct keys, and what the kernels find out about it.

    Arrays that a table does not use are empty.
    """

    keys: Keys  # (n,)
    times: npt.NDArray[np.uint32]  # (n,)
    distinct: Keys  # (m,), in the order of their first sighting
    inverse: npt.NDArray[np.int64]  # (n,), the number of each key in `distinct`; later: of its slot
    latest: npt.NDArray[np.uint32]  # (m,), the latest time of each key's sightings; with a TTL
    tally: npt.NDArray[np.uint32]  # (m,), how many sightings each key has; where uses are counted
    stamps: npt.NDArray[np.uint32]  # (m,), the generation of each key's last sighting; with eviction
    before: npt.NDArray[np.uint32]  # (len(Before), m), what the rows said before; with eviction
    slots: Slots  # (n,), slots by number; the first m belong to the distinct keys
    vectors: Floats  # (n, columns), the first columns of the rows by number


@njit(cache=True, nogil=True, forceinline=True)
def ask_for_row(bits, slot, width):
    """Prefetch every line of the first `width` columns of a row, and its tail with the key."""
    for column in range(0, width, WIDE):
        prefetch(bits, slot, column)
    if width > 0:
        prefetch(bits, slot, width - 1)  # a row does not start at a line boundary
    prefetch(bits, slot, bits.shape[1] - TAIL)
    prefetch(bits, slot, bits.shape[1] - 1)


@njit(cache=True, nogil=True)
def meet(store, rules, sightings, first_time, last_time, sure):
    """Find the distinct keys of a batch; record the sightings of keys whose row exists throughout the batch.

    These are nearly all keys. Each is looked up once: its sightings only update last seen, stamp and
    uses of the row, and their order does not matter.

    Args:
        rules: the table's `Rules`.
        sightings: the batch; fills `before`, `slots` (UNSEEN for a key without such a row) and `vectors`.
        first_time, last_time: the times of the batch's first sighting and of its latest.
        sure: whether the batch is certainly not rolled back by `unmeet`.

    Returns:
        How many are UNSEEN.
    """
    buckets = borrow(store.buckets)
    rows = borrow(store.rows)
    bits = borrow(store.bits)
    slot_key = borrow(store.slot_key)
    listed = borrow(store.listed)
    touched = borrow(store.touched)
    ages = borrow(store.ages)
    alive = borrow(store.alive)
    state = borrow(store.state)
    keys, slots, vectors = borrow(sightings.distinct), borrow(sightings.slots), borrow(sightings.vectors)
    latest, stamps, tally = borrow(sightings.latest), borrow(sightings.stamps), borrow(sightings.tally)
    before = borrow(sightings.before)
    m = keys.shape[0]
    seen_column = np.uint64(bits.shape[1] - TAIL)
    age_column, one = np.uint64(rules.age_column), np.uint64(1)
    width = vectors.shape[1]
    ttl_s, tick_s = rules.ttl_s, rules.tick_s
    evicts = rules.classes > 0
    counts_alive = ttl_s > 0 and not evicts
    if counts_alive:
        advance(alive, ages, np.int64(first_time), rules)
    unseen = 0
    touched_count = state[State.TOUCHED]
    bounds = limit_of(ages)
    guess(buckets, state, keys, slots)
    for i in range(m):
        soon = max(slots[min(i + AHEAD, m - 1)], 0)
        ask_for_row(bits, soon, width)
        prefetch_element(listed, soon >> 3)
        if evicts:
            prefetch(bits, soon, rules.age_column)
        slot = slots[i]
        if slot >= 0 and slot_key[np.uint64(slot)] != keys[i]:
            slot = locate(buckets, slot_key, state, keys[i])
        if slot >= 0 and (ttl_s > 0 or evicts):
            at = np.uint64(slot)  # a signed index would be tested for its sign at each use
            seen = bits[at, seen_column]
            time = latest[i] if ttl_s > 0 else seen
            if gone(np.int64(seen), np.int64(time), ttl_s, tick_s) or beyond(bits, bounds, at, rules):
                slot = UNSEEN
            else:
                written = time > seen
                bits[at, seen_column] = max(time, seen)
                if counts_alive:
                    renew(alive, ages, seen, max(time, seen), rules)
                if evicts:
                    stamp = bits[at, age_column]
                    before[Before.STAMP, i] = stamp
                    if not sure:
                        before[Before.SEEN, i] = seen
                    bits[at, age_column] = stamps[i]
                    written |= stamp != stamps[i]
                    if rules.classes > 1:
                        uses = bits[at, age_column + one]
                        before[Before.USES, i] = uses
                        bits[at, age_column + one] = used(uses, tally[i])
                        written = True
                touched_count = mark_if(listed, touched, touched_count, at, written)
        if slot >= 0:
            copy(rows, np.uint64(slot), 0, vectors, i, 0, width)
        else:
            slot = UNSEEN
            unseen += 1
            if evicts:
                before[Before.STAMP, i] = 0
        slots[i] = slot
    state[State.TOUCHED] = touched_count
    if evicts:
        count_again(store.held, ages, before, tally, stamps)
    if counts_alive and unseen == 0:  # otherwise `take_in` advances the clock sighting by sighting
        advance(alive, ages, np.int64(last_time), rules)
    return unseen


@njit(cache=True, nogil=True)
def unmeet(store, rules, sightings):
    """Roll back what `meet` wrote into rows; same arguments. (Rows stay listed as touched.)

    The caller restores eviction's clock, which holds the counts.
    """
    bits = store.bits
    slots, before = sightings.slots, sightings.before
    seen_column = bits.shape[1] - TAIL
    for i in range(sightings.distinct.shape[0]):
        slot = slots[i]
        if slot >= 0:
            bits[slot, rules.age_column] = before[Before.STAMP, i]
            bits[slot, seen_column] = before[Before.SEEN, i]
            if rules.classes > 1:
                bits[slot, rules.age_column + 1] = before[Before.USES, i]


@njit(cache=True, nogil=True)
def find(store, rules, keys, times, slots):
    """The slot of each key (n,), -1 if it has no row at its time: slots (n,) int64, out. Changes nothing."""
    buckets = borrow(store.buckets)
    slot_key = borrow(store.slot_key)
    bits = borrow(store.bits)
    state = borrow(store.state)
    ages = borrow(store.ages)
    keys, slots = borrow(keys), borrow(slots)
    n = keys.shape[0]
    guess(buckets, state, keys, slots)
    for i in range(n):
        ask_for_row(bits, max(slots[min(i + AHEAD, n - 1)], 0), 0)
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
def put(store, rules, keys, rows, slots):
    """Write whole rows (n, W), bit for bit, of new or known keys; slots (n,) out, -1 if the table is full."""
    buckets = borrow(store.buckets)
    bits = borrow(store.bits)
    slot_key = borrow(store.slot_key)
    versions = borrow(store.versions)
    in_use = borrow(store.in_use)
    listed = borrow(store.listed)
    touched = borrow(store.touched)
    free = borrow(store.free)
    path = borrow(store.path)
    state = borrow(store.state)
    ages = borrow(store.ages)
    alive = borrow(store.alive)
    seen_column = bits.shape[1] - TAIL
    counts_alive = rules.ttl_s > 0 and rules.classes == 0
    usable = state[State.FREE_TAIL]
    for first in range(0, keys.shape[0], PUT_AT_ONCE):
        last = min(first + PUT_AT_ONCE, keys.shape[0])
        guess(buckets, state, keys[first:last], slots[first:last])
        for i in range(first, last):
            ask_for_row(bits, max(slots[min(i + AHEAD, last - 1)], 0), rows.shape[1])
            slot = slots[i]
            # an earlier row of this call may have inserted the key
            if slot < 0 or slot_key[slot] != keys[i]:
                slot = locate(buckets, slot_key, state, keys[i])
            if slot >= 0:
                begin_write(versions, slot)
                if counts_alive:
                    count_out(alive, ages, bits[slot, seen_column], rules)
            else:
                slot = take_slot(buckets, path, slot_key, versions, in_use, free, state, keys[i], usable)
                if slot >= 0:
                    state[State.INSERTED] += 1
            if slot >= 0:
                copy(rows, i, 0, bits, slot, 0, rows.shape[1])
                end_write(versions, slot)
                if counts_alive:
                    advance(alive, ages, np.int64(bits[slot, seen_column]), rules)
                    count_in(alive, ages, bits[slot, seen_column], rules)
                mark(listed, touched, state, slot)
            slots[i] = slot


@njit(cache=True, nogil=True)
def delete(store, rules, keys, removed, counted):
    """Remove keys; `removed` (n,) uint64, out: the keys that were there. Returns how many.

    `counted`: also remove existing rows from eviction's counts.
    """
    buckets = borrow(store.buckets)
    slot_key = borrow(store.slot_key)
    in_use = borrow(store.in_use)
    free = borrow(store.free)
    state = borrow(store.state)
    bits = borrow(store.bits)
    ages = borrow(store.ages)
    held = borrow(store.held)
    keys = borrow(keys)
    slots = removed.view(np.int64)  # a slot is read before its place is written
    count = 0
    for first in range(0, keys.shape[0], PUT_AT_ONCE):
        last = min(first + PUT_AT_ONCE, keys.shape[0])
        guess(buckets, state, keys[first:last], slots[first:last])
        for i in range(first, last):
            ask_for_row(bits, max(slots[min(i + AHEAD, last - 1)], 0), 0)
            slot = slots[i]
            # an earlier key of this call may have been the same
            if slot >= 0 and (slot_key[slot] != keys[i] or in_use[slot] == 0):
                slot = locate(buckets, slot_key, state, keys[i])
            if slot < 0:
                continue
            if counted and rules.classes > 0 and exists(bits, ages, slot, ages[Ages.NEWEST], rules):
                leave(bits, held, ages, slot, rules)
            if rules.ttl_s > 0 and rules.classes == 0:
                count_out(store.alive, ages, bits[slot, bits.shape[1] - TAIL], rules)
            remove(buckets, state, keys[i], slot)
            release(in_use, free, state, slot)
            removed[count] = keys[i]
            count += 1
    state[State.DELETED] += count
    return count

"""From keys to slots, a batch at a time: find, record sightings, load, delete.

Nearly every access misses the cache, so each kernel prefetches a line long before it uses it (Chen et al.
2004), in two passes: one over the index, one over the rows. The rest of the cost would be mispredicted
branches, so the passes avoid branches.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from embeddings.core.eviction import beyond, count_again, counting, leave, limit_of, rank_of, settle, used
from embeddings.core.index import guess, locate, remove
from embeddings.core.lifetimes import advance, count_in, count_out, renew
from embeddings.core.positions import Ages, State
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

_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_ONLY = np.uint32(0)  # the class of every row where uses are not counted


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
    before: npt.NDArray[np.uint64]  # (m,), stamp << 32 | last seen as they were; if `unmeet` may be called
    uses_before: npt.NDArray[np.uint32]  # (m,), the uses as they were; the same, where uses are counted
    slots: Slots  # (n,), slots by number; the first m belong to the distinct keys
    vectors: Floats  # (n, columns), the first columns of the rows by number


class RowLines(NamedTuple):
    """Columns of a row, one on each cache line that a kernel needs of it: what `ask_for_row` prefetches.

    They are computed once for a batch, since a prefetch takes nearly a nanosecond even if its line is on the
    way already. A row does not begin at a line boundary, so the last column of a part has its own prefetch.
    """

    second: int  # beside the first column, which is always asked for
    inner: int  # the last column of the part that begins at column 0
    stop: int  # where the steps through this part end
    tail: int  # the first column of the part at the end; 0: there is one part alone
    stamp: int  # the stamp, if it is far from the end; otherwise 0
    last: int  # the last column


@njit(cache=True, nogil=True, forceinline=True)
def lines_of(bits, width, rules):
    """The lines of a row's first `width` columns, stamp and uses, last seen, count and key."""
    last = bits.shape[1] - 1
    tail, stamp = bits.shape[1] - TAIL, 0
    if rules.classes > 0:
        if last - rules.age_column <= WIDE:  # the lines of these two columns are all that lie between them
            tail = rules.age_column
        else:
            stamp = rules.age_column
    if tail - width < WIDE:  # no line lies between the two parts
        return RowLines(min(WIDE, last), last, last, 0, stamp, last)
    inner = max(width - 1, 0)
    return RowLines(min(WIDE, inner), inner, inner + WIDE, tail, stamp, last)


@njit(cache=True, nogil=True, forceinline=True)
def ask_for_row(bits, slot, lines):
    """Prefetch lines of a row."""
    prefetch(bits, slot, 0)
    prefetch(bits, slot, lines.second)
    prefetch(bits, slot, lines.last)
    for column in range(2 * WIDE, lines.stop, WIDE):
        prefetch(bits, slot, min(column, lines.inner))
    if lines.tail > 0:
        prefetch(bits, slot, lines.tail)
    if lines.stamp > 0:
        prefetch(bits, slot, lines.stamp)


@njit(cache=True, nogil=True, forceinline=True)
def ask_for_end(bits, slot):
    """Prefetch the lines of last seen and of the key."""
    prefetch(bits, slot, bits.shape[1] - TAIL)
    prefetch(bits, slot, bits.shape[1] - 1)


@njit(cache=True, nogil=True)
def meet(store, rules, sightings, first_time, last_time, sure):
    """Find the distinct keys of a batch; record the sightings of keys whose row exists throughout the batch.

    These are nearly all keys. Each is looked up once: its sightings only update last seen, stamp and
    uses of the row, and their order does not matter.

    Args:
        rules: the table's `Rules`.
        sightings: the batch; fills what rows said before, `slots` (UNSEEN for a key without such a row), and
            `vectors`.
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
    cells = borrow(store.held).reshape(store.held.size)
    alive = borrow(store.alive)
    state = borrow(store.state)
    keys, slots, vectors = borrow(sightings.distinct), borrow(sightings.slots), borrow(sightings.vectors)
    latest, stamps, tally = borrow(sightings.latest), borrow(sightings.stamps), borrow(sightings.tally)
    before, uses_before = borrow(sightings.before), borrow(sightings.uses_before)
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
    bounds, clock = limit_of(ages), counting(store.held, ages)
    lines = lines_of(bits, width, rules)
    guess(buckets, state, keys, slots)
    for i in range(m):
        soon = max(slots[min(i + AHEAD, m - 1)], 0)
        ask_for_row(bits, soon, lines)
        prefetch_element(listed, soon >> 3)
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
                    stamp, now = bits[at, age_column], stamps[i]
                    bits[at, age_column] = now
                    written |= stamp != now
                    if not sure:
                        before[i] = np.uint64(stamp) << _HALF | np.uint64(seen)
                    if rules.classes > 1:
                        uses = bits[at, age_column + one]
                        uses_now = used(uses, tally[i])
                        bits[at, age_column + one] = uses_now
                        written = True
                        if not sure:
                            uses_before[i] = uses
                        rank, rank_now = rank_of(uses, rules), rank_of(uses_now, rules)
                        count_again(cells, clock, stamp, rank, now, rank_now)
                    else:
                        count_again(cells, clock, stamp, _ONLY, now, _ONLY)
                touched_count = mark_if(listed, touched, touched_count, at, written)
        if slot >= 0:
            copy(rows, np.uint64(slot), 0, vectors, i, 0, width)
        else:
            slot = UNSEEN
            unseen += 1
        slots[i] = slot
    state[State.TOUCHED] = touched_count
    if evicts and ttl_s > 0:
        settle(cells, ages)
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
            bits[slot, rules.age_column] = np.uint32(before[i] >> _HALF)
            bits[slot, seen_column] = np.uint32(before[i] & _LOW)
            if rules.classes > 1:
                bits[slot, rules.age_column + 1] = sightings.uses_before[i]


@njit(cache=True, nogil=True)
def find(buckets, slot_key, bits, ages, state, rules, keys, times, slots):
    """The slot of each key (n,), -1 if it has no row at its time: slots (n,) int64, out. Changes nothing."""
    buckets, slot_key, bits = borrow(buckets), borrow(slot_key), borrow(bits)
    state, ages = borrow(state), borrow(ages)
    keys, slots = borrow(keys), borrow(slots)
    n = keys.shape[0]
    guess(buckets, state, keys, slots)
    for i in range(n):
        ask_for_end(bits, max(slots[min(i + AHEAD, n - 1)], 0))
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
    lines = lines_of(bits, rows.shape[1], rules)
    for first in range(0, keys.shape[0], PUT_AT_ONCE):
        last = min(first + PUT_AT_ONCE, keys.shape[0])
        guess(buckets, state, keys[first:last], slots[first:last])
        for i in range(first, last):
            ask_for_row(bits, max(slots[min(i + AHEAD, last - 1)], 0), lines)
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
def delete(store, rules, keys, removed, counted, now):
    """Remove keys; `removed` (n,) uint64, out: the keys that were there. Returns how many.

    `counted`: also remove rows that exist at `now`, or at the table's clock if that is later, from eviction's
    counts. A sweep changes none: so it does not matter whether one has met a row before.
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
    now = max(now, ages[Ages.NEWEST])
    count = 0
    for first in range(0, keys.shape[0], PUT_AT_ONCE):
        last = min(first + PUT_AT_ONCE, keys.shape[0])
        guess(buckets, state, keys[first:last], slots[first:last])
        for i in range(first, last):
            ask_for_end(bits, max(slots[min(i + AHEAD, last - 1)], 0))
            slot = slots[i]
            # an earlier key of this call may have been the same
            if slot >= 0 and (slot_key[slot] != keys[i] or in_use[slot] == 0):
                slot = locate(buckets, slot_key, state, keys[i])
            if slot < 0:
                continue
            if counted and rules.classes > 0 and exists(bits, ages, slot, now, rules):
                leave(bits, held, ages, slot, rules)
            if rules.ttl_s > 0 and rules.classes == 0:
                count_out(store.alive, ages, bits[slot, bits.shape[1] - TAIL], rules)
            remove(buckets, state, keys[i], slot)
            release(in_use, free, state, slot)
            removed[count] = keys[i]
            count += 1
    state[State.DELETED] += count
    return count

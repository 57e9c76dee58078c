"""Whether a row has expired or was evicted, and sweeps that free such rows."""

import numpy as np
from numba import njit

from embeddings.core.eviction import beyond, evicted, limit_of
from embeddings.core.index import ask, remove
from embeddings.core.lifetimes import advance, cell_of, floor_at
from embeddings.core.positions import State
from embeddings.core.slots import release
from embeddings.core.store import AHEAD, TAIL
from ground.kernels.intrinsics import borrow, prefetch


@njit(cache=True, nogil=True, forceinline=True)
def gone(seen, now, ttl_s, tick_s):
    """Whether a row last seen at `seen` no longer exists at `now`."""
    if tick_s > 1:
        now -= now % tick_s
    return ttl_s > 0 and seen + ttl_s < now


@njit(cache=True, nogil=True, forceinline=True)
def exists(bits, ages, slot, now, rules):
    """Whether the row at a slot in use exists at `now`: neither expired nor evicted."""
    if rules.ttl_s > 0 and gone(np.int64(bits[slot, bits.shape[1] - TAIL]), now, rules.ttl_s, rules.tick_s):
        return False
    return not evicted(bits, ages, slot, rules)


@njit(cache=True, nogil=True)
def _give_back(store, removed, first, last):
    """Free the slots listed in removed[first:last], and replace each slot by its key."""
    buckets, slot_key = borrow(store.buckets), borrow(store.slot_key)
    in_use, free, state = borrow(store.in_use), borrow(store.free), borrow(store.state)
    for step in range(first, last + AHEAD):
        if step < last:
            ask(buckets, state, slot_key[np.int64(removed[step])])
        i = step - AHEAD
        if i < first:
            continue
        slot = np.int64(removed[i])
        remove(buckets, state, slot_key[slot], slot)
        release(in_use, free, state, slot)
        removed[i] = slot_key[slot]


@njit(cache=True, nogil=True)
def sweep_evicted(store, rules, budget, removed, count):
    """Free evicted rows among the next `budget` slots of the hand; returns the new count."""
    first = count
    bits, in_use = borrow(store.bits), borrow(store.in_use)
    ages, state = borrow(store.ages), borrow(store.state)
    start = state[State.HAND]
    state[State.HAND] = max(min(start + budget, state[State.HAND_END]), start)
    bounds = limit_of(ages)
    last = bits.shape[0] - 1
    for slot in range(start, state[State.HAND]):
        prefetch(bits, min(slot + AHEAD, last), rules.age_column)  # lines of these rows are not consecutive
        removed[count] = np.uint64(slot)  # overwritten by the next slot if this row stays: no branch
        count += np.int64((in_use[slot] != 0) & beyond(bits, bounds, slot, rules))
    _give_back(store, removed, first, count)
    return count


@njit(cache=True, nogil=True)
def sweep_expired(store, rules, now, budget, removed, count):
    """Free rows whose whole cell has expired by `now` among the next `budget` slots; returns the new count.

    The sweep continues where the last one ended. An expired row in a cell that has not expired stays and
    is counted: the fullness of a table must not depend on when it is swept.
    """
    first = count
    bits, in_use, state = borrow(store.bits), borrow(store.in_use), borrow(store.state)
    seen_column = bits.shape[1] - TAIL
    last = bits.shape[0] - 1
    floor = floor_at(now, rules)
    for _ in range(min(budget, state[State.HIGH])):
        slot = state[State.SWEEP]
        if slot >= state[State.HIGH]:
            slot = 0
        state[State.SWEEP] = slot + 1
        prefetch(bits, min(slot + AHEAD, last), seen_column)
        if in_use[slot] != 0 and cell_of(bits[slot, seen_column], rules) < floor:
            removed[count] = np.uint64(slot)
            count += 1
    _give_back(store, removed, first, count)
    state[State.EXPIRED] += count - first
    return count


@njit(cache=True, nogil=True)
def sweep(store, rules, now, budget, removed):
    """`sweep_expired` on its own; returns how many rows it freed, as `delete` does."""
    if rules.classes == 0:
        advance(store.alive, store.ages, now, rules)
    return sweep_expired(store, rules, now, budget, removed, 0)

"""Expiry in event time: a row unseen for longer than its lifetime does not exist, swept or not."""

import numpy as np
from numba import njit

from embeddings.index import remove
from embeddings.intrinsics import borrow
from embeddings.slots import release
from embeddings.store import EXPIRED, HIGH, IN_USE, SWEEP


@njit(cache=True, nogil=True, forceinline=True)
def gone(seen, now, ttl_s, tick_s):  # type: ignore[no-untyped-def]
    """Whether a row last seen at `seen` no longer exists at `now`."""
    if tick_s > 1:
        now -= now % tick_s
    return ttl_s > 0 and seen + ttl_s < now


@njit(cache=True, nogil=True)
def sweep(store, now, ttl_s, tick_s, budget, removed):  # type: ignore[no-untyped-def]
    """Free the expired among the next `budget` slots, in turn; returns how many, as `delete` does."""
    buckets = borrow(store.buckets)
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
            remove(buckets, slot_key, state, key)
            release(flags, free, state, slot)
            removed[count] = key
            count += 1
    state[EXPIRED] += count
    return count

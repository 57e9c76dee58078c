"""The index from key to slot: bucketised cuckoo hashing that grows by one bucket at a time.

A key lives in one of two buckets of one cache line each, so a lookup touches at most two lines, and
taking a key out frees its lane at once (Pagh and Rodler 2004; Dietzfelbinger and Weidling 2007 for
buckets). Growth is linear hashing (Litwin 1980): the bucket at the split pointer gives the keys that
now belong to its twin, at the end of the table, away. A bucket's keys always fit into its twin, so
there is no rehash, no second table to look into while growing, and no step longer than the others.

The two addresses of a key are the lower and the upper half of its mixed bits; since mixing is a
bijection, no two keys share both at every size.
"""

import numpy as np
from numba import njit

from embeddings.store import BASE, LANES, LIVE, SPLIT
from ground.mixing import mix

_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(32)
_FIRST = 10  # the first slot's column in `entries`
_NODES = 300  # buckets visited for one insertion: four moves deep


@njit(cache=True, nogil=True, forceinline=True)
def address(half, base, size):  # type: ignore[no-untyped-def]
    """The bucket of one half of a key's mixed bits, among `size` buckets, `base` before the doubling."""
    a = half & (2 * base - 1)
    if a >= size:
        a &= base - 1
    return a


@njit(cache=True, nogil=True, forceinline=True)
def first_half(h):  # type: ignore[no-untyped-def]
    """Lower half of mixed bits."""
    return np.int64(h & _LOW)


@njit(cache=True, nogil=True, forceinline=True)
def second_half(h):  # type: ignore[no-untyped-def]
    """Upper half of mixed bits."""
    return np.int64(h >> _HIGH)


@njit(cache=True, nogil=True, forceinline=True)
def lane_of(keys, entries, bucket, key):  # type: ignore[no-untyped-def]
    """The lane of `key` in a bucket, or -1. Any key is legal: an empty lane is told by its slot."""
    for lane in range(LANES):
        if keys[bucket, lane] == key and entries[bucket, _FIRST + lane] != 0:
            return lane
    return -1


@njit(cache=True, nogil=True, forceinline=True)
def free_lane(entries, bucket):  # type: ignore[no-untyped-def]
    """An empty lane of a bucket, or -1."""
    for lane in range(LANES):
        if entries[bucket, _FIRST + lane] == 0:
            return lane
    return -1


@njit(cache=True, nogil=True, forceinline=True)
def locate(keys, entries, base, size, key):  # type: ignore[no-untyped-def]
    """The slot of `key`, or -1. (Plain arrays, not a store: taking it apart for each id would cost more.)"""
    h = mix(key)
    bucket = address(first_half(h), base, size)
    lane = lane_of(keys, entries, bucket, key)
    if lane < 0:
        bucket = address(second_half(h), base, size)
        lane = lane_of(keys, entries, bucket, key)
        if lane < 0:
            return np.int64(-1)
    return np.int64(entries[bucket, _FIRST + lane]) - 1


@njit(cache=True, nogil=True)
def remove(keys, entries, state, key):  # type: ignore[no-untyped-def]
    """Take `key` out; its lane is free at once. True if it was there."""
    h = mix(key)
    base = state[BASE]
    size = base + state[SPLIT]
    bucket = address(first_half(h), base, size)
    lane = lane_of(keys, entries, bucket, key)
    if lane < 0:
        bucket = address(second_half(h), base, size)
        lane = lane_of(keys, entries, bucket, key)
        if lane < 0:
            return False
    entries[bucket, _FIRST + lane] = 0
    return True


@njit(cache=True, nogil=True)
def split(keys, entries, state):  # type: ignore[no-untyped-def]
    """Grow by one bucket. False if the reserved room is used up."""
    base = state[BASE]
    old = state[SPLIT]
    new = base + old
    if new >= keys.shape[0]:
        return False
    for lane in range(LANES):
        entry = entries[old, _FIRST + lane]
        if entry == 0:
            continue
        key = keys[old, lane]
        h = mix(key)
        if address(first_half(h), base, new + 1) != old and address(second_half(h), base, new + 1) != old:
            keys[new, lane] = key
            entries[new, _FIRST + lane] = entry
            entries[old, _FIRST + lane] = 0
    state[SPLIT] = old + 1
    if old + 1 == base:
        state[BASE] = 2 * base
        state[SPLIT] = 0
    return True


@njit(cache=True, nogil=True)
def _place_by_moves(keys, entries, path, state, key, slot, a, b):  # type: ignore[no-untyped-def]
    """Place `key`, both of whose buckets are full, by moving others to their alternative: breadth first.

    Nothing moves before a whole path to an empty lane is known, so a failure leaves no trace.
    """
    # columns: bucket, parent node, lane of the parent's entry that would come here
    base = state[BASE]
    size = base + state[SPLIT]
    path[0, 0], path[0, 1], path[0, 2] = a, -1, -1
    path[1, 0], path[1, 1], path[1, 2] = b, -1, -1
    known = 2
    node = 0
    while node < known:
        bucket = path[node, 0]
        lane = free_lane(entries, bucket)
        if lane >= 0:
            while path[node, 1] >= 0:
                parent = path[path[node, 1], 0]
                source = path[node, 2]
                keys[bucket, lane] = keys[parent, source]
                entries[bucket, _FIRST + lane] = entries[parent, _FIRST + source]
                node = path[node, 1]
                bucket = parent
                lane = source
            keys[bucket, lane] = key
            entries[bucket, _FIRST + lane] = np.uint32(slot + 1)
            return True
        for lane in range(LANES):
            if known >= _NODES:
                break
            h = mix(keys[bucket, lane])
            other = address(first_half(h), base, size)
            if other == bucket:
                other = address(second_half(h), base, size)
            ancestor = node
            while ancestor >= 0 and path[ancestor, 0] != other:
                ancestor = path[ancestor, 1]
            if ancestor < 0:
                path[known, 0], path[known, 1], path[known, 2] = other, node, lane
                known += 1
        node += 1
    return False


@njit(cache=True, nogil=True)
def place(keys, entries, path, state, key, slot, load_max):  # type: ignore[no-untyped-def]
    """Put an absent `key` in, growing by a bucket when fuller than `load_max`. False if there is no room.

    Room is out only when the reserve is, or when more keys than two buckets hold were made to share
    both addresses on purpose: growth for the sake of one key stops at a twentieth of `load_max`.
    """
    if state[LIVE] + 1 > load_max * LANES * (state[BASE] + state[SPLIT]):
        split(keys, entries, state)
    h = mix(key)
    while True:
        base = state[BASE]
        size = base + state[SPLIT]
        a = address(first_half(h), base, size)
        lane = free_lane(entries, a)
        bucket = a
        if lane < 0:
            bucket = address(second_half(h), base, size)
            lane = free_lane(entries, bucket)
        if lane >= 0:
            keys[bucket, lane] = key
            entries[bucket, _FIRST + lane] = np.uint32(slot + 1)
            return True
        if _place_by_moves(keys, entries, path, state, key, slot, a, bucket):
            return True
        if 20 * state[LIVE] < load_max * LANES * size and size > 64:
            return False
        if not split(keys, entries, state):
            return False

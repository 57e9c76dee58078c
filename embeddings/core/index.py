"""The index from key to slot: bucketised cuckoo hashing that grows by one bucket at a time.

A key is in one of two buckets of one cache line each, so a lookup reads at most two lines of the index,
and removing a key frees its lane at once (Pagh and Rodler 2004; Dietzfelbinger and Weidling 2007 for
buckets). A lane holds 32 bits of the key's hash, its *tag*, and the slot; the key itself is stored with the
row and compared there. The tag determines both buckets, so entries move without reading their keys (as in
a cuckoo filter, Fan et al. 2014).

The index grows by linear hashing (Litwin 1980): the bucket at the split pointer moves part of its entries
to a new bucket at the end of the table, its twin. They always fit, so there is no rehash, no second table
during growth, and no step that takes longer than the others.

Keys are hashed with a random salt per table: nobody can prepare ids that all fall into one bucket. The salt
decides where an entry lies and nothing else; slots and rows do not depend on it.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from embeddings.core.positions import Path, State
from embeddings.core.store import AHEAD, LANES, LOAD_MAX
from ground.kernels.intrinsics import borrow, fence, lanes_with, lowest_bit, prefetch
from ground.kernels.mixing import mix

_SLOT = np.uint64(0xFFFFFFFF)  # the low half of an entry: slot + 1; an empty lane is 0
_TAG = np.uint64(32)
_ONE = np.uint64(1)
_SECOND = np.uint64(0x9E3779B97F4A7C15)
_SECOND_SHIFT = np.uint64(33)
_NODES = 300  # buckets visited for one insertion: three moves deep


@njit(cache=True, nogil=True, forceinline=True)
def tag_of(state, key):
    """The tag of `key`: 32 bits of its hash. It is odd, so it differs from an empty lane."""
    return (mix(key ^ np.uint64(state[State.SALT])) >> _TAG) | _ONE


@njit(cache=True, nogil=True, forceinline=True)
def _address(half, base, size):
    a = half & (2 * base - 1)
    b = half & (base - 1)
    return a if a < size else b


@njit(cache=True, nogil=True, forceinline=True)
def first_bucket(tag, base, size):
    """The preferred bucket of a tag among `size` buckets; `base` was the size at the last doubling."""
    return _address(np.int64(tag >> _ONE), base, size)


@njit(cache=True, nogil=True, forceinline=True)
def second_bucket(tag, base, size):
    """The alternative bucket of a tag."""
    return _address(np.int64((tag * _SECOND) >> _SECOND_SHIFT), base, size)


@njit(cache=True, nogil=True, forceinline=True)
def ask_tag(buckets, state, tag):
    """Prefetch both buckets of a tag."""
    base = state[State.BASE]
    size = base + state[State.SPLIT]
    prefetch(buckets, first_bucket(tag, base, size), 0)
    prefetch(buckets, second_bucket(tag, base, size), 0)


@njit(cache=True, nogil=True, forceinline=True)
def ask(buckets, state, key):
    """Prefetch both buckets of a key."""
    ask_tag(buckets, state, tag_of(state, key))


@njit(cache=True, nogil=True, forceinline=True)
def _slot_with_tag(buckets, bucket, tag):
    """The slot of an entry with this tag in a bucket, or -1. Without branches."""
    lanes = lanes_with(buckets, bucket, tag)
    slot = np.int64(buckets[bucket, lowest_bit(lanes | np.int64(1 << (LANES - 1)))] & _SLOT) - 1
    return slot if lanes != 0 else np.int64(-1)


@njit(cache=True, nogil=True, forceinline=True)
def guess_one(buckets, state, tag):
    """The slot of one key by its tag alone, as in `guess`."""
    base = state[State.BASE]
    size = base + state[State.SPLIT]
    first = _slot_with_tag(buckets, first_bucket(tag, base, size), tag)
    second = _slot_with_tag(buckets, second_bucket(tag, base, size), tag)
    return max(first, second)


@njit(cache=True, nogil=True)
def guess(buckets, state, keys, slots):
    """The slot of each key (n,) by its tag alone: slots (n,) int64, out. Callers must compare the key.

    If the tag is in neither bucket, the key is absent: -1. Both buckets are prefetched and both are
    searched without a branch: after a while about half of the keys are in their second bucket.
    """
    keys, slots = borrow(keys), borrow(slots)
    n = keys.shape[0]
    base = state[State.BASE]
    size = base + state[State.SPLIT]
    for step in range(n + AHEAD):
        if step < n:
            tag = tag_of(state, keys[step])
            slots[step] = np.int64(tag)
            prefetch(buckets, first_bucket(tag, base, size), 0)
            prefetch(buckets, second_bucket(tag, base, size), 0)
        i = step - AHEAD
        if i >= 0:
            tag = np.uint64(slots[i])
            first = _slot_with_tag(buckets, first_bucket(tag, base, size), tag)
            second = _slot_with_tag(buckets, second_bucket(tag, base, size), tag)
            slots[i] = max(first, second)


@njit(cache=True, nogil=True)
def _lane_of(buckets, slot_key, bucket, tag, key):
    lanes = lanes_with(buckets, bucket, tag)
    while lanes != 0:
        lane = lowest_bit(lanes)
        if slot_key[np.int64(buckets[bucket, lane] & _SLOT) - 1] == key:
            return lane
        lanes &= lanes - 1
    return np.int64(-1)


@njit(cache=True, nogil=True, forceinline=True)
def _free_lane(buckets, bucket):
    lanes = lanes_with(buckets, bucket, np.uint64(0))
    return lowest_bit(lanes) if lanes != 0 else np.int64(-1)


@njit(cache=True, nogil=True)
def _where(buckets, slot_key, state, key):
    """(bucket, lane) of `key`; lane -1 if it is absent."""
    tag = tag_of(state, key)
    base = state[State.BASE]
    size = base + state[State.SPLIT]
    bucket = first_bucket(tag, base, size)
    lane = _lane_of(buckets, slot_key, bucket, tag, key)
    if lane < 0:
        bucket = second_bucket(tag, base, size)
        lane = _lane_of(buckets, slot_key, bucket, tag, key)
    return bucket, lane


@njit(cache=True, nogil=True)
def _slot_among(buckets, slot_key, state, key):
    bucket, lane = _where(buckets, slot_key, state, key)
    if lane < 0:
        return np.int64(-1)
    return np.int64(buckets[bucket, lane] & _SLOT) - 1


@njit(cache=True, nogil=True, forceinline=True)
def locate(buckets, slot_key, state, key):
    """The slot of `key`, or -1. (Arguments are arrays: passing a store for each id would be slower.)

    An absent key costs no call: handing three arrays to a function takes longer than looking at two lines.
    """
    tag = tag_of(state, key)
    base = state[State.BASE]
    size = base + state[State.SPLIT]
    lanes = lanes_with(buckets, first_bucket(tag, base, size), tag)
    lanes |= lanes_with(buckets, second_bucket(tag, base, size), tag)
    return np.int64(-1) if lanes == 0 else _slot_among(buckets, slot_key, state, key)


@njit(cache=True, nogil=True, forceinline=True)
def remove(buckets, state, key, slot):
    """Remove `key`, which has this slot, and free its lane at once. Reads no row."""
    tag = tag_of(state, key)
    entry = (tag << _TAG) | np.uint64(slot + 1)
    base = state[State.BASE]
    size = base + state[State.SPLIT]
    for bucket in (first_bucket(tag, base, size), second_bucket(tag, base, size)):
        lanes = lanes_with(buckets, bucket, tag)
        while lanes != 0:
            lane = lowest_bit(lanes)
            if buckets[bucket, lane] == entry:
                buckets[bucket, lane] = np.uint64(0)
                return
            lanes &= lanes - 1


def make_room(buckets: npt.NDArray[np.uint64], state: npt.NDArray[np.int64], rows: int) -> None:
    """Give an empty index the size that it would reach with this many rows."""
    size = min(int(rows / (LANES * LOAD_MAX)) + 1, len(buckets))
    if state[State.LIVE] == 0 and size > state[State.BASE] + state[State.SPLIT]:
        state[State.BASE] = 1 << (size.bit_length() - 1)
        state[State.SPLIT] = size - state[State.BASE]


@njit(cache=True, nogil=True)
def _split(buckets, state):
    """Grow by one bucket; returns False if the reserved memory is used up."""
    base = state[State.BASE]
    old = state[State.SPLIT]
    new = base + old
    if new >= buckets.shape[0]:
        return False
    state[State.MOVED] += 1
    fence()
    for lane in range(LANES):
        entry = buckets[old, lane]
        if entry == np.uint64(0):
            continue
        tag = entry >> _TAG
        if first_bucket(tag, base, new + 1) != old and second_bucket(tag, base, new + 1) != old:
            buckets[new, lane] = entry
            buckets[old, lane] = np.uint64(0)
    state[State.SPLIT] = old + 1
    if old + 1 == base:
        state[State.SPLIT] = 0
        fence()  # a reader that sees only one of the two writes must see a smaller table, not a larger one
        state[State.BASE] = 2 * base
    fence()
    state[State.MOVED] += 1
    return True


@njit(cache=True, nogil=True)
def _insert_by_moves(buckets, path, state, new_entry, a, b):
    """Insert an entry whose two buckets are full: move other entries to their alternative bucket.

    A breadth-first search finds a path to an empty lane first; if there is none, nothing has changed.
    """
    base = state[State.BASE]
    size = base + state[State.SPLIT]
    path[0, Path.BUCKET], path[0, Path.PARENT], path[0, Path.LANE] = a, -1, -1
    path[1, Path.BUCKET], path[1, Path.PARENT], path[1, Path.LANE] = b, -1, -1
    known = 2
    node = 0
    while node < known:
        bucket = path[node, Path.BUCKET]
        lane = _free_lane(buckets, bucket)
        if lane >= 0:
            state[State.MOVED] += 1
            fence()
            while path[node, Path.PARENT] >= 0:
                parent = path[path[node, Path.PARENT], Path.BUCKET]
                source = path[node, Path.LANE]
                buckets[bucket, lane] = buckets[parent, source]
                node = path[node, Path.PARENT]
                bucket = parent
                lane = source
            buckets[bucket, lane] = new_entry
            fence()
            state[State.MOVED] += 1
            return True
        for lane in range(LANES):
            if known >= _NODES:
                break
            tag = buckets[bucket, lane] >> _TAG
            other = first_bucket(tag, base, size)
            if other == bucket:
                other = second_bucket(tag, base, size)
            ancestor = node
            while ancestor >= 0 and path[ancestor, Path.BUCKET] != other:
                ancestor = path[ancestor, Path.PARENT]
            if ancestor < 0:
                path[known, Path.BUCKET], path[known, Path.PARENT], path[known, Path.LANE] = other, node, lane
                known += 1
        node += 1
    return False


@njit(cache=True, nogil=True, forceinline=True)
def insert(buckets, path, state, key, slot):
    """Insert an absent `key`; grow by a bucket above LOAD_MAX. Returns False if there is no room.

    There is no room if the reserved memory is used up, or if more keys have the same tag than two buckets
    hold: the index does not grow for one key while its load is below a twentieth of LOAD_MAX.
    """
    if state[State.LIVE] + 1 > LOAD_MAX * LANES * (state[State.BASE] + state[State.SPLIT]):
        _split(buckets, state)
    base = state[State.BASE]
    size = base + state[State.SPLIT]
    tag = tag_of(state, key)
    entry = (tag << _TAG) | np.uint64(slot + 1)
    bucket = first_bucket(tag, base, size)
    lane = _free_lane(buckets, bucket)
    if lane < 0:
        bucket = second_bucket(tag, base, size)
        lane = _free_lane(buckets, bucket)
    if lane >= 0:
        buckets[bucket, lane] = entry
        return True
    return _insert_crowded(buckets, path, state, tag, entry)


@njit(cache=True, nogil=True)
def _insert_crowded(buckets, path, state, tag, entry):
    """`insert` where both buckets are full, or nearly so after a split."""
    while True:
        base = state[State.BASE]
        size = base + state[State.SPLIT]
        a = first_bucket(tag, base, size)
        lane = _free_lane(buckets, a)
        bucket = a
        if lane < 0:
            bucket = second_bucket(tag, base, size)
            lane = _free_lane(buckets, bucket)
        if lane >= 0:
            buckets[bucket, lane] = entry
            return True
        if _insert_by_moves(buckets, path, state, entry, a, bucket):
            return True
        if 20 * state[State.LIVE] < LOAD_MAX * LANES * size and size > 64:
            return False
        if not _split(buckets, state):
            return False

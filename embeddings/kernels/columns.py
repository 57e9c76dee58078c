"""Read and write columns of rows by slot, a batch at a time.

A slot of -1 means "no row": it reads as zeros and is never written. Kernels that do little take the arrays of
a `Store` that they need: passing all of them takes 2 µs.
"""

import numpy as np
from numba import njit

from embeddings.core.lifetimes import advance, renew
from embeddings.core.slots import mark
from embeddings.core.store import AHEAD, TAIL
from embeddings.core.versions import begin_write, end_write
from ground.kernels.intrinsics import borrow, prefetch, prefetch_element
from ground.kernels.simd import WIDE, copy

_COUNT_MAX = np.int64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def within(slots, high):
    """Whether each of the slots (n,) is -1 or from 0 to high - 1."""
    outside = False
    for i in range(slots.shape[0]):
        outside |= (slots[i] >= high) | (slots[i] < -1)
    return not outside


@njit(cache=True, nogil=True)
def gather(bits, slots, first, out):
    """Copy columns first.. of rows `bits` (R, W) at `slots` (n,) into `out` (n, columns); -1 gives zeros."""
    n = slots.shape[0]
    width = out.shape[1]
    for i in range(n):
        soon = max(slots[min(i + AHEAD, n - 1)], 0)
        for column in range(first, first + width, WIDE):
            prefetch(bits, soon, column)
        prefetch(bits, soon, first + width - 1)
        slot = slots[i]
        if slot >= 0:
            copy(bits, slot, first, out, i, 0, width)
        else:
            out[i, :] = 0


@njit(cache=True, nogil=True)
def scatter(bits, versions, listed, touched, state, slots, first, values):
    """Copy `values` (n, columns), as uint32 bits, into columns first.. of the rows at `slots` (n,)."""
    bits, versions, listed = borrow(bits), borrow(versions), borrow(listed)
    touched, state = borrow(touched), borrow(state)
    n = slots.shape[0]
    width = values.shape[1]
    for i in range(n):
        soon = max(slots[min(i + AHEAD, n - 1)], 0)
        for column in range(first, first + width, WIDE):
            prefetch(bits, soon, column)
        prefetch(bits, soon, first + width - 1)
        prefetch_element(listed, soon >> 3)
        slot = slots[i]
        if slot >= 0:
            begin_write(versions, slot)
            copy(values, i, 0, bits, slot, first, width)
            end_write(versions, slot)
            mark(listed, touched, state, slot)


@njit(cache=True, nogil=True)
def touch(bits, listed, touched, state, in_use, alive, ages, rules, slots, times, increments):
    """Raise last seen to `times` if that is later; add `increments` to the count, up to 2³²-1."""
    bits, listed, touched, state = borrow(bits), borrow(listed), borrow(touched), borrow(state)
    n = slots.shape[0]
    seen_column = bits.shape[1] - TAIL
    for i in range(n):
        soon = max(slots[min(i + AHEAD, n - 1)], 0)
        prefetch(bits, soon, seen_column)
        prefetch_element(listed, soon >> 3)
        slot = slots[i]
        if slot >= 0:
            if times[i] > bits[slot, seen_column]:
                # The slot may have been freed since the caller got it.
                if rules.ttl_s > 0 and rules.classes == 0 and in_use[slot] != 0:
                    advance(alive, ages, np.int64(times[i]), rules)
                    renew(alive, ages, bits[slot, seen_column], times[i], rules)
                bits[slot, seen_column] = times[i]
            count = np.int64(bits[slot, seen_column + 1]) + np.int64(increments[i])
            bits[slot, seen_column + 1] = np.uint32(min(count, _COUNT_MAX))
            mark(listed, touched, state, slot)


@njit(cache=True, nogil=True)
def mark_all(store, slots):
    """List the rows at `slots` (n,) as written."""
    listed = borrow(store.listed)
    touched = borrow(store.touched)
    state = borrow(store.state)
    for i in range(slots.shape[0]):
        if slots[i] >= 0:
            mark(listed, touched, state, slots[i])

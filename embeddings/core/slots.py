"""One slot at a time: take it for a key, initialise its row, mark it as written, free it.

Kernels over whole batches call these small functions. A freed row keeps its contents until its slot is
taken again; then every column is overwritten.
"""

import numpy as np
from numba import njit

from embeddings.core.index import insert
from embeddings.core.initializers import start_vector
from embeddings.core.positions import State
from embeddings.core.store import TAIL
from embeddings.core.versions import begin_write, end_write

_BYTE, _BIT, _ONE = np.uint64(3), np.uint64(7), np.uint64(1)


@njit(cache=True, nogil=True, forceinline=True)
def mark_if(listed, touched, count, slot, written):
    """List a slot as written since the last drain, if `written`; returns the number of listed slots.

    There is no branch: the processor could not predict whether a slot is listed already.
    """
    byte = np.uint64(slot) >> _BYTE
    bits = listed[byte]
    bit = np.uint8(_ONE << (np.uint64(slot) & _BIT))
    touched[np.uint64(count)] = np.uint32(slot)
    listed[byte] = bits | np.uint8(written) * bit
    return count + np.int64(written & (bits & bit == 0))


@njit(cache=True, nogil=True, forceinline=True)
def mark(listed, touched, state, slot):
    """List a slot as written since the last drain."""
    state[State.TOUCHED] = mark_if(listed, touched, state[State.TOUCHED], slot, True)


@njit(cache=True, nogil=True, forceinline=True)
def release(in_use, free, state, slot):
    """Free the slot of a key that left the index. The row keeps its contents until the slot is reused."""
    in_use[slot] = 0
    tail = state[State.FREE_TAIL]
    free[tail % free.shape[0]] = np.uint32(slot)
    state[State.FREE_TAIL] = tail + 1
    state[State.LIVE] -= 1


@njit(cache=True, nogil=True, forceinline=True)
def start_row(rows, bits, versions, template, slot, key, time, rules):
    """Write every column of a new row, then close it. Key and seed determine its vector."""
    for j in range(template.shape[0]):
        rows[slot, j] = template[j]
    start_vector(rows[slot], key, rules.dim, rules.init, rules.init_scale, rules.seed)
    bits[slot, bits.shape[1] - TAIL] = time
    end_write(versions, slot)


@njit(cache=True, nogil=True, forceinline=True)
def take_slot(buckets, path, slot_key, versions, in_use, free, state, key, usable):
    """Insert an absent key and return its slot, open for writing (`begin_write`); -1 if the table is full.

    Free slots at or after position `usable` of the ring are not reused: the caller may still hold them
    from earlier in this batch.
    """
    head = state[State.FREE_HEAD]
    if head < usable:
        slot = np.int64(free[head % free.shape[0]])
    elif state[State.HIGH] < slot_key.shape[0]:
        slot = state[State.HIGH]
    else:
        return np.int64(-1)
    begin_write(versions, slot)  # before the key can be found
    if not insert(buckets, path, state, key, slot):
        end_write(versions, slot)
        return np.int64(-1)
    if head < usable:
        state[State.FREE_HEAD] = head + 1
    else:
        state[State.HIGH] = slot + 1
    slot_key[slot] = key
    in_use[slot] = 1
    state[State.LIVE] += 1
    return slot


@njit(cache=True, nogil=True)
def rewind(free, state):
    """Move the free slots to the beginning of their ring, if that costs no more than what was taken since.

    Otherwise the ring would in time be written all around, and take memory for every slot of the table.
    """
    size = free.shape[0]
    if state[State.FREE_HEAD] >= size:
        state[State.FREE_HEAD] -= size
        state[State.FREE_TAIL] -= size
    head, tail = state[State.FREE_HEAD], state[State.FREE_TAIL]
    if tail <= size and head >= tail - head:
        for i in range(tail - head):
            free[i] = free[head + i]
        state[State.FREE_HEAD] = 0
        state[State.FREE_TAIL] = tail - head

"""Look up and copy rows on any thread while another thread writes; each copy is consistent."""

import time
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from embeddings.core.index import guess, locate
from embeddings.core.positions import State
from embeddings.core.store import AHEAD, Store
from embeddings.core.versions import begin_read, is_whole
from embeddings.errors import TableError
from embeddings.kernels.expiry import exists
from embeddings.kernels.lookup import ask_for_row, lines_of
from embeddings.spec import Rules, TableSpec
from embeddings.types import Floats, Keys
from ground.kernels.intrinsics import borrow, fence
from ground.kernels.simd import copy

BUSY = np.int64(-2)
"""Instead of a slot: no consistent copy of the row in `_TRIES` tries."""

_TRIES = 100  # some microseconds: longer than a write of a row, unless the writing thread is not running

ROUNDS_MAX: Final = 2000
_PAUSE_S: Final = 0.001
"""ROUNDS_MAX pauses are 2 seconds: much longer than the scheduler keeps a runnable thread waiting."""


def read_whole(
    spec: TableSpec, store: Store, rules: Rules, keys: Keys, now: int
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The vectors (m, dim) of distinct keys (m,), zeros without a row, and which have a row at `now`, (m,).

    Raises:
        TableError: a row stayed open for writing; the writing thread seems to have stopped.
    """
    slots = np.empty(len(keys), dtype=np.int64)
    vectors = np.empty((len(keys), spec.dim), dtype=np.float32)
    busy = read(store, rules, keys, slots, np.int64(now), vectors)
    for _ in range(ROUNDS_MAX):
        if not busy:
            return vectors, slots >= 0
        time.sleep(_PAUSE_S)  # lets the writing thread run
        left = np.flatnonzero(slots == BUSY)
        part_slots, part = slots[left], vectors[left]
        busy = read(store, rules, keys[left], part_slots, np.int64(now), part)
        slots[left], vectors[left] = part_slots, part
    raise TableError(f"table {spec.name!r}: {busy} rows cannot be read: a writing thread stopped midway")


@njit(cache=True, nogil=True)
def read(store, rules, keys, slots, now, out):
    """Copy the first columns of the rows of keys (n,) that exist at `now`; zeros for keys without a row.

    Args:
        keys: (n,) uint64.
        slots: (n,) int64, out: the slot of each key, -1 without a row, BUSY if the caller must try again.
        out: (n, columns) float32, out.

    Returns:
        How many are BUSY.
    """
    buckets = borrow(store.buckets)
    slot_key = borrow(store.slot_key)
    versions = borrow(store.versions)
    bits = borrow(store.bits)
    rows = borrow(store.rows)
    ages = borrow(store.ages)
    state = borrow(store.state)
    keys, slots, out = borrow(keys), borrow(slots), borrow(out)
    n = keys.shape[0]
    busy = 0
    lines = lines_of(bits, out.shape[1], rules)
    guess(buckets, state, keys, slots)
    for i in range(n):
        ask_for_row(bits, max(slots[min(i + AHEAD, n - 1)], 0), lines)
        key = keys[i]
        slot = slots[i]
        result = BUSY
        for tries in range(_TRIES):
            moved = state[State.MOVED]
            fence()
            if slot < 0 or tries > 0:
                slot = locate(buckets, slot_key, state, key)
            if slot < 0:
                fence()
                # The search may miss an entry that moves from one bucket to the other.
                if moved & 1 == 0 and state[State.MOVED] == moved:
                    result = np.int64(-1)
                    break
                continue
            version = begin_read(versions, slot)
            owner = slot_key[slot]
            there = exists(bits, ages, slot, now, rules)
            copy(rows, np.uint64(slot), 0, out, i, 0, out.shape[1])
            if is_whole(versions, slot, version) and owner == key:
                result = slot if there else np.int64(-1)
                break
        slots[i] = result
        if result < 0:
            out[i, :] = 0
            busy += result == BUSY
    return busy

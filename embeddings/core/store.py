"""The arrays of a table, and the counters that its kernels update."""

import secrets
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embeddings.core.eviction import CLASSES, EVICTED_GENERATIONS, GENERATIONS, LIMIT_WORDS, PARTS
from embeddings.core.initializers import KINDS
from embeddings.core.lifetimes import CELLS, shift_of
from embeddings.core.memory import reserve, reserve_all
from embeddings.core.positions import AGES_SIZE, STATE_SIZE, Ages, Path, State
from embeddings.core.versions import STRIPES
from embeddings.spec import BATCH_MAX, SLOTS_SPARE, Rules, TableSpec

LANES = 8
"""Entries of an index bucket, 8 bytes each: one cache line."""

LOAD_MAX = 0.8
"""Load factor above which insertions split buckets of the index: about 10 bytes of index per key."""

AHEAD = 64
"""Prefetch distance: kernels prefetch a cache line this many ids before they use it."""

OWN_COLUMNS = 2
"""The key follows the last column of the row, so comparing it already loads part of the row."""

TAIL = 2 + OWN_COLUMNS
"""Columns from last seen to the end of a row in memory: last seen, count, the key's two halves."""


class Store(NamedTuple):
    """All arrays of one table. R is slots_max, W a row's width, B buckets, A lines of admission."""

    buckets: npt.NDArray[np.uint64]  # (B, LANES), the index: tag << 32 | slot + 1, 0 where empty
    rows: npt.NDArray[np.float32]  # (R, W + OWN_COLUMNS)
    bits: npt.NDArray[np.uint32]  # the same memory
    slot_key: npt.NDArray[np.uint64]  # (R,), a view of `rows`
    versions: npt.NDArray[np.uint32]  # (STRIPES,), odd while a row of the stripe is being written
    in_use: npt.NDArray[np.uint8]  # (R,), 1 where the slot holds a row
    listed: npt.NDArray[np.uint8]  # (R / 8,), one bit per slot, set if the slot is in `touched`
    touched: npt.NDArray[np.uint32]  # (R + 1,), slots written since the last drain, each once; 1 spare
    free: npt.NDArray[np.uint32]  # (R,), ring buffer of free slots
    template: npt.NDArray[np.float32]  # (W,), initial columns of a new row
    book: npt.NDArray[np.uint64]  # (A + E, 8), the memory of the next four arrays, saved with the rows
    filter_lines: npt.NDArray[np.uint64]  # (A, 8), the admission filter
    ages: npt.NDArray[np.int64]  # (AGES_SIZE,), eviction's clock and limit
    held: npt.NDArray[np.int64]  # (classes, generations), number of rows by uses and stamp
    age_times: npt.NDArray[np.int64]  # (generations,), latest sighting of each generation, Unix seconds
    # (CELLS,), rows by last seen, with a TTL and no eviction; the limits of a batch, (3 l,), of a table that
    # evicts the least frequent of rows that rest on disk; else (1,)
    alive: npt.NDArray[np.int64]
    line_changed: npt.NDArray[np.uint8]  # (A,), 1 where the line's number is in `changed`
    changed: npt.NDArray[np.uint32]  # (A,), filter lines written since the last drain, each once
    path: npt.NDArray[np.int64]  # (., len(Path)), scratch memory of an insertion
    state: npt.NDArray[np.int64]  # (STATE_SIZE,)


def _power_of_two(n: float) -> int:
    """The least power of two that is at least n."""
    return 1 << max(0, int(np.ceil(np.log2(max(n, 1.0)))))


def make_store(spec: TableSpec, memory_rows: int | None = None) -> Store:
    """An empty store. It reserves address space for all rows; memory is used as rows are written.

    Args:
        memory_rows: rows beyond so many rest on disk; None: all rows are in memory.
    """
    slots = spec.slots_max if memory_rows is None else slots_of(spec, memory_rows)
    # Twice the size for a full table: insertions can still split when a bucket and its alternatives are full.
    buckets_max = max(2 * _power_of_two(slots / (LANES * LOAD_MAX)), 16)
    rows, buckets, in_use, listed, touched, free = reserve_all(
        ((slots, spec.width + OWN_COLUMNS), np.float32),
        ((buckets_max, LANES), np.uint64),
        ((slots,), np.uint8),
        ((slots // 8 + 1,), np.uint8),
        ((slots + 1,), np.uint32),
        ((slots,), np.uint32),
    )
    lines = _power_of_two(spec.admission_capacity / 8) if spec.admit_after > 1 else 1
    classes, ring = CLASSES[spec.evict], GENERATIONS[spec.evict]
    cells = classes * ring
    age_lines = (AGES_SIZE + cells + ring) // 8 if classes else 0
    book = reserve((lines + age_lines, 8), np.uint64)
    clock = book[lines:].view(np.int64).reshape(-1) if classes else np.zeros(AGES_SIZE + 2, dtype=np.int64)
    if classes:
        clock[Ages.GENERATION] = clock[Ages.FLOOR] = 1
        clock[Ages.LEFT] = max(spec.rows_max // PARTS, 1)
        clock[Ages.MADE] = spec.rows_max
    state = np.zeros(STATE_SIZE, dtype=np.int64)
    state[State.SALT] = secrets.randbits(63)
    state[State.BASE] = min(max(_power_of_two(spec.capacity_initial / (LANES * LOAD_MAX)), 8), buckets_max)
    return Store(
        buckets=buckets,
        rows=rows,
        bits=rows.view(np.uint32),
        slot_key=np.ndarray((slots,), np.uint64, rows, 4 * spec.width, (rows.strides[0],)),
        versions=np.zeros(STRIPES, dtype=np.uint32),
        in_use=in_use,
        listed=listed,
        touched=touched,
        free=free,
        template=spec.template(),
        book=book,
        filter_lines=book[:lines],
        ages=clock[:AGES_SIZE],
        held=clock[AGES_SIZE : AGES_SIZE + max(cells, 1)].reshape(max(classes, 1), -1),
        age_times=clock[AGES_SIZE + max(cells, 1) :],
        alive=np.zeros(_alive_words(spec, memory_rows), dtype=np.int64),
        line_changed=np.zeros(lines, dtype=np.uint8),
        changed=np.zeros(lines, dtype=np.uint32),
        path=np.zeros((320, len(Path)), dtype=np.int64),
        state=state,
    )


def slots_of(spec: TableSpec, memory_rows: int) -> int:
    """Slots of a table with `memory_rows` rows in memory, and room for those that come until some leave."""
    return min(memory_rows + memory_rows // 4 + SLOTS_SPARE, spec.slots_max + SLOTS_SPARE)


def _alive_words(spec: TableSpec, memory_rows: int | None) -> int:
    if spec.ttl_s and spec.evict == "none":
        return CELLS
    if memory_rows is None or spec.evict != "least_frequent":
        return 1
    between = EVICTED_GENERATIONS * max(spec.rows_max // PARTS, 1)  # sightings between limits, at least
    return LIMIT_WORDS * (BATCH_MAX // between + 2)


def bytes_in_use(store: Store) -> int:
    """Bytes of rows, index, lists and filter that were written so far (not the reserved address space)."""
    high = int(store.state[State.HIGH])
    rows = high * (store.rows.strides[0] + store.touched.itemsize + store.in_use.itemsize) + high // 8
    freed = min(int(store.state[State.FREE_TAIL]), high) * store.free.itemsize
    index = int(store.state[State.BASE] + store.state[State.SPLIT]) * store.buckets.strides[0]
    return rows + freed + index + store.filter_lines.nbytes


def rules_of(spec: TableSpec) -> Rules:
    """The settings of a spec that kernels need."""
    return Rules(
        ttl_s=spec.ttl_s,
        tick_s=spec.tick_s,
        admit_after=spec.admit_after,
        admit_share=float(spec.admit_share),
        admit_age_s=spec.admit_age_s,
        seen_shift=shift_of(spec.ttl_s, spec.tick_s),
        crowded=spec.rows_max if spec.evict == "none" else spec.rows_max + spec.rows_max // 8,
        age_column=spec.age_column,
        classes=CLASSES[spec.evict],
        rows_max=spec.rows_max,
        dim=spec.dim,
        init=KINDS[spec.init],
        init_scale=float(spec.init_scale),
        seed=spec.seed,
    )

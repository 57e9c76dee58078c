"""Evidence by key and generation, in a bounded set-associative table.

A key (a column and an id, hashed to one tag) has one row of G cells, one per generation, each a
weight's evidence (b, L) and a stamp. A cell counts only while its stamp is the epoch of the
generation that now has its place, so dropping a generation of evidence from every row is one write.
Natural parameters add up: a key's weight is the sum of its live cells.

A tag's bucket is one cache line of eight tags. When all eight are taken the row with the least
evidence makes room. What a table answers depends on its live cells alone, never on leftovers.

Decay in event time is Cormode's forward decay: a cell is kept at the scale of its generation's
origin, and read times the generation's weight, 2^-((clock - origin) / half life). Nothing is swept.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ground.mixing import mix

WAYS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)


class Cells(NamedTuple):
    """The table; S rows (a power of two times `WAYS`), G generations."""

    tags: npt.NDArray[np.uint64]  # (S,), 0: free
    values: npt.NDArray[np.float32]  # (S, G, 2): (b, L) at the scale of the generation's origin
    stamps: npt.NDArray[np.uint32]  # (S, G)


class Generations(NamedTuple):
    """The G places that generations take. All arrays have shape (G,)."""

    epoch: npt.NDArray[np.uint32]  # rises with age's opposite; 0: free
    first: npt.NDArray[np.int64]  # least position of its examples
    last: npt.NDArray[np.int64]  # greatest
    examples: npt.NDArray[np.int64]  # how many it holds
    origin: npt.NDArray[np.float64]  # event time at which it opened, s
    weight: npt.NDArray[np.float64]  # what its cells are worth now; 0 where free


def make_cells(capacity: int, generations: int) -> Cells:
    """An empty table of at least `capacity` rows, rounded up to a power of two."""
    rows = max(WAYS, 1 << (capacity - 1).bit_length())
    return Cells(
        tags=np.zeros(rows, dtype=np.uint64),
        values=np.zeros((rows, generations, 2), dtype=np.float32),
        stamps=np.zeros((rows, generations), dtype=np.uint32),
    )


def make_generations(generations: int) -> Generations:
    """Places for `generations` generations, all free."""
    return Generations(
        epoch=np.zeros(generations, dtype=np.uint32),
        first=np.zeros(generations, dtype=np.int64),
        last=np.zeros(generations, dtype=np.int64),
        examples=np.zeros(generations, dtype=np.int64),
        origin=np.zeros(generations, dtype=np.float64),
        weight=np.zeros(generations, dtype=np.float64),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def tag_of(column, key):  # type: ignore[no-untyped-def]
    """The tag of (column, key): one to one within a column, never 0."""
    tag = mix(mix(key) + (np.uint64(column) + _ONE) * _GOLDEN)
    return tag if tag != np.uint64(0) else _ONE


@njit(cache=True, nogil=True, error_model="numpy")
def find(cells, tag):  # type: ignore[no-untyped-def]
    """The row of a tag, or -1."""
    bucket = np.int64(tag & np.uint64(len(cells.tags) - 1)) & ~np.int64(WAYS - 1)
    for row in range(bucket, bucket + WAYS):
        if cells.tags[row] == tag:
            return row
    return np.int64(-1)


@njit(cache=True, nogil=True, error_model="numpy")
def total(cells, gens, row):  # type: ignore[no-untyped-def]
    """(b, L, live) of a row: the sum of its live cells, and whether it has any."""
    b = 0.0
    L = 0.0
    live = False
    for g in range(len(gens.epoch)):
        epoch = gens.epoch[g]
        if epoch != 0 and cells.stamps[row, g] == epoch:
            b += gens.weight[g] * cells.values[row, g, 0]
            L += gens.weight[g] * cells.values[row, g, 1]
            live = True
    return b, L, live


@njit(cache=True, nogil=True, error_model="numpy")
def claim(cells, gens, tag):  # type: ignore[no-untyped-def]
    """A row for a tag: its own if that is live, else the bucket's row with the least evidence.

    Returns:
        (row, evicted): evicted is 1 if another live key had to make room.
    """
    row = find(cells, tag)
    if row >= 0:
        if total(cells, gens, row)[2]:
            return row, 0
        # Dead: it is free like any other, so that where a key goes depends on what lives alone.
        cells.tags[row] = 0
    bucket = np.int64(tag & np.uint64(len(cells.tags) - 1)) & ~np.int64(WAYS - 1)
    best = int(bucket)
    least = np.inf
    for way in range(bucket, bucket + WAYS):
        evidence = -1.0
        if cells.tags[way] != 0:
            _, L, live = total(cells, gens, way)
            if live:
                evidence = L
        if evidence < least:
            least = evidence
            best = way
    cells.tags[best] = tag
    for g in range(len(gens.epoch)):
        cells.stamps[best, g] = 0
    return best, 1 if least >= 0.0 else 0


@njit(cache=True, nogil=True, error_model="numpy")
def settle(cells, gens, row, current, old_b, old_L, new_b, new_L, keep):  # type: ignore[no-untyped-def]
    """Make a row's total (new_b, new_L): every cell keeps its share, the rest goes to the current one."""
    if keep != 1.0:
        for g in range(len(gens.epoch)):
            cells.values[row, g, 0] *= keep
            cells.values[row, g, 1] *= keep
    if cells.stamps[row, current] != gens.epoch[current]:
        cells.stamps[row, current] = gens.epoch[current]
        cells.values[row, current, 0] = 0.0
        cells.values[row, current, 1] = 0.0
    scale = 1.0 / gens.weight[current]
    cells.values[row, current, 0] += scale * (new_b - keep * old_b)
    L = cells.values[row, current, 1] + scale * (new_L - keep * old_L)
    cells.values[row, current, 1] = max(L, 0.0)


@njit(cache=True, nogil=True, error_model="numpy")
def free_place(gens):  # type: ignore[no-untyped-def]
    """A free place for a generation, or -1."""
    for g in range(len(gens.epoch)):
        if gens.epoch[g] == 0:
            return g
    return -1


@njit(cache=True, nogil=True, error_model="numpy")
def drop(gens, g):  # type: ignore[no-untyped-def]
    """Drop a generation: every cell with its stamp is dead from here on."""
    gens.epoch[g] = 0
    gens.weight[g] = 0.0
    gens.examples[g] = 0


def drop_learnt(gens: Generations, position: int) -> None:
    """Drop the generations whose every example is at or below `position`."""
    learnt = gens.last <= position
    gens.epoch[learnt] = 0
    gens.weight[learnt] = 0.0
    gens.examples[learnt] = 0


@njit(cache=True, nogil=True, error_model="numpy")
def merge_neighbours(cells, gens, half_life):  # type: ignore[no-untyped-def]
    """Merge the generations pairwise, older into younger, in one sweep over the table.

    The sweep costs a few ns per cell; as the span of a generation doubles each time, a memory that
    is never emptied is swept log2(examples) times in its life.
    """
    G = len(gens.epoch)
    by_age = np.argsort(gens.epoch)
    free = 0
    while free < G and gens.epoch[by_age[free]] == 0:
        free += 1
    order = by_age[free:]
    pairs = len(order) // 2
    share = np.ones(pairs)
    for i in range(pairs):
        if half_life > 0.0:
            share[i] = 2.0 ** (-(gens.origin[order[2 * i + 1]] - gens.origin[order[2 * i]]) / half_life)
    for row in range(len(cells.tags)):
        if cells.tags[row] == 0:
            continue
        for i in range(pairs):
            a = order[2 * i]
            b = order[2 * i + 1]
            if cells.stamps[row, a] != gens.epoch[a]:
                continue
            if cells.stamps[row, b] != gens.epoch[b]:
                cells.stamps[row, b] = gens.epoch[b]
                cells.values[row, b, 0] = 0.0
                cells.values[row, b, 1] = 0.0
            cells.values[row, b, 0] += share[i] * cells.values[row, a, 0]
            cells.values[row, b, 1] += share[i] * cells.values[row, a, 1]
    for i in range(pairs):
        a = order[2 * i]
        b = order[2 * i + 1]
        gens.first[b] = min(gens.first[a], gens.first[b])
        gens.last[b] = max(gens.last[a], gens.last[b])
        gens.examples[b] += gens.examples[a]
        drop(gens, a)

"""Evidence by key and generation, in a bounded set-associative table.

A key (a column and an id, hashed to one tag) has one row of G cells, one per generation, each a
weight's evidence (b, L) and a stamp. A cell counts only while its stamp is the epoch of the
generation that now has its place, so dropping a generation of evidence from every row is one write.
Natural parameters add up: a key's weight is the sum of its live cells.

A tag's bucket is one cache line of eight tags. When all eight are taken the row with the least
evidence makes room; to say which that is, each row notes the evidence that it had when it was last
written, so that nobody has to sum up eight rows for it. What a table answers depends on its live cells
alone, never on leftovers.

    b = Σ_g w_g b_g     L = Σ_g w_g L_g     μ = b / (1/τ + L)     P = 1 / (1/τ + L)

with w_g the generation's weight (`error_memory.generations`). Sums of natural parameters are products of
Gaussian likelihoods; the step that adds to them is `ground.bayes` (assumed-density filtering: Opper 1998).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from error_memory.generations import drop, oldest_epoch
from ground.mixing import mix, unmix

WAYS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)

_oldest_epoch, _drop = oldest_epoch, drop


class Cells(NamedTuple):
    """The table; S rows (a power of two times `WAYS`), G generations."""

    tags: npt.NDArray[np.uint64]  # (S,), 0: free
    values: npt.NDArray[np.float32]  # (S, G, 2): (b, L) at the scale of the generation's origin
    stamps: npt.NDArray[np.uint32]  # (S, G)
    worth: npt.NDArray[np.float32]  # (S,), L of the row when it was last written
    newest: npt.NDArray[np.uint32]  # (S,), the epoch in which that was


def make_cells(capacity: int, generations: int) -> Cells:
    """An empty table of at least `capacity` rows, rounded up to a power of two."""
    rows = max(WAYS, 1 << (capacity - 1).bit_length())
    return Cells(
        tags=np.zeros(rows, dtype=np.uint64),
        values=np.zeros((rows, generations, 2), dtype=np.float32),
        stamps=np.zeros((rows, generations), dtype=np.uint32),
        worth=np.zeros(rows, dtype=np.float32),
        newest=np.zeros(rows, dtype=np.uint32),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def tag_of(column, key):  # type: ignore[no-untyped-def]
    """The tag of (column, key): one to one within a column, never 0."""
    tag = mix(mix(key) + (np.uint64(column) + _ONE) * _GOLDEN)
    return tag if tag != np.uint64(0) else _ONE


@njit(cache=True, nogil=True, error_model="numpy")
def keys_of(tags, column):  # type: ignore[no-untyped-def]
    """The keys (n,) that have made these tags if they are of a column; `tag_of` backwards."""
    out = np.empty(len(tags), dtype=np.uint64)
    for i in range(len(tags)):
        out[i] = unmix(unmix(tags[i]) - (np.uint64(column) + _ONE) * _GOLDEN)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def bucket_of(cells, tag):  # type: ignore[no-untyped-def]
    """The first of the `WAYS` rows where a tag may be."""
    return np.int64(tag & np.uint64(len(cells.tags) - 1)) & ~np.int64(WAYS - 1)


@njit(cache=True, nogil=True, error_model="numpy")
def find(cells, tag):  # type: ignore[no-untyped-def]
    """The row of a tag, or -1. Without a branch, so that the searches of many tags overlap."""
    bucket = bucket_of(cells, tag)
    found = np.int64(-1)
    for way in range(WAYS):
        found = bucket + way if cells.tags[bucket + way] == tag else found
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def total(cells, gens, row):  # type: ignore[no-untyped-def]
    """(b, L, live) of a row: the sum of its live cells, and whether it has any."""
    b = 0.0
    L = 0.0
    live = False
    for g in range(len(gens.epoch)):
        epoch = gens.epoch[g]
        mine = cells.stamps[row, g] == epoch
        # A free place has weight 0, so an old stamp of it adds nothing.
        weight = gens.weight[g] if mine else 0.0
        b += weight * cells.values[row, g, 0]
        L += weight * cells.values[row, g, 1]
        live |= mine & (epoch != 0)
    return b, L, live


@njit(cache=True, nogil=True, error_model="numpy")
def claim(cells, gens, tag, current):  # type: ignore[no-untyped-def]
    """A row for a tag that has no live one: a free row of its bucket, else that with the least evidence.

    Returns:
        (row, evicted): evicted is 1 if another live key had to make room.
    """
    row = find(cells, tag)
    if row >= 0:
        # Dead: it is free like any other, so that where a key goes depends on what lives alone.
        cells.tags[row] = 0
    bucket = bucket_of(cells, tag)
    oldest = _oldest_epoch(gens)
    best = int(bucket)
    least = np.inf
    for way in range(bucket, bucket + WAYS):
        taken = cells.tags[way] != 0 and cells.newest[way] >= oldest
        evidence = cells.worth[way] if taken else -1.0
        if evidence < least:
            least = evidence
            best = way
    cells.tags[best] = tag
    cells.worth[best] = 0.0
    cells.newest[best] = gens.epoch[current]
    for g in range(len(gens.epoch)):
        cells.stamps[best, g] = 0
    return best, 1 if least >= 0.0 else 0


@njit(cache=True, nogil=True, error_model="numpy")
def erase(cells, columns, keys):  # type: ignore[no-untyped-def]
    """Free the rows of (columns, keys), (n,) each, and clear what they held."""
    for i in range(len(keys)):
        row = find(cells, tag_of(columns[i], keys[i]))
        if row >= 0:
            cells.tags[row] = 0
            cells.values[row] = 0.0
            cells.stamps[row] = 0
            cells.worth[row] = 0.0
            cells.newest[row] = 0


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
    cells.worth[row] = new_L
    cells.newest[row] = gens.epoch[current]


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
            cells.newest[row] = max(cells.newest[row], gens.epoch[b])
    for i in range(pairs):
        a = order[2 * i]
        b = order[2 * i + 1]
        gens.first[b] = min(gens.first[a], gens.first[b])
        gens.last[b] = max(gens.last[a], gens.last[b])
        gens.examples[b] += gens.examples[a]
        _drop(gens, a)

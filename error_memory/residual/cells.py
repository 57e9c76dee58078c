"""Evidence by key and generation, in a bounded set-associative table that grows with its contents.

A key (a column and an id, hashed to one tag) has one row of G cells, one per generation, each a
weight's evidence (b, L) and a stamp. A cell counts only while its stamp is the epoch of the
generation that now has its place, so dropping a generation of evidence from every row is one write.
Natural parameters add up: a key's weight is the sum of its live cells.

    b = Σ_g w_g b_g     L = Σ_g w_g L_g     μ = b / (1/τ + L)     P = 1 / (1/τ + L)

with w_g the generation's weight (`error_memory.residual.generations`). Sums of natural parameters are
products of Gaussian likelihoods; the step that adds to them is `ground.kernels.bayes` (assumed-density
filtering: Opper 1998).

A tag's bucket is eight rows, whose tags are one cache line and whose ages are another; with eight
generations a row is two lines. The buckets in use double when one of them is full of live rows, and return
to the initial number when no row is live. So the memory of a live base, a few requests, stays in the
processor's cache. At full size the row with the least evidence is evicted; each row stores its evidence as
of its last write for this comparison.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from error_memory.residual.generations import Generations, drop, oldest_epoch
from ground.kernels.intrinsics import borrow
from ground.kernels.mixing import mix, unmix

WAYS = 8
FIRST_BUCKETS = 64
_LINE_BYTES = 128  # lines are fetched in pairs
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)
CELL, B, L, STAMP = 4, 0, 1, 2  # numbers in a cell, and their indices; the fourth is unused

_oldest_epoch, _drop = oldest_epoch, drop


class Cells(NamedTuple):
    """The table; S rows (a power of two times `WAYS`), G generations."""

    tags: npt.NDArray[np.uint64]  # (S,), 0: free
    worth: npt.NDArray[np.float32]  # (S / 8, 16), [:8]: L of the bucket's rows when they were last written
    newest: npt.NDArray[np.uint32]  # the same memory, [8:]: the epochs of those writes
    values: npt.NDArray[np.float32]  # (S, 4 G), (b, L, _, _) a cell, at the scale of its generation's origin
    stamps: npt.NDArray[np.uint32]  # the same memory, (_, _, stamp, _) a cell
    size: npt.NDArray[np.int64]  # (1,), buckets in use, a power of two


def make_cells(capacity: int, generations: int) -> Cells:
    """An empty table of at least `capacity` rows, rounded up to a power of two."""
    rows = max(WAYS, 1 << (capacity - 1).bit_length())
    ages = _aligned(rows // WAYS * 16).reshape(-1, 16)
    values = _aligned(rows * generations * 4).reshape(rows, 4 * generations)
    return Cells(
        tags=_aligned(2 * rows).view(np.uint64),
        worth=ages,
        newest=ages.view(np.uint32),
        values=values,
        stamps=values.view(np.uint32),
        size=np.array([min(FIRST_BUCKETS, rows // WAYS)], dtype=np.int64),
    )


def _aligned(count: int) -> npt.NDArray[np.float32]:
    """Zeros, (count,), that begin where a cache line begins."""
    memory = np.zeros(4 * count + _LINE_BYTES, dtype=np.uint8)
    first = -memory.ctypes.data % _LINE_BYTES
    return memory[first : first + 4 * count].view(np.float32)


def live_rows(cells: Cells, gens: Generations) -> npt.NDArray[np.int64]:
    """The numbers of the live rows."""
    rows = WAYS * int(cells.size[0])
    newest = cells.newest[:, WAYS:].reshape(-1)[:rows]
    return np.flatnonzero((cells.tags[:rows] != 0) & (newest >= oldest_epoch(gens)))


def part(cells: Cells, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of these rows, for `replace`."""
    return {
        "tags": cells.tags[rows],
        "worth": cells.worth[:, :WAYS].reshape(-1)[rows],
        "newest": cells.newest[:, WAYS:].reshape(-1)[rows],
        "stamps": cells.stamps[rows],
        "size": cells.size,
    }


def replace(cells: Cells, rows: npt.NDArray[np.int64], saved: dict[str, npt.NDArray[Any]]) -> None:
    """Replace all contents by rows that `part` returned."""
    cells.tags[:] = 0
    cells.stamps[:] = 0
    bucket, way = rows // WAYS, rows % WAYS
    cells.tags[rows] = saved["tags"]
    cells.worth[bucket, way] = saved["worth"]
    cells.newest[bucket, WAYS + way] = saved["newest"]
    cells.stamps[rows] = saved["stamps"]
    cells.size[:] = saved["size"]


@njit(cache=True, nogil=True, error_model="numpy")
def borrowed(cells):
    """The same arrays without reference counts, for kernels whose caller keeps them alive."""
    return Cells(
        borrow(cells.tags), borrow(cells.worth), borrow(cells.newest), borrow(cells.values),
        borrow(cells.stamps), borrow(cells.size),
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def tag_of(column, key):
    """The tag of (column, key): one to one within a column, never 0."""
    tag = mix(mix(key) + (np.uint64(column) + _ONE) * _GOLDEN)
    return tag if tag != np.uint64(0) else _ONE


@njit(cache=True, nogil=True, error_model="numpy")
def keys_of(tags, column):
    """The keys (n,) of these tags, given their column; the inverse of `tag_of`."""
    out = np.empty(len(tags), dtype=np.uint64)
    for i in range(len(tags)):
        out[i] = unmix(unmix(tags[i]) - (np.uint64(column) + _ONE) * _GOLDEN)
    return out


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def bucket_of(cells, tag):
    """The bucket of a tag; its rows begin at `WAYS` times the bucket."""
    return np.int64(tag & np.uint64(cells.size[0] - 1))


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def find(cells, tag):
    """The row of a tag, or -1. It has no branch, so that searches of many tags overlap."""
    first = WAYS * bucket_of(cells, tag)
    found = -1
    for row in range(first, first + WAYS):
        found = row if cells.tags[row] == tag else found
    return found


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def total(cells, gens, row):
    """(b, L, live) of a row: the sum of its live cells, and whether it has any."""
    b = 0.0
    L_ = 0.0
    live = False
    for g in range(len(gens.epoch)):
        epoch = gens.epoch[g]
        mine = cells.stamps[row, CELL * g + STAMP] == epoch
        # A free place has weight 0, so an old stamp of it adds nothing.
        weight = gens.weight[g] if mine else 0.0
        b += weight * cells.values[row, CELL * g + B]
        L_ += weight * cells.values[row, CELL * g + L]
        live |= mine & (epoch != 0)
    return b, L_, live


@njit(cache=True, nogil=True, error_model="numpy")
def _grow(cells):
    """Double the buckets: rows whose tag has the new bit set move into the new half, which is free."""
    size = cells.size[0]
    bit = np.uint64(size)
    for bucket in range(size):
        twin = bucket + size
        for way in range(WAYS):
            old = WAYS * bucket + way
            new = WAYS * twin + way
            tag = cells.tags[old]
            if tag == np.uint64(0) or tag & bit == np.uint64(0):
                cells.tags[new] = 0
                continue
            cells.tags[new] = tag
            cells.tags[old] = 0
            cells.worth[twin, way] = cells.worth[bucket, way]
            cells.newest[twin, WAYS + way] = cells.newest[bucket, WAYS + way]
            for k in range(cells.stamps.shape[1]):
                cells.stamps[new, k] = cells.stamps[old, k]
                cells.stamps[old, k] = 0
    cells.size[0] = 2 * size


@njit(cache=True, nogil=True, error_model="numpy")
def _make_room(cells, gens, tag, oldest):
    """Get a row in a bucket full of live rows: grow the table, or evict the row with the least evidence.

    Returns:
        (row, evicted).
    """
    while WAYS * cells.size[0] < len(cells.tags):
        _grow(cells)
        bucket = bucket_of(cells, tag)
        for way in range(WAYS):
            if cells.tags[WAYS * bucket + way] == 0 or cells.newest[bucket, WAYS + way] < oldest:
                return WAYS * bucket + way, 0
    bucket = bucket_of(cells, tag)
    least = 0
    for way in range(1, WAYS):
        if cells.worth[bucket, way] < cells.worth[bucket, least]:
            least = way
    row = WAYS * bucket + least
    for g in range(len(gens.epoch)):
        cells.stamps[row, CELL * g + STAMP] = 0
    return row, 1


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def claim(cells, gens, tag, current, oldest):
    """Get a row for a tag without a live one: a free row of its bucket, or the one with the least evidence.

    Rows may move: a caller that holds row numbers must check their tags again. `oldest` is
    the least epoch in use.

    Returns:
        (row, evicted): evicted is 1 if a live key was evicted.
    """
    bucket = bucket_of(cells, tag)
    free = -1
    dead = -1
    for way in range(WAYS - 1, -1, -1):
        mine = cells.tags[WAYS * bucket + way]
        lives = (mine != 0) & (mine != tag) & (cells.newest[bucket, WAYS + way] >= oldest)
        free = free if lives else way
        dead = way if mine == tag else dead
    if dead >= 0:
        # A dead row counts as free, so that the place of a key depends on live rows only.
        cells.tags[WAYS * bucket + dead] = 0
    if free >= 0:
        row, evicted = WAYS * bucket + free, 0
    else:
        row, evicted = _make_room(cells, gens, tag, oldest)
    cells.tags[row] = tag
    cells.worth[row >> 3, row & 7] = 0.0
    cells.newest[row >> 3, WAYS + (row & 7)] = gens.epoch[current]
    return row, evicted


@njit(cache=True, nogil=True, error_model="numpy")
def erase(cells, columns, keys):
    """Free the rows of (columns, keys), (n,) each, and clear their cells."""
    for i in range(len(keys)):
        row = find(cells, tag_of(columns[i], keys[i]))
        if row >= 0:
            cells.tags[row] = 0
            cells.values[row] = 0.0
            cells.stamps[row] = 0
            cells.worth[row >> 3, row & 7] = 0.0
            cells.newest[row >> 3, WAYS + (row & 7)] = 0
    cells.tags[WAYS * cells.size[0] :] = 0  # left over from a larger table


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def settle(cells, gens, row, current, old_b, old_L, new_b, new_L, keep):
    """Make a row's total (new_b, new_L): every cell keeps its share, the rest goes to the current one."""
    if keep != 1.0:
        for g in range(len(gens.epoch)):
            cells.values[row, CELL * g + B] *= keep
            cells.values[row, CELL * g + L] *= keep
    if cells.stamps[row, CELL * current + STAMP] != gens.epoch[current]:
        cells.stamps[row, CELL * current + STAMP] = gens.epoch[current]
        cells.values[row, CELL * current + B] = 0.0
        cells.values[row, CELL * current + L] = 0.0
    scale = 1.0 / gens.weight[current]
    cells.values[row, CELL * current + B] += scale * (new_b - keep * old_b)
    evidence = cells.values[row, CELL * current + L] + scale * (new_L - keep * old_L)
    cells.values[row, CELL * current + L] = max(evidence, 0.0)
    cells.worth[row >> 3, row & 7] = new_L
    cells.newest[row >> 3, WAYS + (row & 7)] = gens.epoch[current]


@njit(cache=True, nogil=True, error_model="numpy")
def shrink(cells):
    """As few buckets as an empty table has; only where nothing lives."""
    size = min(FIRST_BUCKETS, len(cells.tags) // WAYS)
    cells.size[0] = size
    cells.tags[: WAYS * size] = 0


@njit(cache=True, nogil=True, error_model="numpy")
def merge_neighbours(cells, gens, half_life):
    """Merge the generations pairwise, older into younger, in one sweep over the table.

    The sweep costs a few ns per cell; as the span of a generation doubles each time, a memory that
    is never emptied is swept log2(examples) times in all.
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
    for row in range(WAYS * cells.size[0]):
        if cells.tags[row] == 0:
            continue
        for i in range(pairs):
            a = order[2 * i]
            b = order[2 * i + 1]
            if cells.stamps[row, CELL * a + STAMP] != gens.epoch[a]:
                continue
            if cells.stamps[row, CELL * b + STAMP] != gens.epoch[b]:
                cells.stamps[row, CELL * b + STAMP] = gens.epoch[b]
                cells.values[row, CELL * b + B] = 0.0
                cells.values[row, CELL * b + L] = 0.0
            cells.values[row, CELL * b + B] += share[i] * cells.values[row, CELL * a + B]
            cells.values[row, CELL * b + L] += share[i] * cells.values[row, CELL * a + L]
            newest = cells.newest[row >> 3, WAYS + (row & 7)]
            cells.newest[row >> 3, WAYS + (row & 7)] = max(newest, gens.epoch[b])
    for i in range(pairs):
        a = order[2 * i]
        b = order[2 * i + 1]
        gens.first[b] = min(gens.first[a], gens.first[b])
        gens.last[b] = max(gens.last[a], gens.last[b])
        gens.examples[b] += gens.examples[a]
        _drop(gens, a)

"""Rows on loan: copied out of a table without the columns of eviction, changed elsewhere, and put back."""

import numpy as np
import numpy.typing as npt
from numba import njit

from embeddings.core.lifetimes import advance, renew
from embeddings.core.slots import mark
from embeddings.core.store import AHEAD, TAIL
from embeddings.core.versions import begin_write, end_write
from embeddings.kernels.columns import gather
from embeddings.table.table import Table
from embeddings.types import Floats, Slots
from ground.kernels.intrinsics import borrow, prefetch
from ground.kernels.simd import WIDE, copy


def lend(table: Table, slots: Slots) -> Floats:
    """The rows at slots without eviction's columns, (n, `loan_width`); zeros for -1."""
    spec = table.spec
    bits = table.arrays.bits
    out = np.empty((len(slots), loan_width(table)), dtype=np.uint32)
    if spec.extra_column == spec.age_column:
        gather(bits, slots, 0, out)
    else:
        parts = []
        for first, last in ((0, spec.age_column), (spec.extra_column, spec.width)):
            part = np.empty((len(slots), last - first), dtype=np.uint32)
            if last > first:
                gather(bits, slots, first, part)
            parts.append(part)
        np.concatenate(parts, axis=1, out=out)
    return out.view(np.float32)


def loan_width(table: Table) -> int:
    """How many columns a row on loan has."""
    return table.spec.width - (table.spec.extra_column - table.spec.age_column)


def take_back(table: Table, slots: Slots, rows: Floats, changed: npt.NDArray[np.bool_]) -> None:
    """Write those of the rows (n, `loan_width`) that have `changed` (n,) to their slots; -1 is skipped.

    Call it before the next `upsert`, `block`, `load`, `delete` or `expire`.
    """
    spec = table.spec
    _take_back(
        table.arrays, table.rules, slots, rows.view(np.uint32), changed, spec.age_column, spec.extra_column
    )


@njit(cache=True, nogil=True)
def _take_back(store, rules, slots, rows, changed, age_column, extra_column):
    bits, versions = borrow(store.bits), borrow(store.versions)
    listed, touched, state = borrow(store.listed), borrow(store.touched), borrow(store.state)
    n, width = rows.shape
    seen_column = bits.shape[1] - TAIL
    counts_alive = rules.ttl_s > 0 and rules.classes == 0
    for i in range(n):
        soon = max(slots[min(i + AHEAD, n - 1)], 0)
        for column in range(0, bits.shape[1], WIDE):
            prefetch(bits, soon, column)
        slot = slots[i]
        if slot < 0 or not changed[i]:
            continue
        if counts_alive:
            seen = rows[i, width - 2]
            advance(store.alive, store.ages, np.int64(seen), rules)
            renew(store.alive, store.ages, bits[slot, seen_column], seen, rules)
        begin_write(versions, slot)
        copy(rows, i, 0, bits, slot, 0, age_column)
        copy(rows, i, age_column, bits, slot, extra_column, width - age_column)
        end_write(versions, slot)
        mark(listed, touched, state, slot)

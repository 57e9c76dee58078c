"""A working set: rows of several tables, copied into one array for many small training steps.

Successive groups of a stream's chunk use the same rows. In one small array these rows stay in the cache,
one call steps all features, and another thread can use the tables meanwhile.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from embeddings.core.positions import STATE_SIZE, State
from embeddings.core.store import Store
from embeddings.errors import TableError
from embeddings.kernels.optimizers import STEPS, constants_of
from embeddings.spec import TableSpec
from embeddings.table.table import Table
from embeddings.types import Floats, Slots


class RowLayout(NamedTuple):
    """The settings that tables must share to use one working set: layout of rows and optimizer."""

    dim: int
    optimizer: str
    learning_rate: float
    initial_accumulator: float
    betas: tuple[float, float, float]
    penalties: tuple[float, float]

    @classmethod
    def of(cls, spec: TableSpec) -> "RowLayout":
        """The layout of the rows of a spec."""
        return cls(
            spec.dim,
            spec.optimizer,
            spec.learning_rate,
            spec.initial_accumulator,
            (spec.beta1, spec.beta2, spec.ftrl_beta),
            (spec.l1, spec.l2),
        )


class WorkingSet:
    """Vectors and optimizer state of some rows, in one array. A place is a row's number in this array.

    Between its creation and `write_back` it does not use the tables, so another thread may read them, insert
    rows, and write other columns. `write_back` skips rows that were removed from their table meanwhile.

    Args:
        tables: tables with the same `RowLayout`.
        slots: for each table (m,) distinct slots; -1 reads as zeros and is never written.

    Raises:
        TableError: the tables have different layouts, or no optimizer.
    """

    def __init__(self, tables: Sequence[Table], slots: Sequence[Slots]) -> None:
        spec = tables[0].spec
        if any(RowLayout.of(table.spec) != RowLayout.of(spec) for table in tables):
            names = ", ".join(repr(table.spec.name) for table in tables)
            raise TableError(f"tables {names} differ in dim or optimizer; they cannot share a working set")
        if spec.optimizer not in STEPS:
            raise TableError(f"table {spec.name!r} has optimizer 'none': it can only serve")
        self.dim = spec.dim
        self.starts = [0, *accumulate(len(part) for part in slots)]
        """The place of the first row of each table, and the end of the last."""
        self._tables = list(tables)
        self._slots = list(slots)
        self._owners = [table.keys_at(part) for table, part in zip(tables, slots, strict=True)]
        self.rows: Floats = np.concatenate(
            [table.weights(part) for table, part in zip(tables, slots, strict=True)]
        )
        """(m, dim + state), the rows of all tables: vector, then optimizer state."""
        self._step = STEPS[spec.optimizer]
        self._constants = constants_of(spec)
        m = len(self.rows)
        self._number = np.full(m, -1, dtype=np.int32)
        # The optimizer kernels expect a store; replace the arrays that they use.
        self._store: Store = tables[0].arrays._replace(
            rows=self.rows,
            bits=self.rows.view(np.uint32),
            versions=np.zeros_like(tables[0].arrays.versions),  # another thread writes the table's own
            listed=np.zeros(m // 8 + 1, dtype=np.uint8),
            touched=np.zeros(m + 1, dtype=np.uint32),
            state=np.zeros(STATE_SIZE, dtype=np.int64),
        )

    def step(self, places: npt.NDArray[np.int64], gradients: Floats) -> None:
        """One optimizer step: gradients (n, dim) of repeated places (n,) are summed first; -1 is skipped."""
        distinct = np.empty(len(places), dtype=np.int64)
        sums = np.zeros((len(places), self.dim), dtype=np.float32)
        count = _sum_by_place(places, gradients, self._number, distinct, sums)
        self._step(self._store, distinct[:count], sums[:count], self.dim, self._constants)

    def write_back(self) -> None:
        """Copy the trained rows back to their tables, which list them as touched."""
        stepped = np.sort(self._store.touched[: self._store.state[State.TOUCHED]]).astype(np.int64)
        cuts = np.searchsorted(stepped, self.starts)
        for t, table in enumerate(self._tables):
            places = stepped[cuts[t] : cuts[t + 1]]
            local = places - self.starts[t]
            slots = self._slots[t][local]
            kept = table.keys_at(slots) == self._owners[t][local]
            table.set_weights(slots[kept], self.rows[places[kept]])


@njit(cache=True, nogil=True)
def _sum_by_place(places, gradients, number, distinct, sums):
    """Sum gradients (n, d) by place (n,), in the order of the batch.

    Args:
        number: (m,) int32 scratch, all -1 before and after.
        distinct: (n,) int64, out: the distinct places, in the order of their first appearance.
        sums: (n, d) float32, out, zeros before.

    Returns:
        How many distinct places there are.
    """
    count = 0
    for i in range(len(places)):
        place = places[i]
        if place < 0:
            continue
        if number[place] < 0:
            number[place] = count
            distinct[count] = place
            count += 1
        n = number[place]
        for j in range(gradients.shape[1]):
            sums[n, j] += gradients[i, j]
    for i in range(count):
        number[distinct[i]] = -1
    return count

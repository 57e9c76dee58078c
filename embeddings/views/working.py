"""A working set: rows of several tables, copied together to be learnt in many small steps.

A chunk of a stream comes back to the same rows group after group. Side by side in one small array
they stay in the cache, all features' steps are one call, and the tables are free meanwhile for
another thread.
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
    """What tables must have in common to share a working set: how rows look and how they learn."""

    dim: int
    optimizer: str
    learning_rate: float
    initial_accumulator: float
    betas: tuple[float, float, float]
    penalties: tuple[float, float]

    @classmethod
    def of(cls, spec: TableSpec) -> "RowLayout":
        """The layout of a table's rows."""
        return cls(
            spec.dim,
            spec.optimizer,
            spec.learning_rate,
            spec.initial_accumulator,
            (spec.beta1, spec.beta2, spec.ftrl_beta),
            (spec.l1, spec.l2),
        )


class WorkingSet:
    """Vectors and optimizer state of some rows, in one array. Places number its rows.

    From its making to `write_back` it reads and writes no table, so the tables may be read, inserted
    into, and have other columns written by another thread. A row that has left its table by then is
    dropped here as well.

    Args:
        tables: of one `RowLayout`.
        slots: for each table (m,) distinct slots, -1 for none (reads as zeros, never learns).

    Raises:
        TableError: the tables' rows differ in layout, or do not learn.
    """

    def __init__(self, tables: Sequence[Table], slots: Sequence[Slots]) -> None:
        spec = tables[0].spec
        if any(RowLayout.of(table.spec) != RowLayout.of(spec) for table in tables):
            names = ", ".join(repr(table.spec.name) for table in tables)
            raise TableError(f"tables {names} differ in dim or optimizer; they cannot share a working set")
        if spec.optimizer not in STEPS:
            raise TableError(f"table {spec.name!r} has optimizer 'none': it serves and cannot learn")
        self.dim = spec.dim
        self.starts = [0, *accumulate(len(part) for part in slots)]
        """Place of each table's first row, and behind the last."""
        self._tables = list(tables)
        self._slots = list(slots)
        self._owners = [table.keys_at(part) for table, part in zip(tables, slots, strict=True)]
        self.rows: Floats = np.concatenate(
            [table.weights(part) for table, part in zip(tables, slots, strict=True)]
        )
        """(m, dim + state), m over all tables: vectors, and behind them the optimizer's state."""
        self._step = STEPS[spec.optimizer]
        self._constants = constants_of(spec)
        m = len(self.rows)
        self._number = np.full(m, -1, dtype=np.int32)
        # The optimizers' kernels work on a table's arrays: these are the ones that they use.
        self._store: Store = tables[0].arrays._replace(
            rows=self.rows,
            bits=self.rows.view(np.uint32),
            versions=np.zeros_like(tables[0].arrays.versions),  # the table's own has another writer
            listed=np.zeros(m // 8 + 1, dtype=np.uint8),
            touched=np.zeros(m + 1, dtype=np.uint32),
            state=np.zeros(STATE_SIZE, dtype=np.int64),
        )

    def step(self, places: npt.NDArray[np.int64], gradients: Floats) -> None:
        """One optimizer step: gradients (n, dim) of repeated places (n,) are summed first; -1 is left out."""
        distinct = np.empty(len(places), dtype=np.int64)
        sums = np.zeros((len(places), self.dim), dtype=np.float32)
        count = _sum_by_place(places, gradients, self._number, distinct, sums)
        self._step(self._store, distinct[:count], sums[:count], self.dim, self._constants)

    def write_back(self) -> None:
        """Copy the rows that were stepped into their tables, which note them as touched."""
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
    """Add gradients (n, d) up by place (n,), in the order of the batch.

    Args:
        number: (m,) int32 scratch, all -1; left so.
        distinct: (n,) int64, out: the distinct places, where they first appear.
        sums: (n, d) float32, zeros before, out.

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

"""A table's arena: rows of float32 by slot, read and written a batch at a time.

Callers pass slots, not keys. A slot of -1 means "no row" everywhere: it reads as zeros and is never
written.
"""

import numpy as np
import numpy.typing as npt

from embeddings.core.positions import State
from embeddings.core.store import Store, rules_of
from embeddings.kernels import columns
from embeddings.spec import TableSpec
from embeddings.table.checks import as_floats, as_slots, as_uint32
from embeddings.types import Floats, Keys, Slots


class Arena:
    """The rows of a table.

    Args:
        spec: which columns a row has.
        store: the arrays behind the table.
    """

    def __init__(self, spec: TableSpec, store: Store) -> None:
        self.spec = spec
        self._store = store
        self._rules = rules_of(spec)

    @property
    def width(self) -> int:
        """Columns of a row."""
        return self.spec.width

    @property
    def serving_slices(self) -> tuple[slice, ...]:
        """The columns of a row that serving needs."""
        return self.spec.serving_slices

    @property
    def rows(self) -> Floats:
        """The arena, (rows_max, width) float32, indexed by slot; after writing to it, call `mark`."""
        return self._store.rows[:, : self.width]

    def vectors(self, slots: Slots) -> Floats:
        """The vectors at slots, (n, dim); zeros for -1."""
        return self._gather(slots, 0, self.spec.dim)

    def extras(self, slots: Slots) -> Floats:
        """The caller's columns at slots, (n, extra); zeros for -1."""
        return self._gather(slots, self.spec.extra_column, self.spec.extra)

    def counts(self, slots: Slots) -> npt.NDArray[np.uint32]:
        """The counts at slots, (n,); 0 for -1."""
        return self._gather(slots, self.spec.seen_column + 1, 1).view(np.uint32)[:, 0]

    def last_seen(self, slots: Slots) -> npt.NDArray[np.uint32]:
        """When the rows at slots were last seen, (n,) Unix seconds; 0 for -1."""
        return self._gather(slots, self.spec.seen_column, 1).view(np.uint32)[:, 0]

    def set_extras(self, slots: Slots, values: npt.ArrayLike) -> None:
        """Write the caller's columns, (n, extra); of a slot given twice the last stays."""
        self._scatter(slots, self.spec.extra_column, self.spec.extra, values)

    def set_vectors(self, slots: Slots, values: npt.ArrayLike) -> None:
        """Write the vectors, (n, dim), not the optimizer's state; of a slot given twice the last stays."""
        self._scatter(slots, 0, self.spec.dim, values)

    def weights(self, slots: Slots) -> Floats:
        """The vectors at slots with their optimizer's state behind them, (n, dim + state); zeros for -1."""
        return self._gather(slots, 0, self.spec.age_column)

    def set_weights(self, slots: Slots, values: npt.ArrayLike) -> None:
        """Write what `weights` gave; of a slot given twice the last stays."""
        self._scatter(slots, 0, self.spec.age_column, values)

    def keys_at(self, slots: Slots) -> Keys:
        """The keys whose rows are at slots, (n,); 0 for -1, and some key long gone for a free slot."""
        slots = self._slots(slots)
        return np.where(slots < 0, np.uint64(0), self._store.slot_key[slots])

    def touch(self, slots: Slots, times: npt.ArrayLike, increments: npt.ArrayLike = 1) -> None:
        """Last seen becomes the later of itself and `times`, the count grows; both (n,) or one."""
        slots = self._slots(slots)
        grow = as_uint32(self.spec.name, increments, len(slots), "increments")
        columns.touch(self._store, self._rules, slots, self._times(times, len(slots)), grow)

    def mark(self, slots: Slots) -> None:
        """Say that `rows` was written at slots, so that they are part of the next delta."""
        columns.mark_all(self._store, self._slots(slots))

    def _gather(self, slots: Slots, first: int, width: int) -> Floats:
        slots = self._slots(slots)
        out = np.empty((len(slots), width), dtype=np.uint32)
        if width:
            columns.gather(self._store.bits, slots, first, out)
        return out.view(np.float32)

    def _scatter(self, slots: Slots, first: int, width: int, values: npt.ArrayLike) -> None:
        slots = self._slots(slots)
        array = self._values(values, len(slots), width, "values")
        columns.scatter(self._store, slots, first, array.view(np.uint32))

    def _slots(self, slots: Slots) -> Slots:
        return as_slots(self.spec.name, slots, int(self._store.state[State.HIGH]))

    def _values(self, values: npt.ArrayLike, n: int, columns: int, what: str) -> Floats:
        return as_floats(self.spec.name, values, (n, columns), what)

    def _times(self, times: npt.ArrayLike, n: int) -> npt.NDArray[np.uint32]:
        return as_uint32(self.spec.name, times, n, "times")

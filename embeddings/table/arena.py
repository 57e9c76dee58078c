"""The arena of a table: rows of float32 by slot, read and written a batch at a time.

Callers pass slots, not keys. A slot of -1 means "no row": it reads as zeros and is never
written.
"""

from __future__ import annotations

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
        spec: the settings, which give the columns of a row.
        store: the arrays of the table.
    """

    def __init__(self, spec: TableSpec, store: Store) -> None:
        self.spec = spec
        self._store = store
        self._rules = rules_of(spec)
        self._extra_column, self._seen_column = spec.extra_column, spec.seen_column

    @property
    def width(self) -> int:
        """Number of columns of a row."""
        return self._seen_column + 2

    @property
    def serving_slices(self) -> tuple[slice, ...]:
        """The columns that serving needs."""
        return self.spec.serving_slices

    def served(self, rows: Floats) -> Floats:
        """The `serving_slices` of whole rows (n, width)."""
        return np.concatenate([rows[:, part] for part in self.serving_slices], axis=1)

    @property
    def rows(self) -> Floats:
        """The arena, (rows_max, width) float32, indexed by slot. After a write to it, call `mark`."""
        return self._store.rows[:, : self.width]

    def vectors(self, slots: Slots) -> Floats:
        """The vectors at slots, (n, dim); zeros for -1."""
        return self._gather(slots, 0, self.spec.dim)

    def extras(self, slots: Slots) -> Floats:
        """The caller's columns at slots, (n, extra); zeros for -1."""
        return self._gather(slots, self._extra_column, self.spec.extra)

    def counts(self, slots: Slots) -> npt.NDArray[np.uint32]:
        """The counts at slots, (n,); 0 for -1."""
        return self._gather(slots, self._seen_column + 1, 1).view(np.uint32)[:, 0]

    def last_seen(self, slots: Slots) -> npt.NDArray[np.uint32]:
        """When the rows at slots were last seen, (n,) Unix seconds; 0 for -1."""
        return self._gather(slots, self._seen_column, 1).view(np.uint32)[:, 0]

    def set_extras(self, slots: Slots, values: npt.ArrayLike) -> None:
        """Write the caller's columns, (n, extra); for a repeated slot the last value wins."""
        self._scatter(slots, self._extra_column, self.spec.extra, values)

    def set_vectors(self, slots: Slots, values: npt.ArrayLike) -> None:
        """Write the vectors, (n, dim), without optimizer state; for a repeated slot the last value wins."""
        self._scatter(slots, 0, self.spec.dim, values)

    def weights(self, slots: Slots) -> Floats:
        """The vectors at slots followed by optimizer state, (n, dim + state); zeros for -1."""
        return self._gather(slots, 0, self.spec.age_column)

    def set_weights(self, slots: Slots, values: npt.ArrayLike) -> None:
        """Write values from `weights`; for a repeated slot the last value wins."""
        self._scatter(slots, 0, self.spec.age_column, values)

    def keys_at(self, slots: Slots) -> Keys:
        """The keys of the rows at slots, (n,); 0 for -1; for a free slot, the key of its previous row."""
        slots = self._slots(slots)
        return np.where(slots < 0, np.uint64(0), self._store.slot_key[slots])

    def touch(self, slots: Slots, times: npt.ArrayLike, increments: npt.ArrayLike = 1) -> None:
        """Raise last seen to `times` if later, and add `increments` to the count; both (n,) or one value."""
        slots = self._slots(slots)
        grow = as_uint32(self.spec.name, increments, len(slots), "increments")
        store, now = self._store, self._times(times, len(slots))
        columns.touch(
            store.bits, store.listed, store.touched, store.state, store.in_use, store.alive, store.ages,
            self._rules, slots, now, grow,
        )  # fmt: skip

    def mark(self, slots: Slots) -> None:
        """Report a write to `rows` at slots, so that they are part of the next delta."""
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
        store = self._store
        columns.scatter(
            store.bits, store.versions, store.listed, store.touched, store.state,
            slots, first, array.view(np.uint32),
        )  # fmt: skip

    def _slots(self, slots: Slots) -> Slots:
        return as_slots(self.spec.name, slots, int(self._store.state[State.HIGH]))

    def _values(self, values: npt.ArrayLike, n: int, columns: int, what: str) -> Floats:
        return as_floats(self.spec.name, values, (n, columns), what)

    def _times(self, times: npt.ArrayLike, n: int) -> npt.NDArray[np.uint32]:
        return as_uint32(self.spec.name, times, n, "times")

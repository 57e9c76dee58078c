"""The entries of all items: which (column, key) each item's own row has, and what the model says of them.

An item's own row is what its candidate has without a context. Items share entries: a category has one, of
however many items. So what the fast part adds to an item's logit is a sum over a few numbers, and what a
context adds to an entry is looked up once, not once for each item.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embeddings import Table, TableSpec
from ground.distinct import distinct
from ground.rows import Rows
from learner.model.model import Model
from serving.nearest.kernels import add_gains, means, runs
from serving.replica.answering import LiveModel

LAYERS_MAX = 96
"""Entries of an item; further ones are left out of the search. The whole model sees all."""
SPARE = 1 << 16
"""A column has room for as many entries as there may be items, and so many more."""
LOOKUPS = 4_096
"""Rows read while holding the lock: less than a millisecond."""
DIM_MAX = 32
"""Dimensions of a vector that the search looks at."""

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]


class Layer(NamedTuple):
    """For each item one of its entries of one column."""

    column: int
    ids: npt.NDArray[np.int32]  # (items_max,), number of the entry in its column; 0: none
    xs: Floats  # (items_max,)


class EntryColumn:
    """The distinct entries of one column, numbered from 1 on; number 0 is no entry.

    The arrays have their final size from the beginning, so a reader never holds one that is too short; memory
    is used where they are written.
    """

    def __init__(self, column: int, room: int, dim: int) -> None:
        self.column = column
        self.count = 1  # with number 0
        self.room = room
        self.key = np.zeros(room, dtype=np.uint64)
        self.mean = np.zeros(room, dtype=np.float32)  # the fast part's, of the first target
        self.exists = np.zeros(room, dtype=np.bool_)  # in the model's table
        self.vectors = np.zeros((room, dim), dtype=np.float32)
        self._index = Table(TableSpec(name="entries", dim=0, extra=1, rows_max=room - 1))

    @property
    def full(self) -> bool:
        """Whether there is little room left."""
        return self.count > self.room - self.room // 8

    @property
    def keys(self) -> Keys:
        """Of all entries, (count,), with number 0."""
        return self.key[: self.count]

    def number(self, keys: Keys) -> npt.NDArray[np.int32]:
        """The numbers of keys, of new ones too; 0: there is no room."""
        found = (self._index.upsert(keys, 0) + 1).astype(np.int32)
        self.key[found] = keys
        self.key[0] = 0
        self.count = max(self.count, int(found.max(initial=0)) + 1)
        return found

    def known(self, keys: Keys) -> Ints:
        """The numbers of those keys that have one, each once."""
        slots = self._index.find(keys)
        return distinct(slots[slots >= 0]) + 1

    def refresh(self, live: LiveModel, which: Ints, now: int) -> None:
        """Read what the model says of some entries."""
        dim = self.vectors.shape[1]
        for first in range(0, len(which), LOOKUPS):
            part = which[first : first + LOOKUPS]
            with live.lock:
                model = live.model
                of = np.full(len(part), self.column, dtype=np.int32)
                found, slots = means_of(model, of, self.key[part], now)
                if dim:
                    vectors = model.tables[model.table_of[self.column]].vectors(slots)
            self.mean[part] = found
            self.exists[part] = slots >= 0
            if dim:
                self.vectors[part] = vectors[:, :dim]


class Entries:
    """The entries of all items, by column. One thread writes; others read, and see a value or the one before.

    Args:
        live: the model.
        of: the feature of the items.
        items_max: items that there is room for.
    """

    def __init__(self, live: LiveModel, of: str, items_max: int) -> None:
        self._live = live
        model = live.model
        self._of = model.encoder.column_of(of)
        self._items_max = items_max
        self._dims = [0] * model.encoder.columns
        if model.settings.deep != "none":
            self._dims[: len(model.dims)] = [min(dim, DIM_MAX) for dim in model.dims]
        self.columns: dict[int, EntryColumn] = {}
        self.layers: list[Layer] = []
        self.base = np.zeros(items_max, dtype=np.float32)  # of each item, the sum of its entries' means
        self._layers: dict[tuple[int, int], Layer] = {}  # by column and number in it
        self._column(self._of)
        self._layer(self._of, 0)

    def __len__(self) -> int:
        return sum(column.count - 1 for column in self.columns.values())

    @property
    def full(self) -> bool:
        """Whether there is little room for further entries: build new ones."""
        return any(column.full for column in self.columns.values())

    def existing(self, items: int) -> npt.NDArray[np.bool_]:
        """Which of the first items have a row in the model, (items,)."""
        return self.columns[self._of].exists[self.layers[0].ids[:items]]

    def put(self, items: Ints, rows: Rows, now: int) -> None:
        """Write the rows of some items (n,), and read what the model says of their entries."""
        for layer in list(self.layers):
            layer.ids[items] = 0
        before = runs(rows.start, rows.column)
        item = np.repeat(items, np.diff(rows.start))
        for c in distinct(rows.column).tolist():
            mine = np.flatnonzero(rows.column == c)
            column = self._column(c)
            numbers = column.number(rows.key[mine])
            for j in range(int(before[mine].max()) + 1):
                found = self._layer(c, j)
                if found is None:
                    break
                here = before[mine] == j
                found.xs[item[mine[here]]] = rows.x[mine[here]]
                found.ids[item[mine[here]]] = numbers[here]
            column.refresh(self._live, distinct(numbers[numbers > 0]).astype(np.int64), now)

    def take(self, table: int, keys: Keys, now: int) -> None:
        """Read again the entries of those keys of a table that an update has written or deleted."""
        of = self._live.model.table_of
        for c, column in self.columns.items():
            if of[c] == table and len(known := column.known(keys)):
                column.refresh(self._live, known, now)

    def take_all(self, now: int) -> None:
        """Read all entries again."""
        for column in list(self.columns.values()):
            column.refresh(self._live, np.arange(1, column.count), now)

    def settle(self, items: int) -> None:
        """Add up the means of the first items' entries; after any change."""
        total = np.zeros(items, dtype=np.float32)
        for layer in self.layers:
            add_gains(layer.ids, layer.xs, self.columns[layer.column].mean, total)
        self.base[:items] = total

    def _column(self, column: int) -> EntryColumn:
        if column not in self.columns:
            room = self._items_max + SPARE
            # another dict: readers go through the one that they have
            self.columns = {**self.columns, column: EntryColumn(column, room, self._dims[column])}
        return self.columns[column]

    def _layer(self, column: int, number: int) -> Layer | None:
        if (column, number) not in self._layers:
            if len(self.layers) == LAYERS_MAX:
                return None
            ids = np.zeros(self._items_max, dtype=np.int32)
            layer = Layer(column, ids, np.zeros(self._items_max, dtype=np.float32))
            self._layers[column, number] = layer
            self.layers = [*self.layers, layer]
        return self._layers[column, number]


def means_of(model: Model, column: npt.NDArray[np.int32], keys: Keys, now: int) -> tuple[Floats, Ints]:
    """The fast part's means (n,) of entries of one table for the first target, with those of their counts,
    and their slots (n,), -1 without a row. Hold the lock."""
    table, fast = model.tables[model.table_of[column[0]]], model.fast
    slots = table.find(keys, now)
    weights, seen = table.extras(slots), table.counts(slots)
    found = means(weights, seen, column, fast.columns, fast.dense.count_weights, fast.priors.tau)
    return found, slots

"""Many features at once: each with a table of its own, lists of ids pooled, one matrix for a network.

tables = FeatureTables({
    "user": TableFeature(TableSpec(dim=16)),
    "tags": TableFeature(TableSpec(dim=8, optimizer="ftrl"), pooling="mean"),
})
batch = tables.lookup({"user": Ids(users), "tags": Ids(tags, start)}, times)
...  # batch.vectors, (n, 24), into a network; its gradient comes back
tables.apply(batch, gradients)
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from embeddings.errors import TableInputError
from embeddings.kernels.pooling import entry_rows, pool, unpool
from embeddings.spec import TableSpec
from embeddings.table.checks import as_floats, as_keys, as_uint32
from embeddings.table.table import Table
from embeddings.types import Block, Floats


class TableFeature(msgspec.Struct, frozen=True):
    """One feature: its table, and how the vectors of a row's ids become one."""

    spec: TableSpec
    pooling: Literal["sum", "mean"] = "sum"


class Ids(NamedTuple):
    """One feature's ids in n rows: one a row, or those of row r at start[r] to start[r + 1]."""

    keys: npt.ArrayLike  # (k,) integers
    start: npt.ArrayLike | None = None  # (n + 1,), from 0 to k; None: one id a row


class Bag(NamedTuple):
    """One feature of a batch: k entries over n rows."""

    rows: npt.NDArray[np.int64]  # (k,), each entry's row
    x: Floats  # (k,), by which its vector is multiplied
    column: npt.NDArray[np.int32]  # (k,), where the feature's columns begin
    block: Block


class Pooled(NamedTuple):
    """A batch of n rows, looked up."""

    vectors: Floats  # (n, width), the features side by side; zeros where a row has no ids that have a row
    bags: dict[str, Bag]


class FeatureTables:
    """A table for each feature, with dimensions, optimizers and lifetimes of their own.

    Args:
        features: by name; their columns come in this order.
    """

    def __init__(self, features: Mapping[str, TableFeature]) -> None:
        if not features:
            raise TableInputError("a batch of no features has nothing to look up: declare at least one")
        self.features = dict(features)
        self.tables: dict[str, Table] = {}
        self.columns: dict[str, slice] = {}
        at = 0
        for name, feature in self.features.items():
            self.tables[name] = Table(msgspec.structs.replace(feature.spec, name=name))
            self.columns[name] = slice(at, at + feature.spec.dim)
            at += feature.spec.dim
        self.width = at

    def lookup(self, ids: Mapping[str, Ids], times: npt.ArrayLike) -> Pooled:
        """Find or make every id's row, and pool its vectors.

        Args:
            ids: of each feature that the batch has; the columns of others are zeros.
            times: (n,), Unix seconds of the rows.

        Raises:
            TableInputError: a feature is unknown, or its rows are not n.
        """
        stamps = np.asarray(times)
        n = len(stamps) if stamps.ndim == 1 else -1
        unknown = sorted(set(ids) - set(self.features))
        if unknown or n < 0:
            raise TableInputError(
                f"times must be (n,), and features among {', '.join(self.features)}; got times of shape "
                f"{stamps.shape} and {', '.join(unknown) or 'no other feature'}"
            )
        times32 = as_uint32("features", stamps, n, "times")
        vectors = np.zeros((n, self.width), dtype=np.float32)
        bags = {}
        for name, feature in self.features.items():
            if name not in ids:
                continue
            keys = as_keys(name, ids[name].keys)
            start = self._start(name, ids[name], len(keys), n)
            rows = entry_rows(start)
            x = np.ones(len(keys), dtype=np.float32)
            if feature.pooling == "mean":
                x /= np.diff(start)[rows].astype(np.float32)
            table = self.tables[name]
            block = table.block(keys, times32[rows])
            column = np.full(len(keys), self.columns[name].start, dtype=np.int32)
            bags[name] = Bag(rows, x, column, block)
            pool(rows, block.inverse, x, block.vectors, table.spec.dim, column, vectors)
        return Pooled(vectors, bags)

    def apply(self, batch: Pooled, gradients: npt.ArrayLike) -> None:
        """One optimizer step of every feature's rows, from the gradient (n, width) of `batch.vectors`."""
        array = as_floats("features", gradients, batch.vectors.shape, "gradients")
        for name, bag in batch.bags.items():
            table = self.tables[name]
            by_entry = unpool(bag.rows, bag.x, array, bag.column, table.spec.dim)
            table.apply_block(bag.block, by_entry)

    def _start(self, name: str, ids: Ids, k: int, n: int) -> npt.NDArray[np.int64]:
        start = np.arange(k + 1) if ids.start is None else np.asarray(ids.start)
        fits = start.shape == (n + 1,) and start.dtype.kind in "iu" and start[0] == 0 and start[-1] == k
        if not fits or (np.diff(start.astype(np.int64)) < 0).any():
            raise TableInputError(
                f"feature {name!r}: {k} ids do not make {n} rows; start must be (n + 1,) integers, never "
                "falling, from 0 to the number of ids"
            )
        return np.require(start, dtype=np.int64, requirements=["C", "W"])

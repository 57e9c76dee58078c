"""Many features at once: one table per feature, lists of ids pooled, one matrix as input of a network.

tables = FeatureTables({
    "user": TableFeature(TableSpec(dim=16)),
    "tags": TableFeature(TableSpec(dim=8, optimizer="ftrl"), pooling="mean"),
})
batch = tables.lookup({"user": Ids(users), "tags": Ids(tags, start)}, times)
...  # pass batch.vectors, (n, 24), to a network; compute its gradient
tables.apply(batch, gradients)
"""

from __future__ import annotations

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
    """One feature: the settings of its table, and how the vectors of a list of ids are pooled."""

    spec: TableSpec
    pooling: Literal["sum", "mean"] = "sum"


class Ids(NamedTuple):
    """The ids of one feature in n rows: one per row, or for row r the ids start[r] to start[r + 1]."""

    keys: npt.ArrayLike  # (k,) integers
    start: npt.ArrayLike | None = None  # (n + 1,), from 0 to k; None: one id per row


class Bag(NamedTuple):
    """One feature of a batch: k entries in n rows."""

    rows: npt.NDArray[np.int64]  # (k,), each entry's row
    x: Floats  # (k,), factor of each entry's vector
    column: npt.NDArray[np.int32]  # (k,), first column of the feature
    block: Block


class Pooled(NamedTuple):
    """The result of `lookup` for a batch of n rows."""

    vectors: Floats  # (n, width), the features side by side; zeros for features without a known id
    bags: dict[str, Bag]


class FeatureTables:
    """One table per feature, each with its own dimension, optimizer and TTL.

    Args:
        features: the features by name; their columns are in this order.
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

    def __repr__(self) -> str:
        return f"<FeatureTables {', '.join(self.features)}: {self.width} columns>"

    def lookup(self, ids: Mapping[str, Ids], times: npt.ArrayLike) -> Pooled:
        """Find or make the row of every id, and pool the vectors.

        Args:
            ids: the ids of each feature in the batch; the columns of other features are zeros.
            times: (n,), Unix seconds of each row.

        Raises:
            TableInputError: a feature is unknown, or does not have n rows.
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
        """One optimizer step for all features, with the gradient (n, width) of `batch.vectors`."""
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
                "decreasing, from 0 to the number of ids"
            )
        return np.require(start, dtype=np.int64, requirements=["C", "W"])

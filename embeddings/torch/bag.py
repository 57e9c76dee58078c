"""`EmbeddingBag`: lists of ids of many features, pooled, in one call."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch.autograd.function import FunctionCtx, once_differentiable

from embeddings.errors import TableInputError
from embeddings.kernels import bags
from embeddings.spec import TableSpec
from embeddings.table.table import Table
from embeddings.torch.ids import Ints, lists_of
from embeddings.torch.module import TableModule
from embeddings.torch.rows import FoundRows, TableRows
from embeddings.types import Floats
from embeddings.views.features import TableFeature


class EmbeddingBag(TableModule):
    """Pooled vectors of one or many features, side by side; each feature with a table of its own.

    Modes, learning and saving are as of `EmbeddingTable`. Bags without an id give zeros. An id without a row
    (not admitted yet, or unseen in eval) counts as zeros, also for the mean.

    Args:
        features: by name: the settings of a new table, a table, or a `TableFeature` with its own pooling. Or
            only one of these, for a module with one feature that is called with its ids alone.
        pooling: "sum" or "mean", where a feature says nothing else.
        padding_idx: in a matrix of ids, this id counts as none.
        dtype: of the output, as of `EmbeddingTable`.

    Raises:
        TableInputError: no features, or an unknown pooling.
        TableError: a table has dim 0.
    """

    def __init__(
        self,
        features: Mapping[str, TableSpec | TableFeature | Table] | TableSpec | TableFeature | Table,
        *,
        pooling: str = "sum",
        padding_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        alone = None
        if not isinstance(features, Mapping):
            alone = features.name if isinstance(features, TableSpec) else features.spec.name
            features = {alone: features}
        if not features:
            raise TableInputError("an EmbeddingBag needs at least one feature")
        tables: dict[str, Table] = {}
        means: dict[str, bool] = {}
        for name, feature in features.items():
            how = feature.pooling if isinstance(feature, TableFeature) else pooling
            if how not in ("sum", "mean"):
                raise TableInputError(f"feature {name!r}: pooling must be sum or mean, not {how!r}")
            means[name] = how == "mean"
            if isinstance(feature, Table):
                tables[name] = feature
            else:
                spec = feature.spec if isinstance(feature, TableFeature) else feature
                tables[name] = Table(msgspec.structs.replace(spec, name=name))
        super().__init__(tables, dtype)
        self._alone = alone
        self._means = means
        self.padding_idx = padding_idx
        self.columns: dict[str, slice] = {}
        """The columns of each feature in the output."""
        at = 0
        for name, table in tables.items():
            self.columns[name] = slice(at, at + table.spec.dim)
            at += table.spec.dim
        self.width = at
        """Columns of the output."""

    @torch.compiler.disable
    def forward(self, ids: object, times: object = None) -> torch.Tensor:
        """The pooled vectors of n rows.

        Args:
            ids: of each feature, by name; columns of features that are left out are zeros. The ids of a
                feature: (n,), one per row; a matrix (n, L), padded with `padding_idx`; `Jagged`, `Padded`,
                also with weights (pooling by sum only); a nested tensor (torch.jagged); lists of lists.
            times: event times in Unix seconds: one, or one for each row (n,). None: the newest given so far.

        Returns:
            (n, width), of the module's dtype and on its device.

        Raises:
            TableInputError: ids, weights or times of another type, shape or range; features with different
                numbers of rows, or an unknown feature.
        """
        if self._alone is not None and not isinstance(ids, Mapping):
            ids = {self._alone: ids}
        named = self._check_names(ids)
        read = {name: lists_of(f"feature {name!r}", of, self.padding_idx) for name, of in named.items()}
        sizes = {name: len(lists.start) - 1 for name, lists in read.items()}
        n = next(iter(sizes.values()))
        if set(sizes.values()) != {n}:
            raise TableInputError(
                "features have different numbers of rows: "
                + ", ".join(f"{name} {size}" for name, size in sizes.items())
            )
        for name, lists in read.items():
            if lists.weights is not None and self._means[name]:
                raise TableInputError(
                    f"feature {name!r}: weights go with pooling by sum; for a mean divide them by their sum"
                )
        stamps = {name: self._rows[name].times(times, (n,)) for name in read}
        parts = []
        weights: list[torch.Tensor] = []
        for name, (keys, start, weight) in read.items():
            rows, of_rows = self._rows[name], stamps[name]
            seen = rows.look_up(
                keys, np.repeat(of_rows, np.diff(start)) if of_rows.ndim else of_rows, learn=self.learns
            )
            x, number = np.zeros(0, dtype=np.float32), -1
            if weight is not None:
                number = len(weights)
                weights.append(weight.to(device="cpu", dtype=torch.float32).contiguous())
                x = weights[-1].detach().numpy()
            first, mean = self.columns[name].start, self._means[name]
            parts.append(_Part(rows, seen, start, x, number, first, mean))
        if self.learns:
            out: torch.Tensor = _Bags.apply(self._anchor, (n, self.width), parts, *weights)
        else:
            out = _pooled((n, self.width), parts)
        return self._like(out)

    def split(self, out: torch.Tensor) -> dict[str, torch.Tensor]:
        """The columns of the output by feature: views (n, dim)."""
        return {name: out[:, columns] for name, columns in self.columns.items()}

    def extra_repr(self) -> str:
        """The features' settings, for `print`."""
        return ", ".join(
            f"{name}: dim={table.spec.dim} {'mean' if self._means[name] else 'sum'}"
            for name, table in self.tables.items()
        )

    def _check_names(self, ids: object) -> Mapping[str, object]:
        if not isinstance(ids, Mapping) or not ids or set(ids) - set(self._rows):
            got = ", ".join(map(str, ids)) if isinstance(ids, Mapping) else f"a {type(ids).__name__}"
            raise TableInputError(
                f"ids must be given by feature, among {', '.join(self._rows)}; got {got or 'none'}"
            )
        return ids


class _Part(NamedTuple):
    """One feature of a batch."""

    rows: TableRows
    seen: FoundRows
    start: Ints  # (n + 1,)
    x: Floats  # (k,), or (0,) for ones
    weight: int  # number of the tensor of weights; -1: none
    first: int  # of the feature's columns
    mean: bool


def _pooled(shape: tuple[int, int], parts: list[_Part]) -> torch.Tensor:
    out = np.zeros(shape, dtype=np.float32)
    for _, seen, start, x, _, first, mean in parts:
        bags.pool_bags(start, seen.inverse, x, seen.vectors, first, mean, out)
    return torch.from_numpy(out)


class _Context(FunctionCtx):
    """What the forward pass leaves for the backward pass."""

    parts: list[_Part]
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[torch.Tensor, ...]


class _Bags(torch.autograd.Function):
    """The pooled vectors (n, width) of a batch; its backward pass gives the gradients to the tables."""

    @staticmethod
    def forward(
        ctx: "_Context",
        anchor: torch.Tensor,
        shape: tuple[int, int],
        parts: list[_Part],
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        ctx.parts = parts
        ctx.save_for_backward(anchor)  # so that torch refuses a second pass without retain_graph
        return _pooled(shape, parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: "_Context", by_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        _ = ctx.saved_tensors
        gradients = by_out.contiguous().numpy()
        by_weights: list[torch.Tensor | None] = [None] * (len(ctx.needs_input_grad) - 3)
        for rows, seen, start, x, weight, first, mean in ctx.parts:
            if weight >= 0 and ctx.needs_input_grad[3 + weight]:
                by_x = np.zeros(len(x), dtype=np.float32)
                bags.weigh_bags(start, seen.inverse, seen.vectors, gradients, first, by_x)
                by_weights[weight] = torch.from_numpy(by_x)
            sums = np.zeros(seen.vectors.shape, dtype=np.float32)
            bags.unpool_bags(start, seen.inverse, x, gradients, first, mean, sums)
            rows.take(seen, sums)
        return None, None, None, *by_weights

"""`EmbeddingTable`: like `nn.Embedding`, for any ids, without a vocabulary."""

import numpy as np
import torch
from torch.autograd.function import FunctionCtx, once_differentiable

from embeddings.kernels import batches
from embeddings.spec import TableSpec
from embeddings.table.table import Table
from embeddings.torch.ids import Jagged, as_mask, jagged, keys_of, unpadded
from embeddings.torch.module import TableModule
from embeddings.torch.rows import FoundRows, TableRows


class EmbeddingTable(TableModule):
    """Vectors of ids, as `nn.Embedding` gives them, for any ids of 64 bits or text.

    In training mode with gradients enabled, a call makes rows for new ids and counts sightings, and the
    backward pass trains the rows by the table's own optimizer: `optimizer` and `learning_rate` of its spec.
    In `eval()`, under `no_grad` and `inference_mode` it only reads, and an id without a row has zeros.

    Args:
        spec: the settings of a new table, or a table.
        padding_idx: this id has zeros and no row.
        dtype: of the output: torch.float32, bfloat16 or float16; `module.to(...)` changes it. Rows and their
            gradients are float32.

    Raises:
        TableError: the table has dim 0.
    """

    def __init__(
        self,
        spec: TableSpec | Table,
        *,
        padding_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        table = spec if isinstance(spec, Table) else Table(spec)
        super().__init__({table.spec.name: table}, dtype)
        self._name = table.spec.name
        self.padding_idx = padding_idx

    @property
    def table(self) -> Table:
        """The table. `load_state_dict` makes a new one."""
        return self._rows[self._name].table

    @torch.compiler.disable
    def forward(self, ids: object, times: object = None, mask: object = None) -> torch.Tensor:
        """The vectors of ids.

        Args:
            ids: integers or text: a tensor, array or list of any shape; a nested tensor (torch.jagged); or
                `Jagged` without weights, of which the vectors of `values` are returned.
            times: event times in Unix seconds: one, or one for each id, or for each of the first dimension.
                None: the newest that was given so far.
            mask: bool of the shape of ids; where it is false, there is no id: zeros.

        Returns:
            (*shape of ids, dim), of the module's dtype and on its device; nested for a nested tensor.

        Raises:
            TableInputError: ids, times or mask of another type, shape or range.
        """
        nested = ids if isinstance(ids, torch.Tensor) and ids.is_nested else None
        parts = None if nested is None else jagged(nested)
        values = parts.values if parts is not None else ids.values if isinstance(ids, Jagged) else ids
        where = f"table {self._name!r}"
        keys, shape = keys_of(where, values)
        rows = self._rows[self._name]
        stamps = rows.times(times, shape)
        there = unpadded(keys, self.padding_idx)
        if mask is not None:
            there &= as_mask(where, mask, shape).reshape(-1)
        if not there.all():
            keys, stamps = keys[there], stamps[there] if stamps.ndim else stamps
        seen = rows.look_up(keys, stamps, learn=self.learns)
        out: torch.Tensor
        if self.learns:
            out = _Vectors.apply(self._anchor, rows, seen)
        else:
            out = _spread(seen)
        if not there.all():
            whole = out.new_zeros(there.size, out.shape[1])
            out = whole.index_copy(0, torch.from_numpy(np.flatnonzero(there)), out)
        out = self._like(out.view(*shape, out.shape[1]))
        if parts is None:
            return out
        return torch.nested.nested_tensor_from_jagged(out, torch.as_tensor(parts.offsets).to(out.device))

    def extra_repr(self) -> str:
        """The table's settings, for `print`."""
        spec = self.table.spec
        return f"{spec.name!r}, dim={spec.dim}, optimizer={spec.optimizer}, rows={len(self.table)}"


def _spread(seen: FoundRows) -> torch.Tensor:
    out = np.empty((len(seen.inverse), seen.vectors.shape[1]), dtype=np.float32)
    batches.spread(seen.vectors, seen.inverse, out)
    return torch.from_numpy(out)


class _Context(FunctionCtx):
    """What the forward pass leaves for the backward pass."""

    rows: TableRows
    seen: FoundRows
    saved_tensors: tuple[torch.Tensor, ...]


class _Vectors(torch.autograd.Function):
    """The vectors (k, dim) of a batch; its backward pass gives the gradients to the table."""

    @staticmethod
    def forward(ctx: "_Context", anchor: torch.Tensor, rows: TableRows, seen: FoundRows) -> torch.Tensor:
        ctx.rows, ctx.seen = rows, seen
        ctx.save_for_backward(anchor)  # so that torch refuses a second pass without retain_graph
        return _spread(seen)

    @staticmethod
    @once_differentiable
    def backward(ctx: "_Context", by_out: torch.Tensor) -> tuple[None, None, None]:
        _ = ctx.saved_tensors
        seen: FoundRows = ctx.seen
        sums = np.zeros(seen.vectors.shape, dtype=np.float32)
        batches.total(seen.inverse, by_out.contiguous().numpy(), sums)
        ctx.rows.take(seen, sums)
        return None, None, None

"""What the modules over tables share: mode, dtype and device, saving, and when a step is taken."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from embeddings.errors import SnapshotError
from embeddings.table.table import Table
from embeddings.torch.rows import TableRows


class TableModule(nn.Module):
    """A module whose rows are in tables, by name.

    Args:
        tables: the tables by name.
        dtype: of the output.
    """

    like: torch.Tensor

    def __init__(self, tables: Mapping[str, Table], dtype: torch.dtype) -> None:
        super().__init__()
        self._rows = {name: TableRows.over(table) for name, table in tables.items()}
        # The output has the dtype and device of this buffer, which `module.to(...)` changes.
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)
        # autograd calls `backward` only for what depends on a tensor that requires a gradient
        self._anchor = torch.empty(0, requires_grad=True)

    @property
    def tables(self) -> dict[str, Table]:
        """The tables by name, for example for a `SnapshotFolder`. `load_state_dict` makes new ones."""
        return {name: rows.table for name, rows in self._rows.items()}

    @property
    def learns(self) -> bool:
        """Whether a call now makes rows and can be learned from: in training mode, with gradients enabled."""
        return self.training and torch.is_grad_enabled()

    @property
    def skipped(self) -> int:
        """Steps that were left out because a gradient was not finite."""
        return sum(rows.skipped for rows in self._distinct())

    def hold(self, held: bool = True) -> None:
        """Let gradients wait until `step`, over any number of backward passes; `hold(False)`: no longer."""
        for rows in self._distinct():
            rows.held = held

    def step(self) -> None:
        """After `hold`: one optimizer step by the sum of all gradients since the last one."""
        for rows in self._distinct():
            rows.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """After `hold`: forget the gradients that wait."""
        super().zero_grad(set_to_none)
        for rows in self._distinct():
            rows.drop()

    def get_extra_state(self) -> dict[str, torch.Tensor]:
        """The tables as bytes, for `state_dict`."""
        return {name: rows.state() for name, rows in self._rows.items()}

    def set_extra_state(self, saved: object) -> None:
        """Replace the tables by those of a `state_dict`; nothing is changed if one does not fit.

        Raises:
            SnapshotError: it has other tables, or one is damaged or of another layout.
        """
        if not isinstance(saved, dict) or set(saved) != set(self._rows):
            there = ", ".join(map(str, saved)) if isinstance(saved, dict) else f"a {type(saved).__name__}"
            raise SnapshotError(f"state_dict has tables {there}; this module has {', '.join(self._rows)}")
        read = {name: rows.read_state(saved[name]) for name, rows in self._rows.items()}
        for name, table in read.items():
            self._rows[name].replace(table)

    def _like(self, out: torch.Tensor) -> torch.Tensor:
        """The output in the module's dtype and on its device."""
        return out.to(device=self.like.device, dtype=self.like.dtype)

    def _distinct(self) -> Iterable[TableRows]:
        return {id(rows): rows for rows in self._rows.values()}.values()

"""Classes of PyTorch for tests of `embeddings.torch`, in a file of their own: PyTorch is imported late."""

from typing import Any

import torch
from torch.utils.data import Dataset

from embeddings.torch import EmbeddingTable


class Failing(torch.autograd.Function):
    """A function whose backward pass fails."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, by: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError


class Texts(Dataset[str]):
    """Eight ids, three of them different."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, at: int) -> Any:
        return f"u{at % 3}"


class Calls(Texts):
    """A dataset that calls a table where its rows are prepared."""

    def __init__(self, table: EmbeddingTable) -> None:
        self.table = table

    def __getitem__(self, at: int) -> Any:
        return self.table([at])


class Scorer(torch.nn.Module):
    """A table and a layer."""

    def __init__(self, items: EmbeddingTable) -> None:
        super().__init__()
        self.items = items
        self.head = torch.nn.Linear(3, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.items(ids).tanh()).squeeze(-1).sigmoid()

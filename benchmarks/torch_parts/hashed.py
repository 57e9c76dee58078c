"""The usual way beside the table: ids hashed to a fixed number of rows of `nn.EmbeddingBag`."""

from typing import Any

import numpy as np
import torch
from torch import nn

from embeddings.torch import Jagged

_ODD = np.uint64(0x9E3779B97F4A7C15)


class HashedBags(nn.Module):
    """One `nn.EmbeddingBag` for each feature, of `rows` rows; unseen ids share rows with others.

    Args:
        lists: which features are lists of ids, pooled by mean.
        rows: of each feature.
        width: columns of a feature.
        sparse: whether gradients are sparse tensors.
    """

    def __init__(self, lists: dict[str, bool], rows: int, width: int, *, sparse: bool) -> None:
        super().__init__()
        self.rows = rows
        self.bags = nn.ModuleDict(
            {
                name: nn.EmbeddingBag(
                    rows, width, mode="mean" if many else "sum", sparse=sparse, include_last_offset=True
                )
                for name, many in lists.items()
            }
        )
        for bag in self.bags.values():
            nn.init.normal_(bag.weight, std=0.01)

    def forward(self, ids: dict[str, Any], times: torch.Tensor | None = None) -> torch.Tensor:
        """(n, F * width), the features side by side."""
        parts = []
        for name, bag in self.bags.items():
            values, offsets, _ = ids[name] if isinstance(ids[name], Jagged) else (ids[name], None, None)
            mixed = (values.numpy().view(np.uint64) * _ODD) >> np.uint64(32)
            hashed = torch.from_numpy((mixed % np.uint64(self.rows)).astype(np.int64))
            parts.append(bag(hashed[:, None]) if offsets is None else bag(hashed, offsets))
        return torch.cat(parts, 1)

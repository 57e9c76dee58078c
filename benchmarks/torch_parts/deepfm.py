"""DeepFM (Guo et al. 2017, arXiv 1703.04247) on a table, and the same model on hashed embeddings of torch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from embeddings import TableFeature, TableSpec
from embeddings.torch import EmbeddingBag

Ids = dict[str, Any]


class DeepFM(nn.Module):
    """The logit of n rows. `embed` gives (n, F * (1 + dim)): of each feature a weight, then a vector."""

    def __init__(self, embed: nn.Module, fields: int, dim: int) -> None:
        super().__init__()
        self.embed, self.shape = embed, (fields, 1 + dim)
        self.bias = nn.Parameter(torch.zeros(1))
        self.deep = nn.Sequential(
            nn.Linear(fields * dim, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, ids: Ids, times: torch.Tensor) -> torch.Tensor:
        found = self.embed(ids, times).unflatten(1, self.shape)  # (n, F, 1 + dim)
        weights, vectors = found[..., 0], found[..., 1:]
        pairs = vectors.sum(1).square() - vectors.square().sum(1)  # (n, dim)
        deep = self.deep(vectors.flatten(1)).squeeze(1)
        return self.bias + weights.sum(1) + 0.5 * pairs.sum(1) + deep


def on_tables(lists: dict[str, bool], dim: int, ttl_s: int = 0) -> DeepFM:
    """On a table for each feature; `lists` says which features are lists of ids, pooled by mean."""
    spec = TableSpec(dim=1 + dim, optimizer="adagrad", learning_rate=0.05, init="normal", ttl_s=ttl_s)
    features = {name: TableFeature(spec, "mean" if many else "sum") for name, many in lists.items()}
    return DeepFM(EmbeddingBag(features), len(lists), dim)


def train(
    model: DeepFM, optimizers: Sequence[torch.optim.Optimizer], ids: Ids, times: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """Predict n rows, then learn them; returns the logits (n,) from before."""
    logits = model(ids, times)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="sum")
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()  # the rows of the tables learn here
    for optimizer in optimizers:
        optimizer.step()
    return logits.detach()

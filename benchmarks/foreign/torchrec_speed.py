"""How many ids a second the torch module takes beside torchrec's, both ways, while unseen ids arrive.

torchrec needs an FBGEMM that is built for one release of torch, so this runs in an environment of its own
(`pip install . fbgemm-gpu-cpu==1.9.* torch==2.14.* torchrec`), from the root:

    PYTHONPATH=. PYTHON benchmarks/foreign/torchrec_speed.py

One thread; times are the thread's own clock of the processor; all modules by turns on the same ids.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torchrec
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from torch_parts import speed

SIZES = speed.Sizes(population=200_000, rows=1 << 20, steps=3, repeats=3)
OFFSETS = torch.arange(0, speed.IDS + 1, speed.PER_BAG)
GRADIENT = torch.full((speed.BAGS, speed.DIM), 0.01)


def hashed(ids: torch.Tensor) -> torch.Tensor:
    """Ids as row numbers of a table of fixed size."""
    return torch.from_numpy((ids.numpy().view(np.uint64) % SIZES.rows).astype(np.int64))


def collection() -> speed.Step:
    """torchrec's EmbeddingBagCollection with torch's Adagrad."""
    config = torchrec.EmbeddingBagConfig(
        name="t", embedding_dim=speed.DIM, num_embeddings=SIZES.rows, feature_names=["f"],
        pooling=torchrec.PoolingType.SUM,
    )  # fmt: skip
    module = torchrec.EmbeddingBagCollection(device=torch.device("cpu"), tables=[config])
    optimizer = torch.optim.Adagrad(module.parameters(), lr=0.1)

    def step(ids: torch.Tensor) -> None:
        optimizer.zero_grad()
        lists = torchrec.KeyedJaggedTensor(["f"], hashed(ids), offsets=OFFSETS)
        module(lists).values().backward(GRADIENT)
        optimizer.step()

    return step


def fused() -> speed.Step:
    """FBGEMM's tables, which torchrec shards: Adagrad within the backward pass."""
    tables = [(SIZES.rows, speed.DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)]
    module = SplitTableBatchedEmbeddingBagsCodegen(
        tables, optimizer=EmbOptimType.EXACT_ADAGRAD, learning_rate=0.1
    )

    def step(ids: torch.Tensor) -> None:
        module(hashed(ids), OFFSETS).backward(GRADIENT)

    return step


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    modules = {
        "EmbeddingBag, adagrad": speed._ours("adagrad", SIZES),
        "nn.EmbeddingBag, sparse, Adagrad": speed._torch(speed._adagrad, SIZES, sparse=True),
        "torchrec's EmbeddingBagCollection, Adagrad": collection(),
        "FBGEMM's fused tables, Adagrad": fused(),
    }
    took: dict[str, list[float]] = {name: [] for name in modules}
    for repeat in speed.streams(SIZES):
        for row in repeat:
            ids = torch.from_numpy(row.view(np.int64))
            for name, step in modules.items():
                began = time.thread_time()
                step(ids)
                took[name].append(time.thread_time() - began)
    for name, seconds in took.items():
        print(f"{name}: {speed.IDS / statistics.median(seconds) / 1e6:.2f} million ids/s")


if __name__ == "__main__":
    main()

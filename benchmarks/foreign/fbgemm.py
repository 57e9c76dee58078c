"""The peer of benchmarks/table.py that needs an environment of its own: FBGEMM's CPU table, ids hashed.

Started by benchmarks/table.py in the interpreter named with --peer-python; imports nothing of Freshet.
For each line on its input it runs the steps once and prints one JSON object of times. The recipe for
the environment is in benchmarks/README.md.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    BoundsCheckMode,
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

OPTIMIZERS = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
}


class Peer:
    """One table, shared by all features. Layout "features" gives a vector for each id, "pooled" their sums.

    (`PoolingMode.NONE` gives a vector for each id too, but is six times slower on a CPU.)
    """

    def __init__(self, rows: int, dim: int, features: int, optimizer: EmbOptimType, layout: str) -> None:
        split = layout == "features"
        self._table = SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            feature_table_map=[0] * (features if split else 1),
            optimizer=optimizer,
            learning_rate=0.1,
            eps=1e-10,
            pooling_mode=PoolingMode.SUM,
            bounds_check_mode=BoundsCheckMode.NONE,
        )
        self._rows = np.uint64(rows)
        self._bag = 1 if split else features

    def step_ms(self, ids: np.ndarray) -> float:
        """Hash the ids, look up, take a gradient of the outputs' shape, step: how long that takes."""
        offsets = torch.arange(0, len(ids) + 1, self._bag, dtype=torch.int64)
        start = time.perf_counter()
        hashed = torch.from_numpy((ids % self._rows).astype(np.int64))
        out = self._table(hashed, offsets)
        made = time.perf_counter()
        gradient = torch.full(out.shape, 0.01)
        start += time.perf_counter() - made  # making the gradient is not the table's work
        out.backward(gradient)
        return (time.perf_counter() - start) * 1e3


def main() -> None:
    """Serve repeats until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("ids", type=Path, help=".npy of (steps, ids a step) uint64")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--features", type=int, required=True)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    steps = np.load(arguments.ids)
    peers = {
        f"{name}/{layout}": Peer(arguments.rows, arguments.dim, arguments.features, optimizer, layout)
        for name, optimizer in OPTIMIZERS.items()
        for layout in ("features", "pooled")
    }
    for peer in peers.values():
        peer.step_ms(steps[0])
    for _ in sys.stdin:
        print(
            json.dumps({name: [peer.step_ms(ids) for ids in steps] for name, peer in peers.items()}),
            flush=True,
        )


if __name__ == "__main__":
    main()

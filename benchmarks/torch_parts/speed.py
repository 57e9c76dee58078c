"""How many ids a second a module takes, forward and backward with a step, while unseen ids arrive."""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from embeddings import TableSpec
from embeddings.torch import EmbeddingBag, Jagged

BAGS, PER_BAG, DIM = 4096, 20, 16
IDS = BAGS * PER_BAG
NEW_SHARE = 0.02
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd: a bijection from ranks to 64-bit ids

Step = Callable[[torch.Tensor], None]


class Sizes(NamedTuple):
    """How long is measured."""

    population: int  # ids that are known before the first step
    rows: int  # of the hashed modules
    steps: int  # of a repeat
    repeats: int


def streams(sizes: Sizes) -> Iterator[npt.NDArray[np.uint64]]:
    """The ids of each repeat, (steps, IDS): zipf(1.05) over known ones, NEW_SHARE never seen before."""
    rng = np.random.default_rng(5)
    cumulative = np.cumsum(np.arange(1, sizes.population + 1, dtype=np.float64) ** -1.05)
    unseen = sizes.population
    for _ in range(sizes.repeats):
        ranks = np.searchsorted(cumulative, rng.random((sizes.steps, IDS)) * cumulative[-1]).astype(np.uint64)
        new = rng.random(ranks.shape) < NEW_SHARE
        count = int(np.count_nonzero(new))
        ranks[new] = np.arange(unseen, unseen + count, dtype=np.uint64)
        unseen += count
        yield (ranks + np.uint64(1)) * SPREAD


def _ours(optimizer: str, sizes: Sizes, ttl_s: int = 0) -> Step:
    bag = EmbeddingBag(
        TableSpec(name=optimizer, dim=DIM, optimizer=optimizer, learning_rate=0.1, init="normal", ttl_s=ttl_s)
    )
    known = (np.arange(sizes.population, dtype=np.uint64) + np.uint64(1)) * SPREAD
    table = bag.tables[optimizer]
    for first in range(0, len(known), 1 << 20):
        table.upsert(known[first : first + (1 << 20)], 1)
    offsets = torch.arange(0, IDS + 1, PER_BAG)
    gradient = torch.full((BAGS, DIM), 0.01)

    def step(ids: torch.Tensor) -> None:
        bag(Jagged(ids, offsets), 2).backward(gradient)

    return step


def _torch(make: Callable[[Any], torch.optim.Optimizer], sizes: Sizes, *, sparse: bool) -> Step:
    bag = torch.nn.EmbeddingBag(sizes.rows, DIM, mode="sum", sparse=sparse, include_last_offset=True)
    optimizer = make(bag.parameters())
    offsets = torch.arange(0, IDS + 1, PER_BAG)
    gradient = torch.full((BAGS, DIM), 0.01)

    def step(ids: torch.Tensor) -> None:
        hashed = torch.from_numpy((ids.numpy().view(np.uint64) % sizes.rows).astype(np.int64))
        optimizer.zero_grad()
        bag(hashed, offsets).backward(gradient)
        optimizer.step()

    return step


def _adagrad(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=0.1, initial_accumulator_value=1e-4)


def _sparse_adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SparseAdam(list(parameters), lr=0.01)


def measure_speed(sizes: Sizes, dense_rows: int, threads: int) -> dict[str, Any]:
    """Ids a second of each module, by turns on the same ids, with `threads` threads of torch."""
    torch.set_num_threads(threads)
    small = sizes._replace(rows=dense_rows)
    modules: dict[str, Step] = {
        "EmbeddingBag, adagrad": _ours("adagrad", sizes),
        "EmbeddingBag, adagrad, ttl_s": _ours("adagrad", sizes, ttl_s=1000),
        "EmbeddingBag, rowwise_adagrad": _ours("rowwise_adagrad", sizes),
        "EmbeddingBag, adam": _ours("adam", sizes),
        f"nn.EmbeddingBag {sizes.rows:,} rows, sparse, Adagrad": _torch(_adagrad, sizes, sparse=True),
        f"nn.EmbeddingBag {sizes.rows:,} rows, sparse, SparseAdam": _torch(_sparse_adam, sizes, sparse=True),
        f"nn.EmbeddingBag {dense_rows:,} rows, dense, Adagrad": _torch(_adagrad, small, sparse=False),
    }
    took: dict[str, list[float]] = {name: [] for name in modules}
    for ids in streams(sizes):
        steps = [torch.from_numpy(row.view(np.int64)) for row in ids]
        for name, step in modules.items():
            times = []
            for each in steps:
                began = time.perf_counter()
                step(each)
                times.append(time.perf_counter() - began)
            took[name].append(statistics.median(times))
    rates = {name: IDS / statistics.median(seconds) for name, seconds in took.items()}
    spread = {name: max(seconds) / min(seconds) for name, seconds in took.items()}
    return {
        "ids": IDS,
        "new_share": NEW_SHARE,
        "population": sizes.population,
        "threads": threads,
        "repeats": sizes.repeats,
        "ids_per_second": rates,
        "slowest_over_quickest_repeat": spread,
    }


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

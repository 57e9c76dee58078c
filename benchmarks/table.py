"""How fast the embedding table learns, and how evenly it grows; against torch's EmbeddingBag with Adagrad.

The workload: steps of 4096 examples × 20 ids, dim 16, ids drawn zipf(1.05) from 10 million and spread
over all 64 bits. A step looks every id up, hands out a vector for each, takes a gradient for each and
applies Adagrad. torch does the same with ids hashed to 10 million rows (so ids collide), and also with
its 20 vectors pooled by sum, which is less work for it. Both on one thread, in this process.

    .venv/bin/python benchmarks/table.py [--quick] [--json OUT]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from embeddings import Table, TableSpec

EXAMPLES, FEATURES, DIM = 4096, 20, 16
IDS = EXAMPLES * FEATURES
POPULATION = 10_000_000
EXPONENT = 1.05
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd: a bijection from ranks to 64-bit ids

Keys = npt.NDArray[np.uint64]


def draw_steps(steps: int, seed: int) -> list[Keys]:
    """`steps` arrays of IDS ids each."""
    cumulative = np.cumsum(np.arange(1, POPULATION + 1, dtype=np.float64) ** -EXPONENT)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(steps):
        ranks = np.searchsorted(cumulative, rng.random(IDS) * cumulative[-1])
        drawn.append((ranks.astype(np.uint64) + np.uint64(1)) * SPREAD)
    return drawn


def measure(step: Callable[[Keys], None], batches: list[Keys]) -> dict[str, float]:
    """Milliseconds a step, after three to warm up, and ids a second at the median."""
    for keys in batches[:3]:
        step(keys)
    times = []
    for keys in batches:
        start = time.perf_counter()
        step(keys)
        times.append(time.perf_counter() - start)
    median, worst = float(np.median(times)), float(np.max(times))
    return {"ids_per_second": IDS / median, "step_ms_median": median * 1e3, "step_ms_max": worst * 1e3}


def bench_block(batches: list[Keys], table: Table, gradients: npt.NDArray[np.float32]) -> dict[str, float]:
    """The fast way: distinct ids once, a compact block."""

    def step(keys: Keys) -> None:
        block = table.block(keys, 1)
        table.spread(block)
        table.apply_block(block, gradients)

    return measure(step, batches)


def bench_slots(batches: list[Keys], table: Table, gradients: npt.NDArray[np.float32]) -> dict[str, float]:
    """The plain way: a slot for each id."""

    def step(keys: Keys) -> None:
        slots = table.upsert(keys, 1)
        table.vectors(slots)
        table.apply_gradients(slots, gradients)

    return measure(step, batches)


def bench_stages(batches: list[Keys], table: Table, gradients: npt.NDArray[np.float32]) -> dict[str, float]:
    """Median milliseconds of the parts of the fast way."""
    parts: dict[str, list[float]] = {"block": [], "spread": [], "apply": []}
    for keys in batches:
        t0 = time.perf_counter()
        block = table.block(keys, 1)
        t1 = time.perf_counter()
        table.spread(block)
        t2 = time.perf_counter()
        table.apply_block(block, gradients)
        t3 = time.perf_counter()
        for name, took in zip(parts, (t1 - t0, t2 - t1, t3 - t2), strict=True):
            parts[name].append(took * 1e3)
    return {name: float(np.median(took)) for name, took in parts.items()}


def bench_torch(batches: list[Keys], *, pooled: bool) -> dict[str, float]:
    """torch.nn.EmbeddingBag with sparse gradients and Adagrad, ids hashed to POPULATION rows."""
    bag = torch.nn.EmbeddingBag(POPULATION, DIM, mode="sum", sparse=True)
    optimizer = torch.optim.Adagrad(bag.parameters(), lr=0.1, initial_accumulator_value=1e-4)
    shape = (EXAMPLES, FEATURES) if pooled else (IDS, 1)
    gradient = torch.full((shape[0], DIM), 0.01)

    def step(keys: Keys) -> None:
        hashed = torch.from_numpy((keys % np.uint64(POPULATION)).astype(np.int64)).view(shape)
        optimizer.zero_grad()
        bag(hashed).backward(gradient)
        optimizer.step()

    return measure(step, batches)


def bench_growth(rows: int, batch: int = 4096) -> dict[str, float]:
    """Steps of `batch` new ids from an empty table up to `rows`: the worst over the median."""
    table = Table(TableSpec(dim=DIM, rows_max=rows))
    times = []
    for start in range(1, rows, batch):
        keys = np.arange(start, min(start + batch, rows), dtype=np.uint64) * SPREAD
        began = time.perf_counter()
        table.upsert(keys, 1)
        times.append(time.perf_counter() - began)
    times = times[1:-1]
    median = float(np.median(times))
    return {
        "inserts_per_second": batch / median,
        "step_ms_median": median * 1e3,
        "step_ms_p99": float(np.quantile(times, 0.99)) * 1e3,
        "step_ms_max": max(times) * 1e3,
        "worst_over_median": max(times) / median,
        "bytes_per_row": table.nbytes / len(table),
    }


def main() -> None:
    """Run, print a line for each, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--quick", action="store_true", help="fewer steps and a smaller growth; under a minute"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the results here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # torch warns where this is left undecided.
    torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]

    steps = 20 if arguments.quick else 100
    batches = draw_steps(steps, seed=1)
    distinct = float(np.mean([len(np.unique(keys)) for keys in batches]))
    gradients = np.full((IDS, DIM), 0.01, dtype=np.float32)
    everyone = np.arange(1, POPULATION + 1, dtype=np.uint64) * SPREAD
    table = Table(TableSpec(dim=DIM, rows_max=POPULATION + 1_000_000))
    for start in range(0, POPULATION, 1_000_000):
        table.upsert(everyone[start : start + 1_000_000], 0)
    del everyone

    results = {
        "table, distinct ids in a block": bench_block(batches, table, gradients),
        "table, a slot for each id": bench_slots(batches, table, gradients),
        "torch EmbeddingBag, hashed, pooled": bench_torch(batches, pooled=True),
        "torch EmbeddingBag, hashed, a vector for each id": bench_torch(batches, pooled=False),
    }
    stages = bench_stages(batches, table, gradients)
    rows = len(table)
    del table
    growth = bench_growth(1_000_000 if arguments.quick else POPULATION)

    print(f"{IDS} ids a step, {distinct:.0f} distinct, dim {DIM}, {rows} rows, one thread")
    for name, result in results.items():
        print(
            f"{name:52s} {result['ids_per_second'] / 1e6:6.1f} M ids/s"
            f"   step {result['step_ms_median']:.2f} ms, worst {result['step_ms_max']:.2f}"
        )
    print("block way, ms: " + ", ".join(f"{name} {took:.2f}" for name, took in stages.items()))
    print(
        f"growth: {growth['inserts_per_second'] / 1e6:.1f} M inserts/s, worst step "
        f"{growth['worst_over_median']:.1f} × the median, {growth['bytes_per_row']:.0f} bytes a row"
    )
    if arguments.json:
        report = {
            "benchmark": "table",
            "quick": arguments.quick,
            "workload": {
                "ids": IDS,
                "distinct": distinct,
                "dim": DIM,
                "population": POPULATION,
                "steps": steps,
            },
            "results": results,
            "stages_ms": stages,
            "growth": growth,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

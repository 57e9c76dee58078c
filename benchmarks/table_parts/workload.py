"""What benchmarks/table.py measures with: the ids of a step, filled tables, and how medians are taken."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embeddings import Table, TableSpec

EXAMPLES, FEATURES, DIM = 4096, 20, 16
IDS = EXAMPLES * FEATURES
EXPONENT = 1.05
DAY_S = 86_400
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd: a bijection from ranks to 64-bit ids

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]


def spec_of(optimizer: str, rows: int, **settings: Any) -> TableSpec:
    """The table of the workload: TTL on, and admission at the second sighting by default."""
    return TableSpec(
        **{
            "name": optimizer,
            "dim": DIM,
            "optimizer": optimizer,
            "rows_max": rows,
            "ttl_s": 30 * DAY_S,
            "admit_after": 2,
            **settings,
        }
    )


def draw_steps(population: int, steps: int, seed: int, exponent: float = EXPONENT) -> Keys:
    """(steps, IDS) ids drawn zipf(exponent) from a population; an exponent of 0 is uniform."""
    cumulative = np.cumsum(np.arange(1, population + 1, dtype=np.float64) ** -exponent)
    drawn = np.random.default_rng(seed).random((steps, IDS)) * cumulative[-1]
    ranks = np.searchsorted(cumulative, drawn)
    return (ranks.astype(np.uint64) + np.uint64(1)) * SPREAD


def in_order_of_appearance(population: int, seed: int, exponent: float = EXPONENT) -> Keys:
    """All ids in the order in which a zipf stream shows them first: often used ones early, on the whole.

    The first sightings of independent Poisson streams of these rates: exponential times over the rates.
    """
    rng = np.random.default_rng(seed)
    arrival = rng.exponential(size=population) * np.arange(1, population + 1, dtype=np.float64) ** exponent
    return (np.argsort(arrival).astype(np.uint64) + np.uint64(1)) * SPREAD


def fill(table: Table, keys: Keys, time_s: int = 1, chunk: int = 100_000) -> None:
    """Give each key a row as after its admission, last seen at `time_s`, and drain the delta."""
    row = table.spec.template()
    row.view(np.uint32)[table.spec.seen_column] = time_s
    rows = np.tile(row, (chunk, 1))
    for start in range(0, len(keys), chunk):
        part = keys[start : start + chunk]
        table.load(part, rows[: len(part)])
        table.drain_delta()


def train_step(table: Table, keys: Keys, time_s: int, gradients: Floats) -> None:
    """One step of the workload: find or insert, a vector for each id, and the optimizer."""
    block = table.block(keys, time_s)
    table.spread(block)
    table.apply_block(block, gradients)


def milliseconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def resident_bytes() -> int:
    """Memory of this process that is in RAM, from the kernel."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def summary(values_ms: list[float]) -> dict[str, float]:
    """Median, 99th percentile and worst."""
    array = np.array(values_ms)
    return {
        "median_ms": float(np.median(array)),
        "p99_ms": float(np.quantile(array, 0.99)),
        "worst_ms": float(array.max()),
    }

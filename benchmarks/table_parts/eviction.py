"""What eviction costs in a step, beside a table that has no limit yet; by processor time."""

import time
from typing import Any

import numpy as np

from embeddings import Table
from table_parts.workload import DIM, EXPONENT, IDS, SPREAD, Floats, draw_steps, spec_of, train_step

NEW = IDS // 100
"""New ids in each step."""


def measure_eviction(population: int, repeats: int = 480) -> dict[str, Any]:
    """With zipf ids at the population's rows, and with uniform ids at a million."""
    gradients = np.full((IDS, DIM), 0.01, dtype=np.float32)
    return {
        "zipf": _compare(population, EXPONENT, gradients, repeats),
        "uniform": _compare(1_000_000, 0.0, gradients, repeats),
    }


def _compare(rows: int, exponent: float, gradients: Floats, repeats: int) -> dict[str, float]:
    """A step with 1 % new ids in a table at its row budget, which evicts, over one that has no limit yet.

    Both see the same ids in turn, of half of their rows, drawn zipf(exponent), and insert the same new
    ones: what is compared is eviction, not rows that come again because of a budget.
    """
    bounded = Table(spec_of("rowwise_adagrad", rows, admit_after=1, evict="least_recent"))
    free = Table(spec_of("rowwise_adagrad", 2 * rows, admit_after=1))
    took: dict[str, list[float]] = {"evicting": [], "free": []}
    drawn = draw_steps(rows // 2, 12, seed=6, exponent=exponent)[:, NEW:]
    drawn += np.array([rows // 2], dtype=np.uint64) * SPREAD  # an array wraps around without a warning
    everyone = np.arange(1, rows + 1, dtype=np.uint64) * SPREAD
    for start in range(0, rows, 50_000):
        for table in (bounded, free):
            table.upsert(everyone[start : start + 50_000], 1)
            table.drain_delta()
    first_turns = []
    for step in range(repeats + 1):
        fresh = np.arange(rows + step * NEW, rows + (step + 1) * NEW, dtype=np.uint64)
        keys = np.concatenate([drawn[step % len(drawn)], (fresh + np.uint64(1)) * SPREAD])
        turns = [("evicting", bounded), ("free", free)]
        first_turns.append(step // len(drawn) % 2)  # who is first finds colder caches
        for name, table in reversed(turns) if first_turns[-1] else turns:
            start_ns = time.thread_time_ns()
            train_step(table, keys, 2, gradients)
            took[name].append((time.thread_time_ns() - start_ns) / 1e6)
            table.drain_delta()
    evicting, others = np.array(took["evicting"][1:]), np.array(took["free"][1:])  # the first compiles
    ratio, first = evicting / others, np.array(first_turns[1:])
    ratios = [float(np.median(ratio[first == turn])) for turn in (0, 1)]
    return {
        "rows": rows,
        "evicted": float(bounded.stats.evicted),
        "evicting_ms": float(np.median(evicting)),
        "free_ms": float(np.median(others)),
        "share": float(np.sqrt(ratios[0] * ratios[1])) - 1.0,
        "share_of_quiet": float(np.quantile(evicting, 0.25) / np.quantile(others, 0.25)) - 1.0,
        "share_of_all": float(evicting.sum() / others.sum()) - 1.0,
        "worst_ms": float(evicting.max()),
    }

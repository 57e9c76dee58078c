"""How evenly the table grows, what memory it takes, and time per id by the number of rows."""

from typing import Any

import numpy as np

from embeddings import Table
from embeddings.core.memory import reserve
from table_parts.workload import (
    DIM,
    EXPONENT,
    IDS,
    SPREAD,
    draw_steps,
    fill,
    in_order_of_appearance,
    milliseconds,
    resident_bytes,
    spec_of,
    summary,
    train_step,
)

NEW = IDS * 3 // 10


def page_supply() -> dict[str, float]:
    """How long this machine takes to hand out 2 MiB of memory not used before: the floor of any growth."""
    size, piece = 256 << 20, 2 << 20
    memory = reserve((size,), np.uint8)
    times = [milliseconds(lambda a=at: memory[a : a + piece : 4096].fill(1)) for at in range(0, size, piece)]
    return summary(times[8:])


def measure_growth(rows: int, repeats: int) -> dict[str, Any]:
    """Whole steps, 30 % of whose ids are new, from an empty table to `rows`; the same ids in every repeat.

    A step that is slow in every repeat is the table's doing, one that is slow in a single repeat is
    the machine's: so the worst step is reported for single runs, and for the least time of each step.
    """
    count = rows // NEW
    gradients = np.full((IDS, DIM), 0.01, dtype=np.float32)
    runs = []
    for _ in range(repeats):
        table = Table(spec_of("rowwise_adagrad", rows, admit_after=1))
        rng = np.random.default_rng(3)
        times = []
        for step in range(count):
            new = np.arange(step * NEW, (step + 1) * NEW, dtype=np.uint64)
            old = rng.integers(0, max(step, 1) * NEW, IDS - NEW).astype(np.uint64)
            keys = (np.concatenate([new, old]) + np.uint64(1)) * SPREAD
            rng.shuffle(keys)
            times.append(milliseconds(lambda t=table, k=keys, s=step: train_step(t, k, s + 1, gradients)))
            table.drain_delta()
        runs.append(times[5:])
        del table
    least = np.array(runs).min(axis=0)
    each = [float(max(times) / np.median(times)) for times in runs]
    return {
        "rows": count * NEW,
        "steps": count,
        "repeats": repeats,
        "step": summary([float(t) for times in runs for t in times]),
        "worst_over_median_each_run": each,
        "worst_over_median_of_least": float(least.max() / np.median(least)),
        "steps_over_3_medians_each_run": [int(np.sum(np.array(t) > 3 * np.median(t))) for t in runs],
        "page_supply_2_mib": page_supply(),
    }


def measure_memory(rows: int, optimizer: str = "adagrad") -> dict[str, Any]:
    """Resident bytes of a full table; then half of it expires while as many rows come."""
    before = resident_bytes()
    table = Table(spec_of(optimizer, rows + rows // 50, admit_after=1, ttl_s=1000))
    keys = (np.arange(1, rows + rows // 2 + 1, dtype=np.uint64)) * SPREAD
    before += keys.nbytes
    half, chunk = rows // 2, 50_000
    for start in range(0, rows, chunk):
        table.upsert(keys[start : start + chunk], 1 if start < half else 1000)
        table.drain_delta()
    full = resident_bytes() - before
    peak = full
    for start in range(rows, len(keys), chunk):
        table.expire(1500, 2 * chunk)
        table.upsert(keys[start : start + chunk], 1500)
        table.drain_delta()
        peak = max(peak, resident_bytes() - before)
    ideal = rows * (8 + 4 * table.width)
    return {
        "rows": rows,
        "optimizer": optimizer,
        "key_and_row_bytes": ideal,
        "resident_bytes": full,
        "over_key_and_row": full / ideal,
        "told_by_nbytes": table.nbytes / ideal,
        "peak_after_turnover": peak / full,
        "rows_after_turnover": len(table),
    }


def measure_sizes(sizes: list[int], steps_n: int, repeats: int) -> list[dict[str, float]]:
    """Nanoseconds per id of a whole step by the number of rows, for zipf and for uniform ids."""
    gradients = np.full((IDS, DIM), 0.01, dtype=np.float32)
    result = []
    for rows in sizes:
        table = Table(spec_of("rowwise_adagrad", rows + 1000))
        fill(table, in_order_of_appearance(rows, seed=4))
        line: dict[str, float] = {"rows": rows, "table_bytes": table.nbytes}
        for name, exponent in (("zipf", EXPONENT), ("uniform", 0.0)):
            steps = draw_steps(rows, steps_n, seed=5, exponent=exponent)
            medians = []
            for repeat in range(repeats + 1):
                times = [
                    milliseconds(lambda t=table, k=keys, s=repeat: train_step(t, k, s + 2, gradients))
                    for keys in steps
                ]
                table.drain_delta()
                if repeat:
                    medians.append(float(np.median(times)))
            line[f"{name}_ns_per_id"] = float(np.median(medians)) / IDS * 1e6
            line[f"{name}_distinct"] = float(np.mean([len(np.unique(keys)) for keys in steps]))
        result.append(line)
        del table
    return result

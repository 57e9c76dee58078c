"""What the error memory costs: `correct` for a request of 50 candidates, `observe` per example.

    .venv/bin/python benchmarks/memory.py [--quick] [--json OUT]

Rows have 12 entries (fields, counts and pairs of a small schema) with zipf-distributed ids; the
memory is filled first. The floor to compare with, in the same run, is `kind = "none"`: checking and
copying the arguments.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from error_memory import ErrorMemory, MemorySettings, make_memory
from ground.rows import Rows, rows_from_keys

CANDIDATES = 50
COLUMNS = 12


def requests_of(rng: np.random.Generator, n: int) -> list[Rows]:
    """`n` requests of 50 candidates: a third of the entries are the request's, the rest the candidates'."""
    made = []
    for _ in range(n):
        keys = (rng.zipf(1.2, (CANDIDATES, COLUMNS)) % 1_000_000).astype(np.uint64)
        keys[:, : COLUMNS // 3] = keys[0, : COLUMNS // 3]
        made.append(rows_from_keys(keys))
    return made


def fill(memory: ErrorMemory, requests: list[Rows], rng: np.random.Generator) -> float:
    """Observe every request once, one call each; seconds per example."""
    labels = (rng.random((len(requests), CANDIDATES)) < 0.1).astype(float)
    p = np.full(CANDIDATES, 0.1)
    start = time.perf_counter()
    for position, rows in enumerate(requests):
        memory.observe(rows, p, labels[position], position)
    return (time.perf_counter() - start) / (len(requests) * CANDIDATES)


def correct_us(memory: ErrorMemory, requests: list[Rows]) -> tuple[float, float]:
    """(median, 99th percentile) of one `correct` call, in microseconds."""
    p = np.full(CANDIDATES, 0.1)
    took = []
    for rows in requests:
        start = time.perf_counter()
        memory.correct(rows, p)
        took.append(time.perf_counter() - start)
    return float(np.median(took) * 1e6), float(np.percentile(took, 99) * 1e6)


def main() -> None:
    """Run, print one line a kind, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a run of seconds")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers here")
    options = parser.parse_args()
    result: dict[str, object] = {"benchmark": "memory", "candidates": CANDIDATES, "entries_per_row": COLUMNS}
    for kind in ("residual", "sketch", "neighbours", "none"):
        rng = np.random.default_rng(0)
        # The baselines are slow; they are here to be beaten, not to be measured to the last digit.
        n = (400 if options.quick else 4000) // (1 if kind in ("residual", "none") else 20)
        requests = requests_of(rng, n)
        memory = make_memory(MemorySettings(kind=kind), COLUMNS)
        memory.observe(requests[0], np.full(CANDIDATES, 0.1), np.zeros(CANDIDATES), -1)  # compiles
        memory.correct(requests[0], np.full(CANDIDATES, 0.1))
        observe_us = fill(memory, requests, rng) * 1e6
        median_us, p99_us = correct_us(memory, requests)
        result[kind] = {
            "correct_us_p50": median_us,
            "correct_us_p99": p99_us,
            "observe_us_per_example": observe_us,
            "megabytes": memory.nbytes / 1e6,
        }
        print(
            f"{kind:10s} correct {CANDIDATES} candidates x {COLUMNS} entries: {median_us:.0f} µs "
            f"(p99 {p99_us:.0f}), observe {observe_us:.2f} µs/example, {memory.nbytes / 1e6:.1f} MB"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""Speed of a step and of a lookup, beside the peers; its profile; its limit; two threads; expiry."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from embeddings import Table
from embeddings.kernels import batches
from table_parts.limit import limit_ms
from table_parts.peers import FbgemmPeer, TorchPeer
from table_parts.workload import (
    DAY_S,
    DIM,
    IDS,
    Floats,
    Keys,
    draw_steps,
    fill,
    in_order_of_appearance,
    milliseconds,
    spec_of,
    train_step,
)

OPTIMIZERS = ("rowwise_adagrad", "adagrad")


def _gradients() -> Floats:
    return np.full((IDS, DIM), 0.01, dtype=np.float32)


def _filled(optimizer: str, order: Keys) -> Table:
    table = Table(spec_of(optimizer, len(order) + (1 << 20)))
    fill(table, order)
    return table


def _profile(table: Table, steps: Keys, gradients: Floats) -> dict[str, float]:
    """Median milliseconds of a step's parts: `distinct` is within `block`, `sum` within `apply`."""
    parts: dict[str, list[float]] = {}
    for time_s, keys in enumerate(steps, start=1000):
        marks = [time.perf_counter()]
        block = table.block(keys, time_s)
        marks.append(time.perf_counter())
        table.spread(block)
        marks.append(time.perf_counter())
        table.apply_block(block, gradients)
        marks.append(time.perf_counter())
        scratch = np.zeros(1 << 17, dtype=np.uint32)
        hashes, unique = np.empty(IDS, dtype=np.uint64), np.empty(IDS + 1, dtype=np.uint64)
        inverse = np.empty(IDS, dtype=np.int64)
        sums = np.zeros((len(block.slots), DIM), dtype=np.float32)
        marks.append(time.perf_counter())
        batches.distinct(keys, np.uint64(1), scratch, hashes, unique, inverse)
        marks.append(time.perf_counter())
        batches.total(block.inverse, gradients, sums)
        marks.append(time.perf_counter())
        names = ("block", "spread", "apply", None, "distinct", "sum")
        for name, begin, end in zip(names, marks, marks[1:], strict=False):
            if name is not None:
                parts.setdefault(name, []).append((end - begin) * 1e3)
    return {name: float(np.median(took)) for name, took in parts.items()}


def measure_speed(population: int, steps_n: int, repeats: int, peer_python: Path | None) -> dict[str, Any]:
    """Medians over `repeats` of the medians of a repeat's steps; each repeat runs everybody in turn."""
    steps = draw_steps(population, steps_n, seed=1)
    order = in_order_of_appearance(population, seed=2)
    gradients = _gradients()
    tables = {optimizer: _filled(optimizer, order) for optimizer in OPTIMIZERS}
    torch_peer = TorchPeer(population)
    took: dict[str, list[float]] = {}
    least: dict[str, float] = {}
    peer = FbgemmPeer(peer_python, steps, population) if peer_python else None
    time_s = 1
    try:
        for repeat in range(repeats + 1):
            now: dict[str, list[float]] = {}
            for name, table in tables.items():
                for keys in steps:
                    time_s += 1
                    spent = milliseconds(lambda t=table, k=keys, s=time_s: train_step(t, k, s, gradients))
                    now.setdefault(name, []).append(spent)
                table.drain_delta()
            now["torch adagrad"] = [milliseconds(lambda k=keys: torch_peer.step(k)) for keys in steps]
            if peer:
                now |= {f"fbgemm {name}": times for name, times in peer.repeat().items()}
            served = tables["rowwise_adagrad"]
            now["lookup"] = [milliseconds(lambda k=keys, t=served: t.read(k, 1)) for keys in steps]
            now["torch lookup"] = [torch_peer.lookup_ms(keys) for keys in steps]
            if repeat:  # the first warms up
                for name, times in now.items():
                    took.setdefault(name, []).append(float(np.median(times)))
                    least[name] = min(least.get(name, np.inf), *times)
    finally:
        if peer:
            peer.__exit__(None, None, None)
    result: dict[str, Any] = {
        "rows": population,
        "ids": IDS,
        "distinct": float(np.mean([len(np.unique(keys)) for keys in steps])),
        "repeats": repeats,
        "steps_a_repeat": steps_n,
        "step_ms": {name: float(np.median(times)) for name, times in took.items()},
        "step_ms_each_repeat": took,
        "least_step_ms": least,
        "ids_per_second": {name: IDS / float(np.median(times)) * 1e3 for name, times in took.items()},
    }
    pairs = {
        "rowwise_adagrad over fbgemm": ("rowwise_adagrad", "fbgemm rowwise_adagrad/features"),
        "adagrad over fbgemm": ("adagrad", "fbgemm adagrad/features"),
        "adagrad over torch": ("adagrad", "torch adagrad"),
        "lookup over torch": ("lookup", "torch lookup"),
    }
    result["ratios"] = {
        name: float(np.median(np.array(took[theirs]) / np.array(took[ours])))
        for name, (ours, theirs) in pairs.items()
        if theirs in took
    }
    # On a machine that others load, the quickest step of each is what they slowed down least.
    result["ratios_of_least"] = {
        name: least[theirs] / least[ours] for name, (ours, theirs) in pairs.items() if theirs in took
    }
    result["profile_ms"] = {name: _profile(table, steps, gradients) for name, table in tables.items()}
    distinct = int(result["distinct"])
    result["limit"] = {name: limit_ms(table, distinct) for name, table in tables.items()}
    for name, limit in result["limit"].items():
        limit["share_reached"] = limit["limit_ms"] / result["step_ms"][name]
    result["expiry"] = _expiry(tables["rowwise_adagrad"], steps, gradients)
    result["threads"] = _threads(tables["rowwise_adagrad"], steps, gradients)
    return result


def _expiry(table: Table, steps: Keys, gradients: Floats, repeats: int = 5) -> dict[str, float]:
    """What sweeping 4096 slots costs beside a step in which nothing is due, and one row's expiry.

    A step of 4096 slots goes round 10 million rows in 2,441 steps.
    """
    sweeps, whole = [], []
    for _ in range(repeats):
        for keys in steps:
            whole.append(milliseconds(lambda k=keys: train_step(table, k, 10_000, gradients)))
            sweeps.append(milliseconds(lambda: table.expire(10_000, 4096)))
    small = Table(spec_of("rowwise_adagrad", 1 << 20, admit_after=1))
    small.upsert(np.arange(1 << 20, dtype=np.uint64), 1)
    spent = milliseconds(lambda: small.expire(40 * DAY_S, 1 << 20))
    step = float(np.median(whole))
    return {
        "sweep_ms": float(np.median(sweeps)),
        "step_ms": step,
        "share": float(np.median(sweeps)) / step,
        "expired_row_ns": spent / (1 << 20) * 1e6,
        "rows_a_step_within_5_percent": 0.05 * step / (spent / (1 << 20)),
    }


def _threads(table: Table, steps: Keys, gradients: Floats, repeats: int = 5) -> dict[str, float]:
    """Lookups a second of two threads at once over one's; and of one while another trains."""

    def read_all() -> None:
        for keys in steps:
            table.read(keys, 1)

    ones, twos = [], []
    for _ in range(repeats):
        ones.append(milliseconds(read_all))
        threads = [threading.Thread(target=read_all) for _ in range(2)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        twos.append((time.perf_counter() - start) * 1e3)
    stop = threading.Event()

    def train() -> None:
        while not stop.is_set():
            for keys in steps:
                train_step(table, keys, 20_000, gradients)

    trainer = threading.Thread(target=train)
    trainer.start()
    beside = [milliseconds(read_all) for _ in range(repeats)]
    stop.set()
    trainer.join()
    one, two = float(np.median(ones)), float(np.median(twos))
    each = np.array(ones) * 2 / np.array(twos)
    return {
        "one_ids_per_second": len(steps) * IDS / one * 1e3,
        "two_ids_per_second": 2 * len(steps) * IDS / two * 1e3,
        "two_over_one": float(np.median(each)),
        "beside_training_ids_per_second": len(steps) * IDS / float(np.median(beside)) * 1e3,
    }

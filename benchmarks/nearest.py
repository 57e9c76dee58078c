"""POST /v1/nearest: recall against scoring everything, and time, at 100,000 items.

    .venv/bin/python benchmarks/nearest.py [--quick] [--json OUT] [--model FILE] [--vectors OUT.npz]

A model learns a simulated world of so many items, then its index is built and asked. Recall is the share of
the 50 best items by scoring all of them that are among the 50 found. `--vectors` writes what an index of
inner products would hold, for foreign/nearest_libraries.py: of each item the fast part's own estimate and its
embeddings side by side, and for each query the linear map that fits the scores of all items best.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from error_memory import MemorySettings
from freshet import Model as OnlineModel
from freshet.config import default_config
from learner.features.encoder import FeatureSpec, Request
from learner.model.model import Model
from serving.nearest.index import Nearest
from serving.nearest.kernels import pool
from serving.nearest.settings import NearestSettings
from serving.replica.answering import LiveModel
from stream.log.base import EXAMPLES, Outgoing
from stream.log.testing import MemoryLog
from stream.records.types import Example, Features, encode
from stream.world.settings import WorldSettings
from stream.world.simulator import World

K = 50
BUDGETS = (128, 192, 256, 384)
AT_ONCE = 500


def world_of(items: int) -> World:
    """A world that stands still."""
    return World(
        WorldSettings(
            items=items, users=5_000, categories=60, slate=20, attributes=2, new_items_per_h=0.0,
            item_half_life_h=1e5, drift_slow=0.0, shift_every_s=0.0, seed=1,
        )
    )  # fmt: skip


def trained(world: World, requests: int) -> OnlineModel:
    """A model of the world, with the default settings."""
    features = {**default_config("simulator").features, "attr0": FeatureSpec(), "attr1": FeatureSpec()}
    model = OnlineModel(features=features, learner={"group_by": "user"})
    for _ in range(0, requests, 500):
        examples = list(world.examples(500))
        rows = [{"time": e.time, "context": e.context, "candidates": e.candidates} for e in examples]
        model.learn(rows, [e.labels for e in examples])
    return model


def serving_copy(learned: Model) -> Model:
    """The model as a server holds it."""
    served = Model(learned.features, learned.settings)
    for table, copy in zip(learned.tables, served.tables, strict=True):
        keys, _ = table.items()
        for first in range(0, len(keys), 100_000):
            part = keys[first : first + 100_000]
            copy.load(part, table.export_serving(part)[0])
    arrays = learned.arrays()
    for name, array in served.arrays().items():
        array[...] = arrays[name]
    served.weights_moved()
    served.seq = 1
    return served


def shown(items: list[Features], time_s: float) -> MemoryLog:
    """A log in which every item was shown once."""
    log = MemoryLog()
    log.create_topic(EXAMPLES, 1)
    for first in range(0, len(items), 50):
        part = items[first : first + 50]
        example = Example(f"r{first}", time_s, time_s, part, [0.0] * len(part), {})
        log.append(EXAMPLES, [Outgoing(example.request_id.encode(), encode(example))])
    return log


def contexts(world: World, count: int) -> list[Request]:
    """Requests of different people."""
    found = []
    for i in range(20 * count):
        request = world.request()
        if i % 20 == 0:
            found.append(Request(request.time, request.context, []))
    return found


def all_values(live: LiveModel, request: Request, items: list[Features]) -> npt.NDArray[np.float64]:
    """The logits of all items, (n,), -inf of those without a row."""
    parts = [
        live.rank_values(request._replace(candidates=items[first : first + AT_ONCE]))
        for first in range(0, len(items), AT_ONCE)
    ]
    table = live.model.tables[live.model.encoder.column_of("item")]
    there = table.find(np.array([one["item"] for one in items], dtype=np.uint64), int(request.time)) >= 0
    return np.where(there, np.concatenate(parts), -np.inf)


def write_vectors(
    path: Path, index: Nearest, items: list[Features], truth: list[npt.NDArray[np.float64]]
) -> None:
    """What an index of inner products would hold; see above."""
    entries = index.entries
    layers = [one for one in entries.layers if entries.columns[one.column].vectors.shape[1]]
    widths = [entries.columns[one.column].vectors.shape[1] for one in layers]
    n = len(items)
    vectors = np.zeros((n, 2 + sum(widths)), dtype=np.float32)
    vectors[:, 0], vectors[:, 1] = 1.0, entries.base[:n]
    at = 2
    for layer, width in zip(layers, widths, strict=True):
        pool(layer.ids[:n], layer.xs[:n], entries.columns[layer.column].vectors, at, vectors)
        at += width
    there = np.isfinite(truth[0])
    known = vectors[there].astype(np.float64)
    gram = known.T @ known + 1e-3 * np.eye(known.shape[1])
    queries = [np.linalg.solve(gram, known.T @ values[there]) for values in truth]
    best = [np.argsort(-values[there])[:K] for values in truth]
    np.savez(path, vectors=vectors[there], queries=np.array(queries, dtype=np.float32), best=np.array(best))


def main() -> None:
    """Run, print, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=50_000, help="learned first, of 20 candidates each")
    parser.add_argument("--queries", type=int, default=20, help="whose recall is measured")
    parser.add_argument("--timed", type=int, default=500, help="searches that are timed")
    parser.add_argument("--quick", action="store_true", help="10,000 items, 3,000 requests, 8 queries")
    parser.add_argument("--model", type=Path, help="the learned model: read if it exists, else written")
    parser.add_argument("--vectors", type=Path, metavar="OUT", help="write vectors and queries here (npz)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers here")
    options = parser.parse_args()
    if options.quick:
        options.items, options.requests, options.queries, options.timed = 10_000, 3_000, 8, 200
    world = world_of(options.items)
    if options.model and options.model.exists():
        learned = OnlineModel.load(options.model)
    else:
        learned = trained(world, options.requests)
        if options.model:
            learned.save(options.model)
    assert learned._learner is not None
    live = LiveModel(serving_copy(learned._learner.model), MemorySettings())
    world = world_of(options.items)
    asked = contexts(world, options.queries + options.timed)
    items = world.items
    began = time.process_time()
    index = Nearest(shown(items, asked[0].time), live, NearestSettings(of="item", score=max(BUDGETS)))
    while index.step() or index.unready():
        pass
    build_s = time.process_time() - began
    truth = [all_values(live, request, items) for request in asked[: options.queries]]
    result = {"benchmark": "nearest", "items": index.status().items, "build_s": build_s, "budgets": {}}
    print(
        f"{index.status().items:,} items, {index.status().entries:,} entries, built in {build_s:.1f} s of CPU"
    )
    for budget in BUDGETS:
        index.settings = NearestSettings(of="item", score=budget)
        shares = []
        for request, values in zip(asked, truth, strict=False):
            best = {items[i]["item"] for i in np.argsort(-values, kind="stable")[:K]}
            shares.append(len(best & set(index.find(request, K).items)) / K)
        seconds, cpu = [], []
        for request in asked[options.queries :]:
            wall, used = time.perf_counter(), time.thread_time()
            index.find(request, K)
            seconds.append(time.perf_counter() - wall)
            cpu.append(time.thread_time() - used)
        wall_ms, cpu_ms = (1e3 * np.quantile(one, [0.5, 0.99]) for one in (seconds, cpu))
        result["budgets"][budget] = {
            "recall": np.mean(shares), "recall_min": min(shares),
            "wall_ms": wall_ms.tolist(), "cpu_ms": cpu_ms.tolist(),
        }  # fmt: skip
        print(
            f"{budget} scored: recall@{K} {np.mean(shares):.3f} (least {min(shares):.2f} of {len(shares)}); "
            f"wall {wall_ms[0]:.1f} ms, p99 {wall_ms[1]:.1f}; CPU {cpu_ms[0]:.1f} ms, p99 {cpu_ms[1]:.1f}"
        )
    if options.vectors is not None:
        write_vectors(options.vectors, index, items, truth)
    if options.json is not None:
        options.json.write_text(json.dumps(result))


if __name__ == "__main__":
    main()

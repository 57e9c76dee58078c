"""How fast the fast part learns: its kernel alone, and with its rows in tables small and large.

    .venv/bin/python benchmarks/fast.py [--quick] [--json OUT]

Four id fields with zipf-distributed ids, so 22 weights an example: three speeds a field, four count
columns, six pairs. One thread. Measured are

- *kernel*: `FastPart.run`, predict and learn, on rows that were found already: those of a chunk, copied
  together as the learner does it, and, in the line *spread*, straight on an array of ten million rows
  that are met in random order, so that every row is a cache miss;
- *tables*: the same with finding the rows in the tables, reading and writing their weights, that is
  all of the fast part's work behind encoding. Once on tables that are as small as they come, once on
  tables that hold ten million rows in all, whose rows are met in random order.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from ground.rows import Rows, rows_from_keys
from learner.fast.part import FastInputs
from learner.features.encoder import Batch, FeatureSpec
from learner.features.encoding import add_pairs
from learner.lessons import Lessons
from learner.model.model import Model
from learner.settings import LearnerSettings

FIELDS = 4
CHUNK = 2048
ROWS_SMALL = 2_000
ROWS_LARGE = 10_000_000
DIM = 4  # of the embeddings, which the fast part passes by


def make_model(quick_names: int = FIELDS) -> Model:
    """A model of four id fields that learns, without a deep part."""
    features = {f"field{i}": FeatureSpec(dim=DIM) for i in range(quick_names)}
    return Model(features, LearnerSettings(deep="none"), learning=True)


def make_batch(model: Model, keys: np.ndarray) -> Batch:
    """Requests of one with the given ids, (n, FIELDS) uint64, a second apart."""
    encoder = model.encoder
    rows = Rows(*add_pairs(*rows_from_keys(keys), encoder._pair_column, encoder._pair_salt))
    n = len(keys)
    return Batch(
        np.arange(n + 1, dtype=np.int64), 1e9 + np.arange(n, dtype=np.float64), rows,
        np.zeros((n, 0), dtype=np.float32),
    )  # fmt: skip


def measure(model: Model, ids: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Learn chunk by chunk; examples a second of the kernel, and of all of it. Medians over chunks."""
    kernel, whole = [], []
    for first in range(0, len(ids) - CHUNK + 1, CHUNK):
        batch = make_batch(model, ids[first : first + CHUNK])
        began = time.perf_counter()
        gathered = model.gather(batch, insert=True)
        at = time.perf_counter()
        model.fast.run(gathered.inputs, Lessons.plain(labels[first : first + CHUNK]))
        ran = time.perf_counter()
        model.put_back(gathered)
        kernel.append(ran - at)
        whole.append(time.perf_counter() - began)
    return {
        "kernel_per_s": CHUNK / statistics.median(kernel),
        "tables_per_s": CHUNK / statistics.median(whole),
    }


def measure_spread(model: Model, rows: int, chunks: int) -> float:
    """Examples a second of the kernel alone over `rows` rows of weights met in random order."""
    rng = np.random.default_rng(1)
    weights = np.zeros((rows, 2 * model.fast.speeds), dtype=np.float32)
    counts = np.zeros(rows, dtype=np.uint32)
    labels = (rng.random(CHUNK) < 0.3).astype(np.float64)
    took = []
    for _ in range(chunks):
        batch = make_batch(model, rng.integers(0, 1 << 40, (CHUNK, FIELDS)).astype(np.uint64))
        place = rng.integers(0, rows, len(batch.rows.key))
        inputs = FastInputs(
            batch.requests, batch.rows.start, batch.rows.column, batch.rows.x, place, weights, counts
        )
        began = time.perf_counter()
        model.fast.run(inputs, Lessons.plain(labels))
        took.append(time.perf_counter() - began)
    return CHUNK / statistics.median(took)


def main() -> None:
    """Run, print lines for people, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a large table of one million rows only")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers here")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    n = CHUNK * (30 if options.quick else 100)
    labels = (rng.random(n) < 0.3).astype(np.float64)
    result: dict[str, object] = {"benchmark": "fast", "fields": FIELDS}

    small = make_model()
    ids = (rng.zipf(1.3, (n, FIELDS)) % ROWS_SMALL).astype(np.uint64)
    result["small"] = measure(small, ids, labels)
    spread = ROWS_LARGE // (10 if options.quick else 1)
    result["spread_kernel_per_s"] = each_s = measure_spread(make_model(), spread, 20)
    print(f"spread: {spread:,} rows of weights: kernel {each_s / 1e6:.2f} M examples/s")

    large = make_model()
    rows = ROWS_LARGE // (10 if options.quick else 1)
    each = rows // len(large.tables)
    for table in large.tables:
        for first in range(0, each, 100_000):
            keys = np.arange(first, min(first + 100_000, each), dtype=np.uint64)
            table.upsert(keys, np.full(len(keys), 10**9, dtype=np.uint32))
            table.drain_delta()
    ids = rng.integers(0, each, (n, FIELDS)).astype(np.uint64)
    result["large"] = {"rows": sum(large.table_rows().values()), **measure(large, ids, labels)}

    for name in ("small", "large"):
        figures = result[name]
        assert isinstance(figures, dict)
        rows = f"{figures['rows']:,} rows" if "rows" in figures else f"{ROWS_SMALL:,} ids a field"
        print(
            f"{name}: {rows}: kernel {figures['kernel_per_s'] / 1e6:.2f} M examples/s, "
            f"with its tables {figures['tables_per_s'] / 1e6:.2f} M/s"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

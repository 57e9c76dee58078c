"""The table in PyTorch beside `nn.EmbeddingBag`: DeepFM's quality, memory and speed, and ids a second.

DeepFM learns MovieTweetings (user, movie, genres, hour; a rating of 8 or more counts as liked) in the order
of time, in batches of 64: each batch is predicted, scored, then learned. Once its embeddings are in tables,
once in `nn.EmbeddingBag`s with ids hashed to so many rows, with sparse gradients and torch's Adagrad at the
same rate. The same network, the same seed, the same batches.

The second part measures forward, backward and step of 4096 bags of 20 ids, dim 16, while 2 % of the ids were
never seen before. Medians over repeats; all modules take turns within one run, on the same ids.

    .venv/bin/python benchmarks/torch_table.py [--quick] [--data FOLDER] [--json OUT]
"""

import json
import statistics
import time
from typing import Any

import numpy as np
import torch
from table_parts.movies import parse_options
from torch_parts.deepfm import DeepFM, on_tables, train
from torch_parts.hashed import HashedBags
from torch_parts.speed import Sizes, measure_speed

from embeddings.torch import Jagged, string_ids
from learner.metrics import auc
from stream.files.sources import DataSettings, read_examples

LISTS = {"user": False, "movie": False, "genres": True, "hour": False}
DIM, BATCH = 8, 64
HASHED_ROWS = (1 << 14, 1 << 16, 1 << 18, 1 << 20)


def batches_of(options: Any) -> list[tuple[dict[str, Any], torch.Tensor, torch.Tensor]]:
    """The stream as batches of ids, times and labels, all ready for a module."""
    examples = list(read_examples(options.data, DataSettings(format="movietweetings", positive_from=8.0)))
    examples = examples[: 20_000 if options.quick else 150_000]
    found = []
    for first in range(0, len(examples), BATCH):
        part = examples[first : first + BATCH]
        genres = [e.candidates[0]["genres"] for e in part]
        offsets = torch.tensor([0, *np.cumsum([len(g) for g in genres]).tolist()])
        ids = {
            "user": torch.tensor([e.candidates[0].get("user", e.context.get("user")) for e in part]),
            "movie": torch.tensor([e.candidates[0]["movie"] for e in part]),
            "genres": Jagged(string_ids([g for row in genres for g in row]), offsets),
            "hour": torch.tensor([int(e.time // 3600) % 24 for e in part]),
        }
        times = torch.tensor([e.time for e in part], dtype=torch.float64)
        found.append((ids, times, torch.tensor([e.labels[0] for e in part])))
    return found


def learn(model: DeepFM, embedding: list[torch.optim.Optimizer], batches: Any) -> dict[str, float]:
    """Predict, score and learn a stream."""
    network = [p for name, p in model.named_parameters() if not name.startswith("embed.")]
    optimizers = [torch.optim.Adam(network, lr=1e-3), *embedding]
    z, y = [], []
    began = time.perf_counter()
    for ids, times, labels in batches:
        z.append(train(model, optimizers, ids, times, labels))
        y.append(labels)
    took = time.perf_counter() - began
    logits, labels = torch.cat(z).double(), torch.cat(y).double()
    half = len(logits) // 2
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    return {
        "auc": auc(logits.numpy(), labels.numpy()),
        "auc_last_half": auc(logits[half:].numpy(), labels[half:].numpy()),
        "logloss": float(loss(logits, labels)),
        "events_per_second": len(logits) / took,
    }


def measure_quality(options: Any) -> dict[str, dict[str, float]]:
    """Each model on the stream; the median over seeds."""
    batches = batches_of(options)
    result: dict[str, list[dict[str, float]]] = {}
    for seed in range(1 if options.quick else 2):
        for rows in (0, *HASHED_ROWS):
            torch.manual_seed(seed)
            if rows == 0:
                model = on_tables(LISTS, DIM)
                found = learn(model, [], batches)
                found["mb"] = sum(t.nbytes for t in model.embed.tables.values()) / 1e6
                name = "table"
            else:
                bags = HashedBags(LISTS, rows, 1 + DIM, sparse=True)
                model = DeepFM(bags, len(LISTS), DIM)
                step = torch.optim.Adagrad(bags.parameters(), lr=0.05, initial_accumulator_value=1e-4)
                found = learn(model, [step], batches)
                found["mb"] = 2 * 4 * sum(p.numel() for p in bags.parameters()) / 1e6  # and Adagrad's sums
                name = f"hashed to {rows:,} rows a feature"
            result.setdefault(name, []).append(found)
    return {
        name: {key: statistics.median(each[key] for each in seeds) for key in seeds[0]}
        for name, seeds in result.items()
    }


def main() -> None:
    """Measure, and print for people and programs."""
    options = parse_options(__doc__, "20,000 ratings, one seed, and few steps")
    torch.set_num_threads(1)
    sizes = Sizes(200_000, 1 << 20, 5, 3) if options.quick else Sizes(1_000_000, 1 << 20, 9, 5)
    quality = measure_quality(options)
    speed = [measure_speed(sizes, 1 << 17, threads) for threads in (1, 2)]
    for name, found in quality.items():
        print(
            f"DeepFM, {name}: AUC {found['auc']:.4f}, last half {found['auc_last_half']:.4f}, log loss "
            f"{found['logloss']:.4f}, {found['mb']:.1f} MB, {found['events_per_second']:,.0f} ratings/s"
        )
    for part in speed:
        print(f"{part['ids']:,} ids a step, {part['threads']} thread(s) of torch")
        for name, rate in part["ids_per_second"].items():
            print(f"  {name}: {rate / 1e6:.2f} M ids/s")
    text = json.dumps({"quality": quality, "speed": speed})
    print(text)
    if options.json:
        options.json.write_text(text)


if __name__ == "__main__":
    main()

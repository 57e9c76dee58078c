"""How fast a replay goes, end to end: read a file, predict, score, learn, and keep an error memory.

    .venv/bin/python benchmarks/replay.py [--features F] [--deep none] [--quick] [--json OUT] [--profile]

The stream is the hard shape: every request has one candidate, so nothing is shared between rows, and
eight id features of very different sizes make 28 pairs. Beside the whole there are its parts, each alone
on the same stream: reading the file, encoding, learning, and the error memory; two cores let reading and
the deep part run beside the rest, so the parts add up to more than the whole.
"""

import argparse
import cProfile
import json
import pstats
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from freshet.config import Config, parse_config
from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions
from learner.model.model import Model
from learner.train.trainer import Trainer
from stream.files.sources import read_examples

CARDINALITIES = (50_000, 5_000, 24, 200, 12, 1_000, 3, 40)  # user, item, hour, category, ...
CHUNK = 512


def write_stream(path: Path, requests: int, features: int) -> None:
    """A CSV file of labelled rows: zipf ids, odds that depend on each of them, one row a second."""
    rng = np.random.default_rng(0)
    sizes = [CARDINALITIES[i % len(CARDINALITIES)] for i in range(features)]
    ids = np.stack([(rng.zipf(1.2, requests) - 1) % size for size in sizes], axis=1)
    logit = np.full(requests, -1.0)
    for i, size in enumerate(sizes):
        logit += rng.normal(0.0, 0.5, size)[ids[:, i]]
    label = rng.random(requests) < 1.0 / (1.0 + np.exp(-logit))
    with path.open("w") as file:
        file.write("time,label," + ",".join(f"f{i}" for i in range(features)) + "\n")
        for n in range(requests):
            cells = ",".join(map(str, ids[n].tolist()))
            file.write(f"{1_700_000_000 + n},{int(label[n])},{cells}\n")


def config_of(features: int, deep: str) -> Config:
    """Everything at its default but the schema."""
    table = {
        "learner": {"deep": deep},
        "data": {"time": "time", "label": "label"},
        "features": {f"f{i}": {"kind": "id"} for i in range(features)},
    }
    return parse_config(table, "the benchmark")


def parts(path: Path, config: Config) -> dict[str, float]:
    """Requests per second of each part alone."""
    began = time.perf_counter()
    examples = list(read_examples(path, config.data))
    read = time.perf_counter() - began
    trainer = Trainer(Model(config.features, config.learner, learning=True))
    chunks = [examples[i : i + CHUNK] for i in range(0, len(examples), CHUNK)]
    began = time.perf_counter()
    for chunk in chunks:
        trainer.model.encoder.encode(chunk)
    encode = time.perf_counter() - began
    trainer.learn(chunks[0])
    began = time.perf_counter()
    for chunk in chunks[1:]:
        trainer.learn(chunk)
    learn = time.perf_counter() - began
    n = len(examples)
    return {"read": n / read, "encode": n / encode, "encode_and_learn": (n - len(chunks[0])) / learn}


def main() -> None:
    """Run, print, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--deep", default="dcn", help="the deep part, as in the config")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="30,000 requests, three repeats")
    parser.add_argument("--profile", action="store_true", help="print where the time of one replay goes")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers here")
    options = parser.parse_args()
    requests, repeats = (30_000, 3) if options.quick else (options.requests, options.repeats)
    config = config_of(options.features, options.deep)
    result: dict[str, Any] = {
        "benchmark": "replay",
        "requests": requests,
        "features": options.features,
        "deep": options.deep,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream.csv"
        write_stream(path, requests, options.features)
        take = ReplayOptions(data=str(path))
        rates = []
        for _ in range(repeats):
            report = replay(config, take)
            rates.append(report["events_per_second"])
        result["requests_per_second"] = statistics.median(rates)
        result["best"], result["worst"] = max(rates), min(rates)
        result["seconds"] = report["seconds"]
        result["auc"] = report["base"]["last_half"]["auc"]
        result["alone"] = parts(path, config)
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(replay, config, take)
            pstats.Stats(profile).sort_stats("tottime").print_stats(35)
    print(
        f"replay of {requests:,} requests, {options.features} features, deep part {options.deep}: "
        f"{result['requests_per_second']:,.0f} requests/s (median of {repeats}; "
        f"{result['worst']:,.0f} to {result['best']:,.0f}), AUC {result['auc']:.4f}"
    )
    print("  seconds: " + ", ".join(f"{k} {v:.2f}" for k, v in result["seconds"].items()))
    print("  alone:   " + ", ".join(f"{k} {v:,.0f}/s" for k, v in result["alone"].items()))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

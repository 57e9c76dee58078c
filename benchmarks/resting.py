"""Rows at rest: how fast a learner and a server are whose tables are larger than memory.

    .venv/bin/python benchmarks/resting.py [--quick] [--rows 2000000 --memory-rows 200000] [--json OUT]

One feature has `--rows` rows, drawn by a power law of exponent 1.05, most of them known before the run. The
same examples are learned twice, each in a process of its own: with all rows in memory, and with
`--memory-rows` in memory and the others in the learner's RocksDB. Both commit after every 4,096 examples.
Compared: CPU and wall time per example, the hash of the state, the memory of the process, and both over time.
Then requests of 50 candidates are scored by a model whose rows rest in a folder, as in a server.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

EXPONENT = 1.05
COMMIT = 4096
WINDOWS = 8


def zipf_ids(rng: np.random.Generator, n: int, rows: int) -> np.ndarray:
    """n ranks below `rows` by a power law: the inverse of its distribution function."""
    u = rng.random(n)
    top = (rows + 1.0) ** (1.0 - EXPONENT) - 1.0
    return np.minimum((1.0 + u * top) ** (1.0 / (1.0 - EXPONENT)), rows).astype(np.int64) - 1


def names_of(ranks: np.ndarray) -> np.ndarray:
    """Ids of ranks: popular ones are not neighbours."""
    return ((ranks + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)


def rss_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def schema(memory_rows: int | None, rows: int) -> dict:
    import msgspec

    from learner.features.encoder import FeatureSpec

    item = FeatureSpec(dim=16, rows_max=2 * rows, pairs=False, evict="none")
    if memory_rows is not None:
        item = msgspec.structs.replace(item, memory_rows=memory_rows)
    return {"user": FeatureSpec(dim=16, pairs=False), "item": item, "hour": FeatureSpec(kind="hour", dim=8)}


def examples_of(seed: int, n: int, rows: int, begin: float) -> list:
    from stream.records.types import Example

    rng = np.random.default_rng(seed)
    items = names_of(zipf_ids(rng, n, rows)).tolist()
    users = rng.integers(0, 20_000, n).tolist()
    labels = (rng.random(n) < 0.2).astype(float).tolist()
    return [
        Example("", begin + i, begin + i, [{"item": items[i]}], [labels[i]], {"user": users[i]})
        for i in range(n)
    ]


def learn(options: argparse.Namespace) -> dict:
    """One side of the comparison, in this process."""
    from learner.resting import rows_rest
    from learner.role.learner import Learner
    from learner.settings import LearnerSettings
    from stream.state.role_state import RoleState

    memory_rows = options.memory_rows if options.side == "resting" else None
    features, settings = schema(memory_rows, options.rows), LearnerSettings()
    with (
        tempfile.TemporaryDirectory(prefix="freshet-resting-") as folder,
        RoleState(
            folder,
            "learner",
            Learner.fingerprint(features, settings),
            sync=False,
            rows=rows_rest(features, settings),
        ) as state,
    ):
        learner = Learner(features, settings, state)
        learner.leads = False
        learner.learn(examples_of(0, 2 * COMMIT, 1000, 1e9))  # compile

        def commit() -> None:
            changes = state.begin()
            learner.flush(changes)
            state.commit(changes)

        commit()
        begun = rss_bytes()
        table = learner.model.tables[1]
        began = time.perf_counter()
        order = np.random.default_rng(1).permutation(options.rows)
        at_once = max(min(1 << 15, options.memory_rows // 32), COMMIT)  # as many as come between two commits
        for first in range(0, options.rows, at_once):
            table.upsert(names_of(order[first : first + at_once]), int(1e9))
            commit()
        fill_s = time.perf_counter() - began
        del order
        filled_mb = (rss_bytes() - begun) / 1e6
        windows = []
        for window in range(WINDOWS):
            cpu_s = wall_s = commit_s = 0.0
            reads = getattr(table, "reads", 0)
            for step in range(options.examples // WINDOWS // COMMIT):
                seed = 100 + window * 10_000 + step
                examples = examples_of(seed, COMMIT, options.rows, 1e9 + 1e5 + seed * COMMIT)
                cpu, wall = time.process_time(), time.perf_counter()
                learner.learn(examples)
                at = time.perf_counter()
                commit()
                commit_s += time.perf_counter() - at
                cpu_s, wall_s = cpu_s + time.process_time() - cpu, wall_s + time.perf_counter() - wall
            n = options.examples // WINDOWS // COMMIT * COMMIT
            windows.append(
                {
                    "cpu_us": cpu_s / n * 1e6,
                    "wall_us": wall_s / n * 1e6,
                    "commit_us": commit_s / n * 1e6,
                    "reads_per_example": (getattr(table, "reads", 0) - reads) / n,
                    "rss_mb": (rss_bytes() - begun) / 1e6,
                }
            )
        digest = learner.digest()
        published = {}
        if options.side == "resting" and options.requests:
            published = publish(learner, state, options)
        return {
            "windows": windows,
            "published": published,
            "fill_s": fill_s,
            "filled_rss_mb": filled_mb,
            "hash": digest,
            "rows": len(table),
            "in_memory": getattr(table, "in_memory", len(table)),
            "table_mb": table.nbytes / 1e6,
            "disk_mb": sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()) / 1e6,
        }


def publish(learner, state, options: argparse.Namespace) -> dict:
    """Publish a snapshot for servers while the learner goes on; what is sent is thrown away."""
    began, before = time.perf_counter(), rss_bytes()
    highest, commits, longest_s = before, 0, 0.0
    learner.leads, learner.meta.snapshot_bytes = True, 0
    learner.meta.update_bytes = learner.settings.snapshot_bytes_min
    while learner.meta.snapshot_bytes == 0:
        seed = 900_000 + commits
        learner.learn(examples_of(seed, COMMIT, options.rows, 1e9 + 1e5 + seed * COMMIT))
        at = time.perf_counter()
        changes = state.begin()
        learner.flush(changes)
        state.commit(changes)
        longest_s = max(longest_s, time.perf_counter() - at)
        for block in state.unsent():
            state.mark_sent(block.number)
        commits += 1
        highest = max(highest, rss_bytes())
    return {
        "mb": learner.meta.snapshot_bytes / 1e6,
        "seconds": time.perf_counter() - began,
        "commits": commits,
        "longest_commit_s": longest_s,
        "rss_more_mb": (highest - before) / 1e6,
    }


def serve(options: argparse.Namespace) -> dict:
    """Latency of requests of 50 candidates, of one model with all rows in memory and one whose rows rest.

    Between the requests each model takes the rows that a learner would send: 500 for every 20 requests.
    """
    from learner.features.encoder import Request
    from learner.model.model import Model
    from learner.resting import RELIEVED_MAX
    from learner.settings import LearnerSettings

    found = {}
    for side in ("memory", "resting"):
        model = Model(
            schema(options.memory_rows if side == "resting" else None, options.rows), LearnerSettings()
        )
        table = model.tables[1]
        rng = np.random.default_rng(5)
        for first in range(0, options.rows, 1 << 15):
            keys = names_of(np.arange(first, min(first + (1 << 15), options.rows))).view(np.uint64)
            table.load(keys, rng.normal(size=(len(keys), table.width)).astype(np.float32))
            model.resting.relieve()
        times, looks = [], []
        for number in range(options.requests):
            candidates = [{"item": item} for item in names_of(zipf_ids(rng, 50, options.rows)).tolist()]
            request = Request(2e9, {"user": int(rng.integers(0, 20_000))}, candidates)
            reads = getattr(table, "reads", 0)
            began = time.perf_counter()
            model.score_requests([request])
            times.append(time.perf_counter() - began)
            looks.append(getattr(table, "reads", 0) - reads)
            if number % 20 == 0:
                keys = np.unique(names_of(zipf_ids(rng, 500, options.rows)).view(np.uint64))
                table.load(keys, rng.normal(size=(len(keys), table.width)).astype(np.float32))
                while model.resting.due:
                    began = time.perf_counter()
                    model.resting.relieve(RELIEVED_MAX)
                    times.append(time.perf_counter() - began)  # a score may wait for it
        parts = np.array_split(np.array(times[len(times) // 5 :]) * 1e3, 2)
        found[side] = {
            "p50_ms": float(np.median(np.concatenate(parts))),
            "p99_ms": float(np.quantile(np.concatenate(parts), 0.99)),
            "p99_ms_of_each_half": [float(np.quantile(part, 0.99)) for part in parts],
            "reads_per_request": float(np.mean(looks)),
        }
        model.resting.close()
    return found


def in_process(side: str, options: argparse.Namespace) -> dict:
    """One side in a process of its own, so that its memory is its own."""
    arguments = [sys.argv[0], "--side", side]
    for name in ("rows", "memory_rows", "examples", "requests"):
        arguments += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="200,000 rows")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--memory-rows", type=int, default=200_000)
    parser.add_argument("--examples", type=int, default=8 * 16 * COMMIT)
    parser.add_argument("--requests", type=int, default=4_000, help="0: no server")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=["memory", "resting", "serving"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rows, options.memory_rows, options.examples, options.requests = (
            200_000,
            20_000,
            8 * COMMIT,
            1_000,
        )
    if options.side:
        print(json.dumps(serve(options) if options.side == "serving" else learn(options)))
        return
    memory, resting = (in_process(side, options) for side in ("memory", "resting"))
    serving = in_process("serving", options) if options.requests else {}

    def mean(side: dict, name: str) -> float:
        return float(np.mean([window[name] for window in side["windows"]]))

    bytes_asked = memory["table_mb"] / memory["rows"] * options.memory_rows
    result = {
        "rows": resting["rows"],
        "memory_rows": options.memory_rows,
        "same_hash": memory["hash"] == resting["hash"],
        "speed_by_cpu": mean(memory, "cpu_us") / mean(resting, "cpu_us"),
        "speed_by_wall": mean(memory, "wall_us") / mean(resting, "wall_us"),
        "reads_per_example": mean(resting, "reads_per_example"),
        "table_mb": {"asked": bytes_asked, "used": resting["table_mb"], "all_in_memory": memory["table_mb"]},
        "learn": {"memory": memory, "resting": resting},
        "serve": serving,
    }
    print(
        f"{result['rows']:,} rows, {options.memory_rows:,} in memory; same state hash: {result['same_hash']}"
    )
    print(
        f"speed against all in memory: {result['speed_by_cpu']:.2f} by CPU time, "
        f"{result['speed_by_wall']:.2f} by wall time; "
        f"{result['reads_per_example']:.3f} rows read from disk per example"
    )
    print(
        f"table: {resting['table_mb']:.0f} MB for {bytes_asked:.0f} MB asked "
        f"({resting['table_mb'] / bytes_asked:.2f} times); {memory['table_mb']:.0f} MB all in memory; "
        f"{resting['disk_mb']:.0f} MB on disk"
    )
    sent = resting["published"]
    if sent:
        print(
            f"a snapshot of {sent['mb']:.0f} MB with {sent['commits']} commits, the longest of "
            f"{sent['longest_commit_s']:.2f} s, and {sent['rss_more_mb']:.0f} MB more memory meanwhile"
        )
    most = max(resting["filled_rss_mb"], *(window["rss_mb"] for window in resting["windows"]))
    print(
        f"memory of the process above its start: {most:.0f} MB at most ({most / bytes_asked:.2f} times), "
        f"{max(window['rss_mb'] for window in memory['windows']):.0f} MB all in memory"
    )
    for name in ("cpu_us", "wall_us", "rss_mb"):
        values = ", ".join(f"{window[name]:.0f}" for window in resting["windows"])
        print(f"{name} over time, resting: {values}")
    for side, numbers in serving.items():
        halves = ", ".join(f"{value:.2f}" for value in numbers["p99_ms_of_each_half"])
        print(
            f"score of 50 candidates, {side}: p50 {numbers['p50_ms']:.2f} ms, p99 {numbers['p99_ms']:.2f} ms "
            f"(halves {halves}), {numbers['reads_per_request']:.1f} rows read per request"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

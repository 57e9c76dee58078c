"""How long from the answer to a click's feedback to the first score that has learnt from it, by stage.

    .venv/bin/python benchmarks/freshness.py [--log sqlite|kafka|both] [--seconds S] [--quick]
        [--events 2000] [--scores 200] [--json OUT]

Joiner, learner and server are processes (`freshet join`, `learn`, `serve`); a producer, another, appends a
simulated stream of 2,000 events a second (requests of five candidates and clicks on them), and this process
asks for 200 scores a second. Among those are probes: a score of two items that nobody has seen, feedback on
one of them, and then, every few milliseconds, a score of that item beside one more that nobody has seen. The
two differ in nothing but what was learnt, so the first answer in which their corrected scores differ has
learnt from the click, and so have the weights with the first answer in which the base scores differ. A
request is decided by its first click (`decide = "first_action"`). Of requests that would make more than
64 wait at once none is sent, and the line says how many: then the machine does not carry the rate.

Stages are taken from the log's own clock, in milliseconds: of the click (from its feedback's answer), of its
example, and of the update whose watermark is behind it. Kafka is a broker of its own (`deploy/kafka`), or
that of FRESHET_KAFKA.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import numpy as np
import uvloop

from freshet.config import load_config
from freshet.roles.children import Children
from freshet.roles.opening import open_topics
from learner.updates.format import decode_update
from stream.log.base import EVENTS, EXAMPLES, UPDATES, Log, Outgoing
from stream.log.open import open_log
from stream.records.decoding import Decoder
from stream.records.types import Example, encode
from stream.world.simulator import World, WorldSettings

HERE = Path(__file__).resolve().parent
WAITING_MAX = 64
PROBES_MAX = 4  # at once
PROBE_EVERY_S = 0.13
GIVE_UP_S = 20.0
WARM_S = 8.0
FEATURES = ("user", "segment", "device", "item", "category")


def differ(pair: list[float]) -> bool:
    """Whether two probabilities differ by more than what a matrix product's order of summing may do."""
    return abs(pair[0] - pair[1]) > 1e-5 * pair[1]


class Probe:
    """One click, and when what was known of it."""

    def __init__(self) -> None:
        self.name = f"probe-{uuid.uuid4().hex}"
        self.place: list[int] = []  # partition and offset of the click
        self.answered_s = 0.0  # feedback's answer, Unix seconds
        self.corrected_s = 0.0  # the first answer whose corrected scores have learnt
        self.base_s = 0.0  # the first answer whose base scores have learnt


class Rates(NamedTuple):
    """What goes in and out in a second."""

    events: int
    scores: int


class Served(NamedTuple):
    """What the driver saw."""

    probes: list[Probe]
    latencies_ms: list[float]
    unsent: int


def produce(url: str, config_file: str, rate: int) -> None:
    """Append the simulated stream at its pace until stdin ends; the process `--produce`."""
    config = load_config(config_file)
    world = World(WorldSettings(slate=5, click_rate=0.2, requests_per_s=rate / 2.0, label_delay_s=1.0))
    ended = False

    async def watch() -> None:
        nonlocal ended
        await asyncio.to_thread(sys.stdin.read)
        ended = True

    async def run(log: Log) -> None:
        watching = asyncio.create_task(watch())
        stream = world.events()
        sent, began, late = 0, time.monotonic(), 0
        while not ended:
            due = int((time.monotonic() - began) * rate) - sent
            if due <= 0:
                await asyncio.sleep(0.005)
                continue
            late += due > rate // 2
            now = time.time()
            batch = [msgspec.structs.replace(next(stream), time=now) for _ in range(min(due, 500))]
            log.append(EVENTS, [Outgoing(e.request_id.encode(), encode(e)) for e in batch])
            sent += len(batch)
            await asyncio.sleep(0)  # one that is behind must still hear that it is to end
        watching.cancel()
        print(json.dumps({"events_per_s": sent / (time.monotonic() - began), "late": late}), flush=True)

    with contextlib.closing(open_log(url, config.stream.log)) as log:
        asyncio.run(run(log))


async def drive(url: str, seconds: float, rate: int) -> Served:
    """Ask `rate` times a second; begin probes among it, and see when they are learnt."""
    done: list[Probe] = []
    open_probes: list[Probe] = []
    latencies: list[float] = []
    tasks: set[asyncio.Task[None]] = set()
    unsent = 0
    rng = np.random.default_rng(1)
    async with httpx.AsyncClient(
        base_url=url, timeout=30.0, limits=httpx.Limits(max_connections=32, max_keepalive_connections=32)
    ) as client:

        async def begin() -> None:
            probe = Probe()
            items = [{"item": probe.name}, {"item": f"{probe.name}-other"}]
            asked = {"request_id": f"{probe.name}-{uuid.uuid4().hex[:8]}", "candidates": items}
            before = (await client.post("/v1/score", json=asked)).raise_for_status().json()
            if differ(before["corrected"]):
                raise SystemExit("two items that nobody has seen differ: the probes would tell nothing")
            answer = await client.post(
                "/v1/feedback", json={"request_id": asked["request_id"], "candidate": 0}
            )
            probe.answered_s = time.time()
            answer.raise_for_status()
            probe.place = [answer.json()["partition"], answer.json()["offset"]]
            open_probes.append(probe)

        async def look(probe: Probe) -> None:
            items = [{"item": probe.name}, {"item": f"unseen-{uuid.uuid4().hex}"}]
            began = time.perf_counter()
            answer = (await client.post("/v1/score", json={"candidates": items, "log": False})).json()
            now = time.time()
            latencies.append((time.perf_counter() - began) * 1e3)
            if differ(answer["corrected"]) and not probe.corrected_s:
                probe.corrected_s = now
            if differ(answer["base"]) and not probe.base_s:
                probe.base_s = now
                if probe in open_probes:
                    open_probes.remove(probe)
                    done.append(probe)

        async def plain() -> None:
            context = {"user": int(rng.integers(2_000)), "segment": "a", "device": "phone"}
            items = [{"item": int(i), "category": int(i) % 12} for i in rng.integers(500, size=5)]
            began = time.perf_counter()
            answer = await client.post("/v1/score", json={"context": context, "candidates": items})
            latencies.append((time.perf_counter() - began) * 1e3)
            answer.raise_for_status()

        began = time.monotonic()
        next_probe = began
        for tick in range(int(seconds * rate)):
            await asyncio.sleep(max(began + tick / rate - time.monotonic(), 0.0))
            for probe in [p for p in open_probes if time.time() - p.answered_s > GIVE_UP_S]:
                open_probes.remove(probe)
                done.append(probe)
            if len(tasks) >= WAITING_MAX:
                unsent += 1
                continue
            starting = time.monotonic() >= next_probe and len(open_probes) < PROBES_MAX
            if starting:
                next_probe = time.monotonic() + PROBE_EVERY_S * float(rng.uniform(0.5, 1.5))
                work = begin()
            elif open_probes and tick % 4:
                work = look(open_probes[tick % len(open_probes)])
            else:
                work = plain()
            task = asyncio.ensure_future(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.gather(*tasks)
    return Served([*done, *open_probes], latencies, unsent)


def stages(log: Log, probes: list[Probe]) -> list[dict[str, float]]:
    """Seconds of each stage of each probe, from the log's own clock."""
    names = {probe.name: probe for probe in probes}
    example = Decoder(Example)
    clicked: dict[str, int] = {}
    by_place = {tuple(probe.place): probe for probe in probes}
    found: dict[str, dict[str, float]] = {}
    for partition in range(log.partitions(EVENTS)):
        for offset_of, probe in by_place.items():
            if offset_of[0] == partition:
                clicked[probe.name] = log.read(EVENTS, partition, offset_of[1], 1, wait_s=1.0)[0].ingest_ms
    at: dict[str, tuple[int, int, int]] = {}
    for partition in range(log.partitions(EXAMPLES)):
        offset, end = log.ends(EXAMPLES)[partition]
        while offset < end:
            for record in log.read(EXAMPLES, partition, offset, 1_000, wait_s=1.0):
                offset = record.offset + 1
                if b"probe-" in record.value:
                    name = str(example.decode(record.value).candidates[0].get("item"))
                    at.setdefault(name, (partition, record.offset, record.ingest_ms))
    published: list[tuple[dict[int, int], int]] = []
    offset, end = log.ends(UPDATES)[0]
    while offset < end:
        for record in log.read(UPDATES, 0, offset, 20, wait_s=1.0):
            offset = record.offset + 1
            update = decode_update(record.value)
            if update.parts and update.part == update.parts - 1:
                published.append((dict(update.watermark), record.ingest_ms))
    for name, probe in names.items():
        if name not in at or name not in clicked or not probe.base_s:
            continue
        partition, place, joined_ms = at[name]
        published_ms = next((ms for marks, ms in published if marks.get(partition, 0) > place), None)
        if published_ms is None:
            continue
        found[name] = {
            "log": probe.answered_s - clicked[name] / 1e3,
            "joiner": (joined_ms - clicked[name]) / 1e3,
            "memory": probe.corrected_s - joined_ms / 1e3,
            "learner": (published_ms - joined_ms) / 1e3,
            "replica": probe.base_s - published_ms / 1e3,
        }
    return list(found.values())


def spread(values: list[float]) -> dict[str, float]:
    """p50, p99, worst, in seconds."""
    if not values:
        return {"p50_s": float("nan"), "p99_s": float("nan"), "worst_s": float("nan"), "n": 0}
    return {
        "p50_s": float(np.quantile(values, 0.5)), "p99_s": float(np.quantile(values, 0.99)),
        "worst_s": float(max(values)), "n": len(values),
    }  # fmt: skip


def write_config(folder: Path, log: str, deep: str, settings: list[str]) -> Path:
    """A config of five features."""
    lines = [f'log = "{log}"', f'state = "{folder / "state"}"']
    lines += [f'[features.{name}]\nkind = "id"' for name in FEATURES]
    lines += [f'[learner]\ndeep = "{deep}"', "[server]\nport = 0"]
    lines += ['[join]\ndecide = "first_action"\nwindow_s = 10.0']
    path = folder / "freshet.toml"
    path.write_text("\n".join([*lines, *settings]) + "\n")
    return path


def measure(kind: str, url: str, folder: Path, deep: str, seconds: float, rates: Rates) -> dict[str, Any]:
    """One log's figures."""
    config_file = write_config(folder, url, deep, [])
    config = load_config(config_file)
    open_topics(config).close()
    producer = [sys.executable, str(HERE / "freshness.py"), "--produce", url, "--config", str(config_file)]
    producer += ["--events", str(rates.events)]
    with Children(folder / "said") as children:
        roles = [children.start(r, r, "--config", str(config_file)) for r in ("serve", "join", "learn")]
        deadline = time.monotonic() + 120.0
        while any(role.ready() is None for role in roles):
            if time.monotonic() > deadline:
                raise SystemExit("the roles do not come up" + "".join(role.last_words() for role in roles))
            time.sleep(0.05)
        address = next(word for word in str(roles[0].ready()).split() if word.startswith("http"))
        with subprocess.Popen(
            producer, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as producing:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(drive(address, WARM_S, rates.scores))
                served = runner.run(drive(address, seconds, rates.scores))
            assert producing.stdin is not None and producing.stdout is not None
            producing.stdin.close()
            produced = json.loads(producing.stdout.readline())
        with contextlib.closing(open_log(url, config.stream.log)) as log:
            by_stage = stages(log, served.probes)
    probes = served.probes
    found: dict[str, Any] = {
        "log": kind,
        "deep": deep,
        "events_per_s": produced["events_per_s"],
        "unsent": served.unsent,
        "scores_per_s": len(served.latencies_ms) / seconds,
        "score_p50_ms": float(np.quantile(served.latencies_ms, 0.5)),
        "score_p99_ms": float(np.quantile(served.latencies_ms, 0.99)),
        "missed": sum(not probe.corrected_s for probe in probes),
        "corrected": spread([p.corrected_s - p.answered_s for p in probes if p.corrected_s]),
        "base": spread([p.base_s - p.answered_s for p in probes if p.base_s]),
        "stages": {name: spread([each[name] for each in by_stage]) for name in (by_stage or [{}])[0]},
    }
    print(
        f"{kind}, {found['events_per_s']:,.0f} events/s in, {found['scores_per_s']:.0f} scores/s out "
        f"(p50 {found['score_p50_ms']:.1f} ms, p99 {found['score_p99_ms']:.1f} ms), {found['unsent']} "
        f"not sent, deep {deep}; not seen learnt: {found['missed']} of {len(probes)} clicks"
    )
    for name in ("corrected", "base"):
        result = found[name]
        print(
            f"  {name} has learnt after: p50 {result['p50_s']:.3f} s, p99 {result['p99_s']:.3f} s, worst "
            f"{result['worst_s']:.3f} s, of {result['n']} clicks"
        )
    for name, stage in found["stages"].items():
        p50, p99, worst = (stage[key] for key in ("p50_s", "p99_s", "worst_s"))
        print(f"    {name}: p50 {p50:.3f} s, p99 {p99:.3f} s, worst {worst:.3f} s")
    return found


@contextlib.contextmanager
def kafka(folder: Path) -> Iterator[str]:
    """A Kafka log of its own."""
    given = os.environ.get("FRESHET_KAFKA")
    if given:
        yield f"kafka://{given}/freshness-{uuid.uuid4().hex[:8]}"
        return
    sys.path.insert(0, str(HERE.parent / "deploy" / "kafka"))
    from broker import Broker  # type: ignore[import-not-found, unused-ignore]

    with Broker(folder, heap="512m") as broker:
        yield f"kafka://{broker.address}/freshness"


def main() -> None:
    """Run, print, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", choices=["sqlite", "kafka", "both"], default="both")
    parser.add_argument("--deep", default="dcn")
    parser.add_argument("--events", type=int, default=2_000, help="a second, in")
    parser.add_argument("--scores", type=int, default=200, help="a second, out")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="a run of seconds, on SQLite")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--produce", help=argparse.SUPPRESS)
    parser.add_argument("--config", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.produce:
        produce(arguments.produce, arguments.config, arguments.events)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    seconds = 10.0 if arguments.quick else arguments.seconds
    kinds = ["sqlite"] if arguments.quick else ["sqlite", "kafka"]
    if arguments.log != "both":
        kinds = [arguments.log]
    deep = arguments.deep
    rates = Rates(arguments.events, arguments.scores)
    found = []
    for kind in kinds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if kind == "sqlite":
                found.append(measure(kind, f"sqlite:{folder / 'log.db'}", folder, deep, seconds, rates))
            else:
                with kafka(folder / "kafka") as url:
                    found.append(measure(kind, url, folder, deep, seconds, rates))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

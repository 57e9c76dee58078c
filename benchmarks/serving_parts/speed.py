"""How many scores a second, and how long one takes: beside a no-op application, the learner idle and at work.

    .venv/bin/python benchmarks/serving.py [--quick] [--deep dcn] [--candidates 50] [--json OUT]

A server (`freshet serve`, a process) holds a model that has learnt 2,000 requests of eight features; a load
generator (`load.py`, another) asks for scores of 50 candidates. In the same run an ASGI application
that reads its body and answers `{}` stands under the same uvicorn settings. Requests a second are those of
32 connections that ask again as soon as they are answered, the median of five rounds by turns, beside the
processor time that the server's process took for each; latencies are those of an open loop at half of the
server's rate, from the time at which a request was to begin, the median of three rounds of each quantile;
those of the no-op application at that same rate say what the machine adds. `logged` scores are
appended to the log, durably, before they are answered, as the default is; the others carry "log": false.
"At work": a learner with a backlog learns and publishes as fast as it can, and the server follows.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from freshet.config import load_config
from freshet.roles.children import Children
from learner.role.learner import Learner
from serving.app.server import run_app
from serving.http.frame import Connection, Receive, Send
from serving.settings import ServerSettings
from stream.log.base import EVENTS, EXAMPLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.open import open_log
from stream.records.types import Example, Features, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

HERE = Path(__file__).resolve().parent
IDS = ("user", "segment", "device", "item", "category", "brand")
CONNECTIONS = 32
BODIES = 500
LEARNT = 2_000
ROUNDS = 5
LATENCY_ROUNDS = 3


class _Open:
    """Needs no token, and has no page to name."""

    required = False
    name = ""


class NoOp:
    """Reads the body and answers {}."""

    access = overview = _Open()

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        while (await receive()).get("more_body", False):
            pass
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


def be_noop() -> None:
    """Be the no-op application, until stdin ends."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    app: Any = NoOp()
    run_app(app, ServerSettings(port=0), ended.is_set, lambda url: print(url, flush=True))


class Shop:
    """Draws requests: 20,000 people, 5,000 items, eight features."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(7)

    def context(self) -> Features:
        """Three features of a request; the fourth is its hour."""
        user = int(self._rng.integers(20_000))
        return {"user": user, "segment": "abcdef"[user % 6], "device": ("phone", "desktop")[user % 2]}

    def candidates(self, count: int) -> list[Features]:
        """Four features each."""
        return [
            {"item": i, "category": i % 20, "brand": f"b{i % 200}", "price": i % 97 + 0.5}
            for i in self._rng.integers(5_000, size=count).tolist()
        ]

    def examples(self, count: int, slate: int = 10) -> list[Outgoing]:
        """Decided requests, as a joiner gives them."""
        now = time.time()
        labels = (self._rng.random((count, slate)) < 0.2).astype(float).tolist()
        return [
            Outgoing(
                b"%d" % i,
                encode(Example(f"e{i}", now, now, self.candidates(slate), labels[i], self.context())),
            )
            for i in range(count)
        ]

    def requests(self, file: Path, candidates: int, log: bool) -> Path:
        """A file of whole HTTP requests, for `load.py`."""
        with file.open("wb") as out:
            for _ in range(BODIES):
                body = msgspec.json.encode(
                    {"context": self.context(), "candidates": self.candidates(candidates), "log": log}
                )
                head = f"POST /v1/score HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
                whole = head.encode() + body
                out.write(len(whole).to_bytes(4, "little") + whole)
        return file


def write_config(folder: Path, deep: str) -> Path:
    """A config of eight features."""
    lines = [f'log = "sqlite:{folder / "log.db"}"', f'state = "{folder / "state"}"']
    lines += [f'[features.{name}]\nkind = "id"' for name in IDS]
    lines += ['[features.price]\nkind = "number"', '[features.hour]\nkind = "hour"']
    lines += [f'[learner]\ndeep = "{deep}"', "[server]\nport = 0"]
    path = folder / "freshet.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def teach(folder: Path, config_file: Path, shop: Shop) -> None:
    """Learn what the server is to know, in this process, into the learner's own state."""
    config = load_config(config_file)
    with contextlib.closing(open_log(config.log, config.stream.log)) as log:
        for topic in (EVENTS, EXAMPLES, UPDATES, SNAPSHOTS, "dead_letters", "roles"):
            log.create_topic(topic, 1)
        log.append(EXAMPLES, shop.examples(LEARNT))
        with RoleState(folder / "taught", "learner", {}, sync=False) as state:
            learner = Learner(config.features, config.learner, state)
            runner = Runner(
                log,
                state,
                learner,
                Subscription(EXAMPLES, "learn"),
                RunnerSettings(commit_every_s=1.0, wait_s=0.0),
            ).open()
            while runner.step():
                pass
            runner.end()
            learner.close()


def load(url: str, requests: Path, seconds: float, rate: float = 0.0) -> dict[str, float]:
    """What a load generator of its own process found."""
    where = urlsplit(url)
    plan = {
        "host": where.hostname, "port": where.port, "requests": str(requests), "seconds": seconds,
        "connections": CONNECTIONS, "rate": rate,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(HERE / "load.py")],
        input=json.dumps(plan), capture_output=True, text=True, timeout=seconds + 60, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    if found["failed"] or not found["requests_per_s"]:
        raise SystemExit(f"{found['failed']:.0f} requests failed")
    return found


def cpu_s(pid: int) -> float:
    """Processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def by_turns(asked: dict[str, tuple[str, Path, float]], seconds: float) -> dict[str, dict[str, float]]:
    """Loads (URL, requests, rate) by name, `LATENCY_ROUNDS` times by turns; the median of each figure."""
    result: dict[str, list[dict[str, float]]] = {name: [] for name in asked}
    for _ in range(LATENCY_ROUNDS):
        for name, (url, file, rate) in asked.items():
            result[name].append(load(url, file, seconds / LATENCY_ROUNDS, rate))
    return {
        name: {key: float(np.median([each[key] for each in all_])) for key in all_[0]}
        for name, all_ in result.items()
    }


@contextlib.contextmanager
def noop() -> Iterator[tuple[str, int]]:
    """A no-op application's URL, and its process."""
    command = [sys.executable, str(HERE / "speed.py"), "--be-noop"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        yield process.stdout.readline().strip(), process.pid
        process.stdin.close()


def ready(child: Any) -> str:
    """Wait for a child; what it said with its readiness."""
    deadline = time.monotonic() + 120.0
    while (said := child.ready()) is None:
        if time.monotonic() > deadline or child.process.poll() is not None:
            raise SystemExit(f"{child.name} does not come up{child.last_words()}")
        time.sleep(0.05)
    return str(said)


def main() -> None:
    """Run, print a line each, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a run of seconds")
    parser.add_argument("--deep", default="dcn", help="the model's deep part, as in [learner]")
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--be-noop", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be_noop:
        be_noop()
        return
    seconds = 2.0 if arguments.quick else 6.0
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), arguments.deep, arguments.candidates, seconds)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def measure(folder: Path, deep: str, candidates: int, seconds: float) -> dict[str, Any]:
    """All of it; prints as it goes."""
    shop = Shop()
    config = write_config(folder, deep)
    teach(folder, config, shop)
    plain = shop.requests(folder / "plain", candidates, False)
    logged = shop.requests(folder / "logged", candidates, True)
    many = shop.requests(folder / "many", 1_000, False)
    found: dict[str, Any] = {"deep": deep, "candidates": candidates}
    with Children(folder / "said") as children, noop() as (noop_url, noop_pid):
        server = children.start("serve", "serve", "--config", str(config))
        url = next(word for word in ready(server).split() if word.startswith("http"))
        load(url, plain, 1.0)
        rates: dict[str, list[float]] = {"noop": [], "score": [], "logged": []}
        costs: dict[str, list[float]] = {name: [] for name in rates}
        asked = {
            "noop": (noop_url, plain, noop_pid),
            "score": (url, plain, server.process.pid),
            "logged": (url, logged, server.process.pid),
        }
        for _ in range(ROUNDS):
            for name, (at, file, pid) in asked.items():
                before = cpu_s(pid)
                result = load(at, file, seconds / ROUNDS)
                rates[name].append(result["requests_per_s"])
                costs[name].append(1e6 * (cpu_s(pid) - before) / result["requests"])
                found.setdefault("generator_busy", {})[name] = result["generator_busy"]
        found["requests_per_s"] = {name: float(np.median(each)) for name, each in rates.items()}
        found["requests_per_s_rounds"] = rates
        found["cpu_us"] = {name: float(np.median(each)) for name, each in costs.items()}
        found["share"] = {
            name: float(np.median(np.array(rates[name]) / np.array(rates["noop"])))
            for name in ("score", "logged")
        }
        for name, rate in found["requests_per_s"].items():
            print(
                f"{name}: {rate:,.0f} requests/s, {rate / found['requests_per_s']['noop']:.3f} of no-op; "
                f"{found['cpu_us'][name]:,.0f} us of processor each",
                flush=True,
            )
        halves = {name: found["requests_per_s"][name] / 2 for name in ("score", "logged")}
        latencies = {
            "no-op": (noop_url, plain, halves["score"]),
            "score": (url, plain, halves["score"]),
            "logged": (url, logged, halves["logged"]),
        }
        found["idle"] = by_turns({**latencies, "1,000 candidates": (url, many, 20.0)}, seconds)
        say("learner idle", found["idle"])
        config_log = load_config(config)
        with contextlib.closing(open_log(config_log.log, config_log.stream.log)) as log:
            backlog = shop.examples(3_000)
            for _ in range(2 if seconds < 5 else 6):
                log.append(EXAMPLES, backlog)
        ready(children.start("learn", "learn", "--config", str(config)))
        found["at work"] = by_turns(latencies, seconds)
        say("learner at work", found["at work"])
    return found


def say(when: str, found: dict[str, dict[str, float]]) -> None:
    """A line each."""
    for name, result in found.items():
        print(
            f"{when}, {name}, at {result['requests_per_s']:,.0f}/s: p50 {result['p50_ms']:.2f} ms, p99 "
            f"{result['p99_ms']:.2f} ms, p99.9 {result['p999_ms']:.2f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()

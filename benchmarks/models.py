"""What more models in one server cost beside one; a promotion and a rollback under 200 scores a second.

    .venv/bin/python benchmarks/models.py [--quick] [--json OUT]

First the time of the processor for one request of 50 candidates: scores of all models, and the impression for
the log. Then a real server over HTTP that holds two models, asked 200 times a second from four threads, while
shares change and the challenger is promoted: failed answers, mixed answers (whose numbers are not those that
were logged of the model that the answer names), and latency. At last a learner and a server as processes,
asked the same way, while the learner goes back to a snapshot from before labels were inverted. Nothing is
learned meanwhile, so all answers of one epoch to the same candidates are equal bit by bit; one that differs
is mixed.
"""

import argparse
import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from error_memory import MemorySettings
from freshet.config import Config, load_config
from freshet.models.snapshots import roll_back, snapshots_of
from freshet.roles.children import Children
from freshet.roles.opening import open_topics
from learner.features.encoder import FeatureSpec
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from serving.app.server import serve
from serving.models.held import HeldModels
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES, Log, Outgoing
from stream.log.testing import MemoryLog
from stream.orders.names import MAIN, own_name
from stream.orders.orders import MODELS, Traffic, give_order
from stream.orders.view import log_of
from stream.records.decoding import Decoder, split_batch
from stream.records.types import Action, Example, Impression, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

CANDIDATES = 50
PER_S, CLIENTS = 200, 4
NAMES = (MAIN, "challenger", "third")
FEATURES = {name: FeatureSpec(kind="id") for name in ("user", "item", "category")}
SETTINGS = LearnerSettings(score="own")
CONFIG = """
log = "sqlite:log.db"
[group]
snapshot_every_s = 0.5
snapshots_kept = 100
[features.user]
[features.item]
[features.category]
[learner]
publish_every_s = 0.1
[server]
port = 0
"""
PROBES = 100
"""Different requests that are asked while the model goes back."""
WAIT_S = 240.0


def request(n: int) -> dict[str, Any]:
    candidates = [{"item": (n * 7 + i) % 5_000, "category": i % 20} for i in range(CANDIDATES)]
    return {"request_id": f"r{n}", "context": {"user": n % 1_000}, "candidates": candidates}


def teach(log: Log, first: int, requests: int, inverted: bool = False) -> None:
    """Append examples: one of ten candidates is clicked, or all but one of ten."""
    rng = np.random.default_rng(first)
    for n in range(first, first + requests):
        asked = request(n)
        labels = ((rng.random(CANDIDATES) < 0.1) != inverted).astype(float).tolist()
        example = Example(f"e{n}", 1e9 + n, 1e9 + n, asked["candidates"], labels, asked["context"])
        log.append(EXAMPLES, [Outgoing(b"", encode(example), 0)])


def learned_log(folder: Path, requests: int) -> Log:
    """A log with examples that all models have learned."""
    log = MemoryLog()
    topics = [EVENTS, EXAMPLES, DEAD_LETTERS, ROLES, MODELS]
    for topic in [*topics, *(own_name(topic, model) for topic in (UPDATES, SNAPSHOTS) for model in NAMES)]:
        log.create_topic(topic, 1)
    teach(log, 0, requests)
    for model in NAMES:
        with RoleState(
            folder / model, "learner", Learner.fingerprint(FEATURES, SETTINGS), sync=False
        ) as state:
            learner = Learner(FEATURES, SETTINGS, state)
            subscription = Subscription(EXAMPLES, "learn")
            runner = Runner(
                log_of(log, model), state, learner, subscription, RunnerSettings(wait_s=0.0)
            ).open()
            while runner.step():
                pass
            runner.end()
            learner.close()
    return log


def held(log: Log, names: Sequence[str], shares: Mapping[str, float]) -> HeldModels:
    settings = ServerSettings(port=0)
    replicas = {n: Replica(log_of(log, n), FEATURES, SETTINGS, MemorySettings(), settings) for n in names}
    return HeldModels(log, replicas, shares, "user")


def processor_us(log: Log, times: int) -> dict[int, float]:
    """Microseconds of the processor for one request, by the number of models; the least of nine runs each,
    by turns."""
    asked = [Impression(time=1e9, **request(n)) for n in range(times)]
    servers = {n: held(log, NAMES[:n], {MAIN: 1.0}) for n in (1, 2, 3)}
    for models in servers.values():
        for replica in models.replicas.values():
            while replica.step():
                pass
        models.look()
    best = dict.fromkeys(servers, float("inf"))
    for _ in range(9):
        for n, models in servers.items():
            scorer = models if n > 1 else models.replicas[MAIN]
            began = time.thread_time()
            for one in asked:
                (scored,) = scorer.score([one])
                encode(Impression(one.request_id, one.time, one.candidates, one.context, scored.served))
            best[n] = min(best[n], (time.thread_time() - began) / times)
    return {n: 1e6 * seconds for n, seconds in best.items()}


class Answered(NamedTuple):
    """One answer."""

    n: int  # of the request
    began_s: float
    took_s: float
    body: dict[str, Any]


class Asked:
    """What came of requests: answers, and what failed."""

    def __init__(self) -> None:
        self.answers: list[Answered] = []
        self.failed: list[str] = []

    def figures(self) -> dict[str, float]:
        """How many, and how long they took."""
        ms = np.array([one.took_s for one in self.answers]) * 1e3
        return {
            "answers": len(ms), "failed": len(self.failed),
            "p50_ms": float(np.median(ms)), "p99_ms": float(np.quantile(ms, 0.99)), "max_ms": float(ms.max()),
        }  # fmt: skip


@contextlib.contextmanager
def asking(url: str, body: Callable[[int], dict[str, Any]]) -> Iterator[Asked]:
    """Ask a server 200 times a second from four threads."""
    found, stop = Asked(), threading.Event()

    def ask(client: int) -> None:
        with httpx.Client(base_url=url, timeout=30.0) as http:
            n, due = 1_000_000 + client, time.monotonic()
            while not stop.is_set():
                n, due = n + CLIENTS, due + CLIENTS / PER_S
                time.sleep(max(due - time.monotonic(), 0.0))
                began = time.monotonic()
                try:
                    answer = http.post("/v1/score", json=body(n)).raise_for_status()
                except httpx.HTTPError as error:
                    found.failed.append(str(error))
                    continue
                found.answers.append(Answered(n, began, time.monotonic() - began, answer.json()))

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def logged(log: Log) -> dict[str, Impression]:
    """The impressions in a log, by request."""
    decode = Decoder[Impression | Action](Impression, Action).decode
    found: dict[str, Impression] = {}
    for partition in range(log.partitions(EVENTS)):
        at = 0
        while records := log.read(EVENTS, partition, at):
            for one in (decode(part) for record in records for part in split_batch(record.value)):
                if isinstance(one, Impression):
                    found[one.request_id] = one
            at = records[-1].offset + 1
    return found


def promotion(log: Log, seconds: float) -> dict[str, float]:
    """Promote under load; what came of the answers."""
    models = held(log, NAMES[:2], {MAIN: 0.9, NAMES[1]: 0.1})
    settings, stop = ServerSettings(port=0), threading.Event()
    urls: list[str] = []
    server = threading.Thread(target=lambda: serve(models, log, settings, stop, urls.append))
    server.start()
    assert models.wait_ready(120.0)
    while not urls:
        time.sleep(0.01)
    with asking(urls[0], request) as asked:
        time.sleep(seconds)
        give_order(log, Traffic({MAIN: 0.5, NAMES[1]: 0.5}, time.time()))
        time.sleep(seconds)
        give_order(log, Traffic({NAMES[1]: 1.0}, time.time()))
        promoted = time.monotonic()
        time.sleep(seconds)
    stop.set()
    server.join()
    known, mixed = logged(log), 0
    for one in asked.answers:
        served = known[one.body["request_id"]].served
        mixed += served is None or served.models[one.body["model"]].corrected != one.body["corrected"]
    last_other = max((one.began_s for one in asked.answers if one.body["model"] == MAIN), default=promoted)
    return {**asked.figures(), "mixed": mixed, "promoted_after_s": max(last_other - promoted, 0.0)}


def probe(n: int) -> dict[str, Any]:
    """One of a hundred requests, under an id of its own, always of the same time."""
    return {**request(n % PROBES), "request_id": f"b{n}", "time": 2e9}


def until(done: Callable[[], bool], what: str) -> None:
    """Wait."""
    deadline = time.monotonic() + WAIT_S
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"after {WAIT_S:.0f} s: {what}")
        time.sleep(0.05)


def rollback(folder: Path, requests: int, seconds: float) -> dict[str, float]:
    """Go back under load; what came of the answers."""
    file = folder / "freshet.toml"
    file.write_text(CONFIG)
    config = load_config(str(file))
    with contextlib.closing(open_topics(config)) as log, Children(folder / "said") as children:
        server, _ = (children.start(role, role, "--config", str(file)) for role in ("serve", "learn"))
        until(lambda: server.ready() is not None, "the server is not ready")
        url = next(word for word in (server.ready() or "").split() if word.startswith("http"))
        candidates, snapshots = requests * CANDIDATES, snapshots_of(config)

        def learned() -> int:
            return int(httpx.get(f"{url}/v1/model", timeout=60.0).json()["examples_learnt"])

        teach(log, 0, requests)
        until(lambda: learned() >= candidates, "the examples are not learned")
        until(lambda: any(s.examples >= candidates for s in snapshots.listed()), "there is no snapshot")
        snapshots.pin(snapshots.listed()[0].path.name, "good")
        teach(log, requests, requests, inverted=True)
        until(lambda: learned() >= 2 * candidates, "what is inverted is not learned")
        return going_back(config, log, url, seconds)


def going_back(config: Config, log: Log, url: str, seconds: float) -> dict[str, float]:
    """Order the rollback while the server is asked, and compare all answers."""
    with asking(url, probe) as asked:
        time.sleep(seconds)
        ordered = time.monotonic()
        roll_back(config, "good", why="a benchmark", wait_s=WAIT_S)
        time.sleep(seconds)
    known, mixed = logged(log), 0
    first: dict[tuple[str, int], list[float]] = {}
    changed: dict[str, float] = {}  # when an epoch was first seen
    for one in sorted(asked.answers, key=lambda one: one.began_s + one.took_s):
        epoch, base = one.body["model_version"].split("-")[0], one.body["base"]
        changed.setdefault(epoch, one.began_s + one.took_s)
        served = known[one.body["request_id"]].served
        same = first.setdefault((epoch, one.n % PROBES), base) == base
        mixed += not same or served is None or served.base != base
    old, new = changed  # of exactly two epochs
    late = sum(
        one.body["model_version"].startswith(f"{old}-") and one.began_s > changed[new]
        for one in asked.answers
    )
    differ = sum(first[old, n] != first[new, n] for n in range(PROBES))
    return {
        **asked.figures(), "mixed": mixed, "of_the_old_epoch_after_the_new": late,
        "probes_that_changed": differ, "back_after_s": changed[new] - ordered,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = learned_log(Path(folder), 200 if arguments.quick else 2_000)
        times = 100 if arguments.quick else 1_000
        cost = processor_us(log, times)
        seconds = 2.0 if arguments.quick else 10.0
        under_load = {
            "promotion": promotion(log, seconds),
            "rollback": rollback(Path(folder), 200 if arguments.quick else 2_000, seconds),
        }
    for n, us in cost.items():
        print(
            f"{n} model{'s' * (n > 1)}: {us:,.0f} µs a request of {CANDIDATES} candidates, "
            f"{us / cost[1]:.2f} times one"
        )
    for what, figures in under_load.items():
        print(f"{what}: " + ", ".join(f"{name} {value:,.2f}" for name, value in figures.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"processor_us": cost, **under_load}))


if __name__ == "__main__":
    main()

"""The run through the live roles: joiner, learner and server as processes on a log that drops what is old.

Events are appended at a steady rate, and scores asked for beside them. Where the roles fall behind by more
than `BEHIND_MAX` requests, the next events wait for them: a busy machine makes the run longer and does not
end it. At each mark: how far behind the roles are, memory, bytes on disk, the latency of the scores and the
time of a commit since the last mark. At the end each role is stopped and started again.
"""

import contextlib
import json
import os
import statistics
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import numpy as np

from freshet.config import Config, load_config, parse_config
from freshet.roles.children import Child, Children
from freshet.roles.opening import open_topics
from soak_parts import kept, system, world
from stream.log.base import EVENTS, EXAMPLES, UPDATES, Log, Outgoing
from stream.records.types import Action, Impression, encode

Row = dict[str, Any]

ROLES = ("join", "learn", "serve")
READY_S = 300.0
STUCK_S = 300.0  # without a request learned, after which the run ends
BEHIND_MAX = 20_000  # requests that are sent and not learned yet
LOOK_S = 1.0  # between two looks how many are learned
SCORE_EVERY_S = 0.05
STEP_S = 0.02
CANDIDATES = 10  # of a request that is scored


class Live(NamedTuple):
    """How much, how fast, and how much of it the log and the tables keep."""

    requests: int
    per_s: int
    marks: int
    retain_mb: int  # of each topic
    rows_max: int  # of pairs; the other budgets are in proportion


class _Pace:
    """How many requests may be sent: so many a second, and no more than the roles can keep up with."""

    def __init__(self, client: httpx.Client, live: Live) -> None:
        self._client = client
        self._live = live
        self._learned = 0
        self._learned_at = self._looked_at = self._last = time.monotonic()
        self._allowed = 0.0
        self.held_s = 0.0  # for which the roles were too far behind

    def due(self, sent: int) -> int:
        """How many are to be sent now.

        Raises:
            SystemExit: nothing is learned any more.
        """
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self.look()
        passed_s, self._last = now - self._last, now
        if sent - self._learned > BEHIND_MAX:
            self.held_s += passed_s
        else:
            self._allowed += passed_s * self._live.per_s
        return min(int(self._allowed), self._live.requests) - sent

    def look(self) -> int:
        """How many requests are learned."""
        learned = self._client.get("/v1/model").raise_for_status().json()["examples_learnt"]
        now = time.monotonic()
        if learned > self._learned:
            self._learned, self._learned_at = learned, now
        elif now - self._learned_at > STUCK_S:
            raise SystemExit(f"no request was learned for {STUCK_S:.0f} s, after {learned:,}")
        return self._learned


def write_config(folder: Path, log: str, live: Live, ports: dict[str, int]) -> Path:
    """A config of the same features, with a log that keeps little."""
    lines = [f'log = "{log}"', f'state = "{folder / "state"}"', "[join]", "window_s = 5.0"]
    lines += ["[server]", "port = 0"]
    lines += ["[learner]", "snapshot_bytes_min = 8_388_608", f"pairs_rows_max = {live.rows_max}"]
    lines += ["[metrics]", *(f"{role}_port = {port}" for role, port in ports.items())]
    lines += ["[stream.log.retain_bytes]", f'"*" = {live.retain_mb << 20}']
    for name, settings in kept.config_table(folder, live.rows_max)["features"].items():
        lines.append(f"[features.{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    path = folder / "freshet.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(kind: str, url: str, folder: Path, live: Live, log_folder: Path) -> Iterator[Row]:
    """Run the roles, and give what each mark measured; the last row is of the restarts.

    Args:
        log_folder: where the log's bytes lie.
    """
    ports = {"join": system.free_port(), "learn": system.free_port()}
    path = write_config(folder, url, live, ports)
    config = load_config(path)
    with Children(folder / "said") as children, contextlib.closing(open_topics(config)) as log:
        roles = {role: children.start(role, role, "--config", str(path), restart=False) for role in ROLES}
        address = _await(children, roles)
        made = world.blocks(live.requests)
        waiting: list[Impression | Action] = []
        latencies: list[float] = []
        commits = _commits(ports)
        with httpx.Client(base_url=address, timeout=60.0) as client:
            pace = _Pace(client, live)
            sent = marked = 0
            marked_at, held_s, next_score = time.monotonic(), 0.0, 0.0
            while sent < live.requests:
                while (due := pace.due(sent)) > 0 and time.monotonic() < next_score:
                    if not waiting:
                        waiting = _events(next(made))
                    sent += _append(log, waiting, min(due, 500))
                if time.monotonic() >= next_score:
                    next_score = time.monotonic() + SCORE_EVERY_S
                    latencies.append(_score(client, sent))
                if sent - marked >= live.requests // live.marks or sent == live.requests:
                    children.watch()
                    latencies = latencies or [_score(client, sent)]
                    took_s, before = time.monotonic() - marked_at, commits
                    commits = _commits(ports)
                    yield {
                        "log": kind,
                        "requests": sent,
                        "sent_per_s": (sent - marked) / took_s,
                        "held_s": pace.held_s - held_s,
                        "score_p50_ms": statistics.median(latencies),
                        "score_p99_ms": float(np.quantile(latencies, 0.99)),
                        "commit_ms": {role: _mean_ms(before[role], commits[role]) for role in ports},
                        **_look(client, log, config, roles, folder, log_folder),
                    }
                    latencies = []
                    marked, marked_at, held_s = sent, time.monotonic(), pace.held_s
                time.sleep(STEP_S)
            while pace.look() < 0.95 * sent:  # what the last window holds waits for later events
                children.watch()
                time.sleep(LOOK_S)
        restarts = {}
        for role in ROLES:
            _stop(roles, role)
            restarts[role] = _again(children, roles, role, path)
        yield {"log": kind, "restart_s": restarts}


def _commits(ports: dict[str, int]) -> dict[str, tuple[float, float]]:
    """Of each role: how many commits it has made, and the seconds that they took."""
    found = {}
    for role, port in ports.items():
        lines = (
            httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60.0).raise_for_status().text.splitlines()
        )
        values = {line.split("{")[0]: float(line.split()[-1]) for line in lines if line[:1] != "#"}
        found[role] = (values["freshet_commits_total"], values["freshet_commit_seconds_total"])
    return found


def _mean_ms(before: tuple[float, float], after: tuple[float, float]) -> float:
    return (after[1] - before[1]) / max(after[0] - before[0], 1.0) * 1e3


def _await(children: Children, roles: dict[str, Child]) -> str:
    """Wait until all are ready; the server's address.

    Raises:
        RoleError: one of them has ended, with the end of its log.
    """
    deadline = time.monotonic() + READY_S
    while any(role.ready() is None for role in roles.values()):
        children.watch()
        if time.monotonic() > deadline:
            raise SystemExit(
                "the roles do not come up" + "".join(role.last_words() for role in roles.values())
            )
        time.sleep(0.05)
    return next(word for word in str(roles["serve"].ready()).split() if word.startswith("http"))


def _events(part: world.Requests) -> list[Impression | Action]:
    """Impressions of one candidate, with the click right behind, newest first."""
    found: list[Impression | Action] = []
    ids = {name: values.tolist() for name, values in part.ids.items()}
    for n, (number, label) in enumerate(zip(part.number.tolist(), part.label.tolist(), strict=True)):
        name = f"{number}-{uuid.uuid4().hex[:6]}"
        found.append(Impression(name, 0.0, [{key: values[n] for key, values in ids.items()}]))
        if label:
            found.append(Action(name, 0.0, 0))
    found.reverse()
    return found


def _append(log: Log, waiting: list[Impression | Action], requests: int) -> int:
    """Append the next so many requests, with the time of now; returns how many there were."""
    now = time.time()
    out: list[Outgoing] = []
    taken = 0
    while waiting and (taken < requests or isinstance(waiting[-1], Action)):
        event = waiting.pop()
        taken += isinstance(event, Impression)
        timed = msgspec.structs.replace(event, time=now)
        out.append(Outgoing(event.request_id.encode(), encode(timed)))
    log.append(EVENTS, out)
    return taken


def _score(client: httpx.Client, sent: int) -> float:
    """Milliseconds of one score over HTTP."""
    part = world.block(sent, CANDIDATES)
    ids = {name: values.tolist() for name, values in part.ids.items()}
    body = {
        "context": {name: ids[name][0] for name in (*world.OF_USER, "publisher", "hour")},
        "candidates": [
            {name: ids[name][k] for name in ("item", "campaign", "category")} for k in range(CANDIDATES)
        ],
        "log": False,
    }
    began = time.perf_counter()
    client.post("/v1/score", json=body).raise_for_status()
    return (time.perf_counter() - began) * 1e3


def _look(
    client: httpx.Client, log: Log, config: Config, roles: dict[str, Child], folder: Path, log_folder: Path
) -> Row:
    result = client.get("/v1/model").raise_for_status().json()
    kept_records = {
        topic: sum(end - first for first, end in log.ends(topic)) for topic in (EVENTS, EXAMPLES, UPDATES)
    }
    return {
        "freshness_s": result["freshness_s"],
        "learnt": result["examples_learnt"],
        "auc": result["base"]["recent"]["auc"],
        "rows": result["table_rows"],
        "memory_mb": {name: system.memory_mb(role.process.pid) for name, role in roles.items()},
        "log_mb": system.folder_mb(log_folder),
        "state_mb": {name: system.folder_mb(Path(config.state_of(name))) for name in ("join", "learn")},
        "snapshots_mb": system.folder_mb(config.snapshots),
        "records": kept_records,
    }


def _again(children: Children, roles: dict[str, Child], role: str, path: Path) -> float:
    """Start a role once more after it was stopped; seconds until it is ready."""
    began = time.monotonic()
    again = children.start(f"{role}-again", role, "--config", str(path), restart=False)
    while again.ready() is None:
        if again.process.poll() is not None or time.monotonic() - began > READY_S:
            raise SystemExit(f"{role} does not come up again{again.last_words()}")
        time.sleep(0.05)
    roles[role] = again
    return time.monotonic() - began


def _stop(roles: dict[str, Child], role: str) -> None:
    roles[role].process.terminate()
    roles[role].process.wait(60.0)


@contextlib.contextmanager
def sqlite(folder: Path) -> Iterator[str]:
    """An embedded log."""
    yield f"sqlite:{folder / 'log.db'}"


@contextlib.contextmanager
def kafka(folder: Path) -> Iterator[str]:
    """A Kafka log on a broker of its own, which looks every ten seconds what to drop (by default 300)."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy" / "kafka"))
    from broker import Broker  # type: ignore[import-not-found, unused-ignore]

    settings = {"log.retention.check.interval.ms": "10000", "log.segment.delete.delay.ms": "1000"}
    with Broker(folder, heap="512m", settings=settings) as broker:
        yield f"kafka://{broker.address}/soak"


def parsed(folder: Path, rows_max: int) -> Config:
    """The config of the run through replay."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return parse_config(kept.config_table(folder, rows_max), "the benchmark")

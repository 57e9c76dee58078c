"""Load and abuse: what a night of clients does to a joiner, a learner and a server, and what is left of it.

    python tests/chaos/load.py --seconds 1800 --rate 60 --out build/load

Callers score, give feedback and send events; others send what is malformed, too large or no HTTP at all,
leave in the middle, or dawdle; and now and then the learner is killed. Meanwhile the memory of every
process is sampled. At the end: no answer of 500 or above but 503 with `Retry-After`; every process's
memory flat after warm-up; and the books: each impression that was accepted is one example, with the
labels that were accepted, and the learner has learnt each once. Memory goes to memory.json and, as a
plot, to memory.html.
"""

import argparse
import asyncio
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from load_callers import Books, Callers

from freshet.config import load_config
from freshet.roles.opening import open_topics
from freshet.show.report import Chart, Line, ReportPage, write_html
from freshet.warmup import warm_up
from learner.role.learner import Learner
from stream.log.base import EVENTS, EXAMPLES, Log, Outgoing, partition_of
from stream.records.types import Impression, encode
from stream.state.role_state import RoleState

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import starting
from copies import Copy

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("join", "learn", "serve")
WINDOW_S = 5.0
SAMPLE_S = 1.0
WARM_SHARE = 0.4  # of the run
GROWTH_MAX = 0.03
GROWTH_MAX_SHORT = 0.1  # of a run under SHORT_S: it ends before what is loaded and filled once has settled
SHORT_S = 100.0
KILLS = (0.02, 0.08, 0.15, 0.25)
"""Of the learner, as shares of the run: early, so that its last life is long enough to be judged."""
SAMPLES_MIN = 12
"""Of one life of each process, of which half is warm-up: a slow machine is called until there are so many."""
START_S_MAX = 120.0
QUIET_S_MAX = 60.0
LOOK_S = 0.1
STOP_S_MAX = 120.0  # on a machine that stands still for a minute, as one that others measure on does
CONFIG = f"""
log = "sqlite:log.db"
state = "state"
[stream]
partitions = 2
[stream.log]
sync = false
[group]
beat_s = 0.25
timeout_s = 2.0
snapshot_every_s = 10.0
[join]
window_s = {WINDOW_S}
[features.user]
dim = 4
[features.item]
dim = 4
[learner]
window = 1000
snapshot_bytes_min = 1000000
[server]
port = 0
window = 1000
read_timeout_s = 2.0
keep_alive_s = 5.0
header_bytes_max = 8192
idempotency_max = 200
"""


class Process:
    """One role, started again when it was killed; its memory by seconds since the run began."""

    def __init__(self, role: str, folder: Path, began: float) -> None:
        self.role = role
        self.folder = folder
        self.began = began
        self.lives: list[list[tuple[float, float]]] = []  # of each life (seconds, MiB)
        self.kills = 0
        self.process = self._start()

    def _start(self) -> Copy:
        self.lives.append([])
        with (
            (self.folder / f"{self.role}.out").open("wb") as out,
            (self.folder / f"{self.role}.log").open("ab") as log,
        ):
            return starting.start(
                self.role, "--config", "freshet.toml", cwd=self.folder, stdout=out, stderr=log
            )

    @property
    def said(self) -> str:
        """What it said on stdout in this life."""
        return (self.folder / f"{self.role}.out").read_text()

    def sample(self) -> None:
        """Note its memory, if it is at work."""
        if self.process.poll() is not None:
            raise AssertionError(f"{self.role} has ended: {self.last_words()}")
        if ": ready" not in self.said:
            return
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        if found is not None:
            self.lives[-1].append((time.monotonic() - self.began, int(found[1]) / 1024.0))

    def kill(self) -> None:
        """SIGKILL, and begin anew."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.kills += 1
        self.process = self._start()

    def stop(self) -> None:
        """Ask it to end."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(STOP_S_MAX)
        assert status == 0, f"{self.role} ended with {status}: {self.last_words()}"

    def last_words(self) -> str:
        """The end of its log."""
        return (self.folder / f"{self.role}.log").read_text(errors="replace")[-2000:]


class Grown(NamedTuple):
    """How the memory of one life moved after warm-up."""

    role: str
    seconds: float
    mean_mib: float
    growth: float  # as a share of the mean, over all of these seconds, by a straight line through them


def grown(processes: list[Process], warm_s: float) -> list[Grown]:
    """Each process's growth over its longest life, less that life's own warm-up of up to `warm_s`."""
    found = []
    for one in processes:
        whole = max(one.lives, key=len)
        warm = min(warm_s, 0.5 * (whole[-1][0] - whole[0][0])) if whole else 0.0
        life = [(t, m) for t, m in whole if t >= whole[0][0] + warm]
        if len(life) < 5:
            continue
        t, mib = np.array(life).T
        slope = np.polyfit(t - t[0], mib, 1)[0]
        span = float(t[-1] - t[0])
        found.append(
            Grown(one.role, round(span, 1), round(float(mib.mean()), 1), float(slope * span / mib.mean()))
        )
    return found


def load(seconds: float, rate: float, folder: Path, out: Path, seed: int) -> dict[str, Any]:
    """One run; returns what is to be told.

    Raises:
        AssertionError: a process has ended by itself, or something waited for does not come.
    """
    out.mkdir(parents=True, exist_ok=True)
    (folder / "freshet.toml").write_text(CONFIG)
    config = load_config(folder / "freshet.toml")
    log = open_topics(config)
    began = time.monotonic()
    processes = [Process(role, folder, began) for role in ROLES]
    try:
        until(lambda: all(": ready" in one.said for one in processes), START_S_MAX, "the roles to start")
        found = re.search(r"serve: ready (\S+)", processes[2].said)
        assert found is not None
        callers = Callers(found[1], seed)
        asyncio.run(play(callers, processes, seconds, rate))
        time.sleep(WINDOW_S + 1.5)
        close(log, callers.books)
        try:
            until(lambda: behind(log) == 0, QUIET_S_MAX, "the roles to consume everything")
        except AssertionError as error:
            said = "\n".join(f"{one.role}: {one.last_words()}" for one in processes)
            raise AssertionError(f"{error}; {behind(log)} records wait\n{said}") from None
        for one in processes:
            one.sample()
            one.stop()
        fingerprint = Learner.fingerprint(config.features, config.learner)
        with RoleState(config.state_of("learn"), "learner", fingerprint) as state:
            books = callers.books.balance(log, Learner(config.features, config.learner, state))
    finally:
        (out / "samples.json").write_text(json.dumps({one.role: one.lives for one in processes}))
        for one in processes:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()
        log.close()
    growth = grown(processes, WARM_SHARE * seconds)
    result = {
        "seconds": seconds,
        "statuses": {str(k): n for k, n in sorted(callers.statuses.items())},
        "deeds": dict(callers.deeds),
        "impressions": len(callers.books.impressions),
        "clicks": sum(map(len, callers.books.clicks.values())),
        "unsure": len(callers.books.unsure),
        "learner_kills": processes[1].kills,
        "bad_answers": callers.bad[:20],
        "books": books,
        "memory": [one._asdict() for one in growth],
    }
    write(out, processes, result)
    return result


async def play(callers: Callers, processes: list[Process], seconds: float, rate: float) -> None:
    """Call, watch memory, and kill the learner now and then."""
    began = time.monotonic()
    kills = [began + share * seconds for share in KILLS if share * seconds >= 5.0]

    def judged() -> bool:
        return not kills and all(max(map(len, one.lives)) >= SAMPLES_MIN for one in processes)

    calling = asyncio.create_task(callers.run(seconds, rate, judged))
    while not calling.done():
        for one in processes:
            one.sample()
        if kills and time.monotonic() >= kills[0]:
            del kills[0]
            await asyncio.to_thread(processes[1].kill)
        await asyncio.sleep(SAMPLE_S)
    await calling


def close(log: Log, books: Books) -> None:
    """One labelled impression for each partition, whose time closes all windows."""
    partitions = log.partitions(EVENTS)
    records = []
    for partition in range(partitions):
        name = next(f"end{i}" for i in range(1000) if partition_of(b"end%d" % i, partitions) == partition)
        end = Impression(name, time.time(), [{"item": 0}], labels=[1.0])
        books.impressions[name], books.labels[name] = 1, [1.0]
        records.append(Outgoing(name.encode(), encode(end)))
    log.append(EVENTS, records)


def behind(log: Log) -> int:
    """Records that joiner or learner have not consumed."""
    waiting = 0
    for group, topic in (("join", EVENTS), ("learn", EXAMPLES)):
        done = log.committed(group, topic)
        waiting += sum(end - done.get(p, 0) for p, (_, end) in enumerate(log.ends(topic)))
    return waiting


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something. Looks are counted, not the clock: a machine that stands still ends no wait."""
    for _ in range(int(seconds / LOOK_S)):
        if condition():
            return
        time.sleep(LOOK_S)
    raise AssertionError(f"waited {seconds:g} s for {what}")


def write(out: Path, processes: list[Process], result: dict[str, Any]) -> None:
    """The samples as JSON, and as a plot."""
    out.mkdir(parents=True, exist_ok=True)
    lives = {one.role: one.lives for one in processes}
    (out / "memory.json").write_text(json.dumps({**result, "samples_s_mib": lives}))
    arms = {"join": "live", "learn": "frozen_memory", "serve": "live_memory"}
    lines = []
    for one in processes:
        x = [point for life in one.lives for point in [*(t for t, _ in life), float("nan")]]
        y = [point for life in one.lives for point in [*(m for _, m in life), float("nan")]]
        keep = [i for i, t in enumerate(x) if i + 1 < len(x) and t == t]
        lines.append(Line(one.role, [x[i] for i in keep], [y[i] for i in keep], arm=arms[one.role]))  # type: ignore[arg-type]
    note = "; ".join(
        f"{one['role']} {one['growth']:+.2%} over {one['seconds']:,.0f} s at {one['mean_mib']:,.0f} MiB"
        for one in result["memory"]
    )
    chart = Chart("Resident memory, MiB", lines, note=note, x_title="seconds", y_title="MiB")
    lead = f"{sum(result['statuses'].values()):,} answers in {result['seconds']:,.0f} s"
    write_html(ReportPage(title="Load and abuse", lead=lead, charts=[chart]), out / "memory.html")


def failures(result: dict[str, Any]) -> list[str]:
    """What of a result must not be."""
    wrong = [*result["bad_answers"]]
    limit = GROWTH_MAX if result["seconds"] >= SHORT_S else GROWTH_MAX_SHORT
    wrong += [f"{name}: {n}" for name, n in result["books"].items() if n]
    wrong += [
        f"the memory of {one['role']} grew by {one['growth']:.1%} in {one['seconds']:g} s after warm-up"
        for one in result["memory"]
        if one["growth"] > limit
    ]
    if {one["role"] for one in result["memory"]} != set(ROLES):
        wrong.append("not every process's memory could be judged")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second (60)")
    parser.add_argument("--out", type=Path, default=Path("build/load"), help="where memory.json and .html go")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warm_up()
    with tempfile.TemporaryDirectory(prefix="freshet-load-") as folder:
        result = load(arguments.seconds, arguments.rate, Path(folder), arguments.out, arguments.seed)
    wrong = failures(result)
    said = "; ".join(wrong) or "nothing lost, nothing leaked, no error that is not documented"
    print(f"load: {said}")
    print(json.dumps(result))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

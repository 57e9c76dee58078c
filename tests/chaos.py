"""Kill Freshet's roles again and again while a stream runs through them, then balance the books.

    python tests/chaos.py --seed 1 --kills 20 --log sqlite

Roles run as real processes and die of SIGKILL: at a moment drawn from the seed, or at a named point
inside a commit, a publish or a move (`chaos_role.py`). What happens to whom, and after how many events,
is drawn from the seed too, so a seed that fails plays the same schedule again. At the end everything
is stopped, and `ledger.py` compares what the ids of the stream say with what was learnt: one line for
people, one JSON object for programs, exit status 1 if the ledger does not balance.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from chaos_role import POINTS
from ledger import WINDOW_S, Ledger

from freshet.config import Config, load_config
from freshet.roles import open_topics
from learner.follower import Follower
from learner.learner import Learner
from learner.model import Model
from stream.errors import LogError
from stream.log import EVENTS, EXAMPLES, Log
from stream.state import RoleState

ROOT = Path(__file__).resolve().parents[1]
PARTITIONS = 4
REQUESTS_PER_TURN = 25
EVENTS_PER_S = 1500.0
AHEAD_MAX = 3000
"""Events that may wait for the roles: so they are always at work, and never far behind."""
POINT_S_MAX = 20.0
QUIET_S_MAX = 120.0
STOP_S_MAX = 10.0
CONFIG = f"""
log = "LOG"
state = "state"
[stream]
partitions = {PARTITIONS}
[stream.runner]
read_max = 40
commit_every_s = 0.02
[stream.log]
sync = false
[join]
window_s = {WINDOW_S}
late = "learn"
pending_max_memory = 40
dead_letter_window = 400
[features.user]
dim = 2
[features.item]
dim = 2
[features.once]
dim = 2
pairs = false
[learner]
publish_every_s = 0.05
deep = "none"
snapshot_bytes_min = 200000
[server]
port = 0
"""


class Death(NamedTuple):
    """How a process dies: at a point of its own, or `after` so many events and `delay_s`."""

    point: str
    count: int
    after: int
    delay_s: float


class Role:
    """One process of Freshet, started again whenever it has died, each time with its next death."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path, deaths: list[Death]) -> None:
        self.name = name
        self.killed = Counter[str]()
        self.stopped_itself = 0
        self.missed = 0
        self.more: list[str] = []  # arguments of later starts
        self._arguments = [*arguments]
        self._folder = folder
        self._deaths = deaths
        self._next: Death | None = None
        self._said: IO[bytes]
        self._ready_at_s: float | None = None
        self._ready_events = 0
        self._kill_at_s: float | None = None
        self.process = self._start()

    @property
    def done(self) -> bool:
        """Whether it has died all its deaths and is at work again."""
        return not self._deaths and self._next is None and self.ready

    @property
    def ready(self) -> bool:
        return self._ready_at_s is not None and self.process.poll() is None

    def turn(self, events: int) -> None:
        """Look after it; `events` is how many have been sent."""
        now = time.monotonic()
        status = self.process.poll()
        if status is not None:
            self._note_end(status)
            self.process = self._start()
            return
        if self._ready_at_s is None:
            if b": ready" in (self._folder / f"{self.name}.out").read_bytes():
                self._ready_at_s, self._ready_events = now, events
            return
        death = self._next
        if death is None:
            return
        if self._kill_at_s is not None:
            if now >= self._kill_at_s:
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
        elif events - self._ready_events >= death.after and death.point == "time":
            self._kill_at_s = now + death.delay_s
        elif death.point != "time" and now - self._ready_at_s > POINT_S_MAX:
            self.missed += 1  # it never came to its point; it dies all the same
            print(f"{self.name} missed {death}", file=sys.stderr)
            self._kill_at_s = now

    def stop(self) -> float:
        """Ask it to end; how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(STOP_S_MAX)
        if status != 0:
            raise AssertionError(f"{self.name} ended with {status} on SIGTERM: {self.last_words()}")
        return time.monotonic() - began

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        return (self._folder / f"{self.name}.log").read_text(errors="replace")[-1500:]

    def _note_end(self, status: int) -> None:
        if status == -signal.SIGKILL:
            death = self._next
            self.killed["time" if death is None or self._kill_at_s is not None else death.point] += 1
        elif status == 2 and "dead_letter_share_max" in self.last_words():
            self.stopped_itself += 1
            if self._next is not None:
                self._deaths.insert(0, self._next)
            self.more = ["--set", "join.dead_letter_share_max=1.0"]  # what its message says to do
        else:
            raise AssertionError(f"{self.name} ended with {status}: {self.last_words()}")

    def _start(self) -> subprocess.Popen[bytes]:
        self._next = self._deaths.pop(0) if self._deaths else None
        self._ready_at_s = self._kill_at_s = None
        point, count = ("none", 0) if self._next is None or self._next.point == "time" else self._next[:2]
        command = [sys.executable, str(ROOT / "tests" / "chaos_role.py"), point, str(count)]
        command += [
            *self._arguments,
            "--config",
            "freshet.toml",
            "--with-parent",
            str(os.getpid()),
            *self.more,
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (
            (self._folder / f"{self.name}.out").open("wb") as out,
            (self._folder / f"{self.name}.log").open("ab") as log,
        ):
            return subprocess.Popen(
                command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=environment,
                start_new_session=True,
            )  # fmt: skip


class Chaos:
    """One run: the stream, the roles, and what happens to them."""

    def __init__(self, seed: int, kills: int, kind: str, folder: Path) -> None:
        rng = random.Random(seed)
        self.folder = folder
        self.kind = kind
        self.faults = Counter[str]()
        (folder / "freshet.toml").write_text(CONFIG.replace("LOG", "sqlite:log.db"))
        self.config: Config = load_config(folder / "freshet.toml")
        self.log: Log = open_topics(self.config)
        self.ledger = Ledger(seed)
        self.sent = 0
        self._began_s = time.monotonic()
        names = rng.choices(("join", "learn", "serve"), weights=(45, 45, 10), k=kills)
        self.deaths = {name: [self._death(rng, name) for _ in range(names.count(name))] for name in
                       ("join", "learn", "serve")}  # fmt: skip
        # the stream's own troubles, by how many events have been sent
        last = 2_000 + 500 * kills
        self.troubles: list[tuple[int, str, float]] = sorted(
            (rng.randrange(1_000, last), what, rng.uniform(0.3, 3.0))
            for what in ("flood", "lock", "lock", "pause", "pause")
        )
        self.schedule = {
            "deaths": {name: [tuple(death) for death in deaths] for name, deaths in self.deaths.items()},
            "troubles": list(self.troubles),
        }
        self._rng = rng
        self.roles: list[Role] = []

    def run(self) -> dict[str, Any]:
        """Everything, from the first event to the balance."""
        try:
            self.roles = [
                Role(name, [name], self.folder, list(deaths)) for name, deaths in self.deaths.items()
            ]
            self._until(lambda: all(role.ready or role.killed for role in self.roles), "the roles to start")
            while self.troubles or not all(role.done for role in self.roles):
                self._send()
                self._trouble()
                self._turn()
            self._append(self.ledger.close(PARTITIONS))
            self._until(self._all_consumed, "the roles to consume everything")
            stops = [role.stop() for role in self.roles]
            return self._result(max(stops))
        finally:
            for role in self.roles:
                role.kill()
            self.log.close()

    def _death(self, rng: random.Random, name: str) -> Death:
        point = rng.choice(list(POINTS)) if name != "serve" and rng.random() < 0.6 else "time"
        return Death(point, rng.randrange(1, 25), rng.randrange(0, 800), rng.uniform(0.0, 0.3))

    def _send(self) -> None:
        if self._waiting() < AHEAD_MAX and self.sent < EVENTS_PER_S * (time.monotonic() - self._began_s):
            self._append(self.ledger.take(REQUESTS_PER_TURN))

    def _append(self, records: Sequence[Any]) -> None:
        if records:
            self.log.append(EVENTS, records)
            self.sent += len(records)

    def _waiting(self) -> int:
        """Records on their way through the joiner and the learner."""
        return self._behind("join", EVENTS) + self._behind("learn", EXAMPLES)

    def _behind(self, group: str, topic: str) -> int:
        committed = self.log.committed(group, topic)
        return sum(end - committed.get(p, 0) for p, (_, end) in enumerate(self.log.ends(topic)))

    def _all_consumed(self) -> bool:
        return self._waiting() == 0

    def _trouble(self) -> None:
        if not self.troubles or self.sent < self.troubles[0][0]:
            return
        _, what, seconds = self.troubles.pop(0)
        self.faults[what] += 1
        if what == "flood":
            self._append(self.ledger.flood(1500))
        elif what == "lock":
            threading.Thread(target=self._lock, args=(seconds,)).start()
        elif what == "pause":
            role = self._rng.choice(self.roles)
            process = role.process
            if process.poll() is None:
                process.send_signal(signal.SIGSTOP)
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    self._turn()
                process.send_signal(signal.SIGCONT)

    def _lock(self, seconds: float) -> None:
        """What stopping a broker is for an embedded log: nobody else can write."""
        db = sqlite3.connect(self.folder / "log.db", isolation_level=None, timeout=30.0)
        db.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        db.execute("ROLLBACK")
        db.close()

    def _turn(self) -> None:
        for role in self.roles:
            role.turn(self.sent)
        time.sleep(0.005)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + QUIET_S_MAX
        while not condition():
            if time.monotonic() > deadline:
                words = "\n".join(f"{role.name}: {role.last_words()}" for role in self.roles)
                raise AssertionError(f"waited {QUIET_S_MAX:g} s for {what}\n{words}")
            self._turn()

    def _result(self, stop_s: float) -> dict[str, Any]:
        killed = sum((role.killed for role in self.roles), Counter[str]())
        fingerprint = Learner.fingerprint(self.config.features, self.config.learner)
        with RoleState(self.config.state_of("learn"), "learner", fingerprint) as state:
            learner = Learner(self.config.features, self.config.learner, state)
            assert state.unsent() == [], "a learner that was stopped has sent everything"
            replica_off = self._compare_replica(learner)
            books = {**self.ledger.balance(self.log, learner), **replica_off}
            learnt, requests = learner.meta.examples, learner.meta.requests
        return {
            "kills": killed.total(),
            "balanced": not any(books.values()),
            "books": books,
            "killed_at": dict(sorted(killed.items())),
            "missed_points": sum(role.missed for role in self.roles),
            "faults": dict(self.faults),
            "stopped_by_dead_letters": sum(role.stopped_itself for role in self.roles),
            "events": self.sent,
            "sent": dict(self.ledger.sent),
            "requests_learnt": requests,
            "rows_learnt": learnt,
            "slowest_stop_s": round(stop_s, 2),
            "seconds": round(time.monotonic() - self._began_s, 1),
        }

    def _compare_replica(self, learner: Learner) -> dict[str, int]:
        """Rows and arrays in which one who follows the updates differs from the learner."""
        follower = Follower(Model(self.config.features, self.config.learner))
        follower.start(self.log)
        while follower.poll(self.log):
            pass
        wrong = 0
        for mine, theirs in zip(follower.model.tables, learner.model.tables, strict=True):
            keys, _ = theirs.items()
            expected, _ = theirs.export_serving(keys)
            found, there = mine.export(keys)
            same = (found == expected).all(axis=1) & there
            wrong += int((~same).sum()) + abs(len(mine) - len(theirs))
        for name, array in learner.model.arrays().items():
            wrong += int((follower.model.arrays()[name] != array).sum())
        return {"replica_rows_off": wrong, "replica_gaps": follower.gaps}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--log", choices=("sqlite", "kafka"), default="sqlite")
    parser.add_argument("--json", type=Path, help="where the result goes too")
    parser.add_argument("--keep", type=Path, help="keep log, states and what the roles said there")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="freshet-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    chaos = Chaos(arguments.seed, arguments.kills, arguments.log, folder)
    try:
        result = {"seed": arguments.seed, "log": arguments.log, **chaos.run(), "schedule": chaos.schedule}
    except (AssertionError, LogError) as error:
        print(f"chaos: seed {arguments.seed}: {error}\nkept: {folder}", file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.write_text(json.dumps(result))
    print(
        f"chaos: {arguments.log}, seed {arguments.seed}: {result['kills']} kills, "
        f"{result['events']:,} events, {result['requests_learnt']:,} requests learnt "
        f"in {result['seconds']:.0f} s: ledger {'balances' if result['balanced'] else 'DOES NOT BALANCE'}"
    )
    print(json.dumps({key: value for key, value in result.items() if key != "schedule"}))
    if result["balanced"] and not arguments.keep:
        shutil.rmtree(folder)
    return 0 if result["balanced"] else 1


if __name__ == "__main__":
    sys.exit(main())

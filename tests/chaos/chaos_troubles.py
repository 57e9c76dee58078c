"""What befalls the log and those who lead, after so many events as the seed says."""

import random
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
from chaos_processes import Role

from freshet.config import Config
from stream.errors import LogAwayError
from stream.group.signs import Beat, Claim
from stream.log.base import ROLES, Log

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy" / "kafka"))

FLOOD = "flood of dead letters"
LEADER = "leader paused until another leads"
LOCK_S = 6.0  # three times as long as a member of a group may be silent
TAKE_OVER_S_MAX = 120.0  # seconds on a busy machine; it ends a run in which nobody ever does
AGAIN_EVENTS = 300  # later, a trouble that had no effect happens again


class Trouble(NamedTuple):
    """One trouble: after how many events, which, and for how long."""

    events: int
    what: str
    seconds: float


class Troubles:
    """The troubles of one run. A subclass knows its log."""

    url = ""
    own: tuple[tuple[str, float], ...] = ()
    """Troubles of this log: (which, seconds); 0: drawn."""

    def __init__(self, folder: Path, rng: random.Random, last: int, leaders: bool = True) -> None:
        self.folder = folder
        self.happened = Counter[str]()
        self.slowest_take_over_s = 0.0
        pauses = max(last // 8_000, 2)
        what = [(FLOOD, 0.0), *((LEADER, 0.0),) * pauses * leaders, *(("role paused", 0.0),) * pauses]
        self.coming = sorted(
            Trouble(rng.randrange(1_000, last), name, seconds or rng.uniform(0.3, 3.0))
            for name, seconds in [*what, *self.own]
        )
        self._rng = rng
        self._roles: list[Role] = []
        self._began_s = time.monotonic()

    def start(self) -> None:
        """Start the log, where it is a process."""

    def stop(self) -> None:
        """Stop the log, where it is a process."""

    def begin(self, roles: list[Role], config: Config) -> None:
        """Trouble may come from now on."""
        self._roles = roles
        self._began_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began_s

    def wait(self, seconds: float) -> None:
        """Do nothing for a moment."""
        time.sleep(seconds)

    def happen(self, log: Log, events: int, turn: Callable[[], None]) -> str:
        """Let the next trouble happen if it is its time; "flood": the caller has to make one."""
        if not self.coming or events < self.coming[0].events:
            return ""
        trouble = self.coming.pop(0)
        self.happened[trouble.what] += 1
        if trouble.what == FLOOD:
            return "flood"
        if trouble.what == LEADER:
            if not self._pause_leader(log, turn):  # a kill came first: once more, a little later
                self.coming = sorted([*self.coming, trouble._replace(events=events + AGAIN_EVENTS)])
        elif trouble.what == "role paused":
            self._pause(self._rng.choice(self._roles), lambda held: held > trouble.seconds, turn)
        else:
            self.befall(trouble, turn)
        return ""

    def befall(self, trouble: Trouble, turn: Callable[[], None]) -> None:
        """One of this log's own troubles."""
        raise NotImplementedError

    def _pause_leader(self, log: Log, turn: Callable[[], None]) -> bool:
        """Until another leads, which it finds out when it wakes up; False if none had to."""
        try:
            name, term = leader(log)
        except LogAwayError:
            return False
        role = next(role for role in self._roles if role.name == f"learn-{name}")
        took_over_s: list[float] = []

        def another(held: float) -> bool:
            assert held < TAKE_OVER_S_MAX, "nobody has taken over"
            found = leader(log)
            if found[1] > term and found[0] != name:
                took_over_s.append(held)
            return found[1] > term  # or it was killed before the pause began, and has come back

        self._pause(role, another, turn)
        self.slowest_take_over_s = round(max([self.slowest_take_over_s, *took_over_s]), 2)
        return bool(took_over_s)

    def _pause(self, role: Role, over: Callable[[float], bool], turn: Callable[[], None]) -> None:
        process = role.process
        if process.poll() is not None:
            return
        resume = role.pause()
        began = time.monotonic()
        while role.process is process and process.poll() is None and not over(time.monotonic() - began):
            turn()
        resume()


class SqliteTroubles(Troubles):
    """The embedded log: another process holds its file for a while."""

    url = "sqlite:log.db"
    own = (("log locked", 0.0), ("log locked", 0.0), ("log locked", LOCK_S))

    def befall(self, trouble: Trouble, turn: Callable[[], None]) -> None:
        threading.Thread(target=self._lock, args=(trouble.seconds,)).start()

    def _lock(self, seconds: float) -> None:
        db = sqlite3.connect(self.folder / "log.db", isolation_level=None, timeout=30.0)
        db.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        db.execute("ROLLBACK")
        db.close()


class BrokerTroubles(Troubles):
    """A Kafka broker of the run's own, which is stopped, killed and paused."""

    own = (("broker stopped", 20.0), ("broker killed", 0.0), ("broker paused", 0.0), ("broker paused", 8.0))

    def start(self) -> None:
        from broker import Broker

        self._broker = Broker(self.folder / "kafka")
        self._broker.start()
        self.url = f"kafka://{self._broker.address}"

    def stop(self) -> None:
        self._broker.stop()

    def befall(self, trouble: Trouble, turn: Callable[[], None]) -> None:
        until = time.monotonic() + trouble.seconds
        if trouble.what == "broker paused":
            self._broker.pause()
        elif trouble.what == "broker killed":
            self._broker.kill()
        else:
            self._broker.stop()
        while time.monotonic() < until:
            turn()
        if trouble.what == "broker paused":
            self._broker.resume()
        else:
            self._broker.start()


def leader(log: Log) -> tuple[str, int]:
    """Name and term of the newest claim among learners."""
    decoder: msgspec.msgpack.Decoder[Beat | Claim] = msgspec.msgpack.Decoder(Beat | Claim)
    first, end = log.ends(ROLES)[0]
    found = "", -1
    while first < end:
        for record in log.read(ROLES, 0, first, wait_s=1.0):
            first = record.offset + 1
            said = decoder.decode(record.value)
            if isinstance(said, Claim) and said.group == "learn":
                found = said.name, record.offset
    return found

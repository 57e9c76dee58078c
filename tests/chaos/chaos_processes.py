"""Freshet's roles as processes that die as planned, and are started again whenever they have died."""

import json
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import starting
from copies import Copy

ROOT = Path(__file__).resolve().parents[2]
AHEAD_MAX = 1000
"""Events that may wait for the roles: so they are always at work, and never far behind."""
POINT_EVENTS_MAX = 2500
"""Events after which a role that has not come to its point is killed all the same. It is no time, so that the
same happens on a slow machine: of these events 1,500 have then been consumed, in some forty commits."""
ANSWER_S_MAX = 60.0
STOP_S_MAX = 60.0


class Death(NamedTuple):
    """How a process dies: the `count`-th time it comes to a point, or `after` so many events."""

    point: str
    count: int
    after: int
    delay_s: float
    wipe: bool  # it comes back without its state
    shard: int = -1  # of a learner in shards, which dies; -1: the process itself


class Role:
    """One process of Freshet, started again whenever it has died, each time with its next death."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path, deaths: list[Death]) -> None:
        self.name = name
        self.killed = Counter[str]()
        self.stopped_itself = self.missed = self.wiped = 0
        self._more: list[str] = []  # arguments of later starts
        self._arguments = [*arguments]
        self._folder = folder
        self._deaths = deaths
        self._next: Death | None = None
        self._events = 0
        self._ready_events: int | None = None
        self._kill_at_s: float | None = None
        self.process = self._start()

    @property
    def done(self) -> bool:
        """Whether it has died all its deaths and is at work again."""
        return not self._deaths and self._next is None and self.ready

    @property
    def ready(self) -> bool:
        """Whether it is at work."""
        return self._ready_events is not None and self.process.poll() is None

    def turn(self, events: int) -> None:
        """Look after it; `events` is how many have been sent."""
        self._events = events
        now = time.monotonic()
        status = self.process.poll()
        if status is not None:
            self._note_end(status)
            self.process = self._start()
            return
        if self._ready_events is None:
            if ": ready" in self._output():
                self._ready_events = events
            return
        death = self._next
        if death is None:
            return
        if self._kill_at_s is not None:
            if now >= self._kill_at_s:
                self._strike()
        elif death.point == "time" and events - self._ready_events >= death.after:
            self._kill_at_s = now + death.delay_s
        elif death.point != "time" and events - self._ready_events >= POINT_EVENTS_MAX:
            self.missed += 1  # it never came to its point; it dies all the same
            self._kill_at_s = now

    def examples_learnt(self) -> int:
        """What a server says that its model has learnt."""
        url = re.search(r"serve: ready (\S+)", self._output())
        assert url is not None
        with urlopen(f"{url[1]}/v1/model", timeout=ANSWER_S_MAX) as answer:
            return int(json.load(answer)["examples_learnt"])

    def pause(self) -> Callable[[], None]:
        """Stop it where it is; returns what lets it go on."""
        process = self.process
        process.send_signal(signal.SIGSTOP)
        return lambda: process.send_signal(signal.SIGCONT)

    def stop(self) -> float:
        """Ask it to end; how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(STOP_S_MAX)
        if status != 0:
            raise AssertionError(f"{self.name} ended with {status} on SIGTERM: {self.last_words()}")
        return time.monotonic() - began

    def kill(self) -> None:
        """End it, however."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        """The end of what it said on stderr."""
        return (self._folder / f"{self.name}.log").read_text(errors="replace")[-3000:]

    def _strike(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _output(self) -> str:
        return (self._folder / f"{self.name}.out").read_text(errors="replace")

    def _note_end(self, status: int) -> None:
        death = self._next
        if status == -signal.SIGKILL:
            self.killed["time" if death is None or self._kill_at_s is not None else death.point] += 1
            if death is not None and death.wipe and self.name != "serve":
                self.wiped += 1
                shutil.rmtree(self._folder / "state" / self.name)
        elif status == 2 and "dead_letter_share_max" in self.last_words():
            self.stopped_itself += 1
            if death is not None:
                self._deaths.insert(0, death)
            self._more = ["--set", "join.dead_letter_share_max=1.0"]  # what its message says to do
        else:
            raise AssertionError(f"{self.name} ended with {status}: {self.last_words()}")

    def _start(self) -> Copy:
        self._next = self._deaths.pop(0) if self._deaths else None
        self._ready_events = self._kill_at_s = None
        point, count = self._program()
        return self._run(point, count, [*self._arguments, *self._more], self.name)

    def _run(self, point: str, count: int, arguments: Sequence[str], name: str) -> Copy:
        """Start a command of Freshet that dies at a point."""
        script = str(Path(__file__).with_name("chaos_role.py"))
        command = [point, str(count), *arguments, "--config", "freshet.toml"]
        out, log = self._folder / f"{name}.out", self._folder / f"{self.name}.log"
        with out.open("wb") as output, log.open("ab") as told:
            return starting.start(*command, program=script, cwd=self._folder, stdout=output, stderr=told)

    def _program(self) -> tuple[str, int]:
        """At which point it dies by itself, and at which time that it comes there."""
        death = self._next
        return ("none", 0) if death is None or death.point == "time" else (death.point, death.count)

"""Freshet's roles as processes that die as planned, and are started again whenever they have died."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[2]
POINT_S_MAX = 12.0
STOP_S_MAX = 10.0


class Death(NamedTuple):
    """How a process dies: the `count`-th time it comes to a point, or `after` so many events."""

    point: str
    count: int
    after: int
    delay_s: float
    wipe: bool  # it comes back without its state


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
        """Whether it is at work."""
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
            if ": ready" in self._output():
                self._ready_at_s, self._ready_events = now, events
            return
        death = self._next
        if death is None:
            return
        if self._kill_at_s is not None:
            if now >= self._kill_at_s:
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
        elif death.point == "time" and events - self._ready_events >= death.after:
            self._kill_at_s = now + death.delay_s
        elif death.point != "time" and now - self._ready_at_s > POINT_S_MAX:
            self.missed += 1  # it never came to its point; it dies all the same
            self._kill_at_s = now

    def examples_learnt(self) -> int:
        """What a server says that its model has learnt."""
        url = re.search(r"serve: ready (\S+)", self._output())
        assert url is not None
        with urlopen(f"{url[1]}/v1/model", timeout=5.0) as answer:
            return int(json.load(answer)["examples_learnt"])

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

    def _start(self) -> subprocess.Popen[bytes]:
        self._next = self._deaths.pop(0) if self._deaths else None
        self._ready_at_s = self._kill_at_s = None
        point, count = ("none", 0) if self._next is None or self._next.point == "time" else self._next[:2]
        command = [sys.executable, str(ROOT / "tests" / "chaos" / "chaos_role.py"), point, str(count)]
        command += [*self._arguments, "--config", "freshet.toml", "--with-parent", str(os.getpid())]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        out, log = self._folder / f"{self.name}.out", self._folder / f"{self.name}.log"
        with out.open("wb") as output, log.open("ab") as told:
            return subprocess.Popen(
                [*command, *self._more],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=told,
                env=environment,
                start_new_session=True,
            )

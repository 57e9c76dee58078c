"""Time, waiting and randomness as one object that is passed in: the machine's, a test's, or a seeded one.

Code that needs the time, waits, or draws a random number calls the `Clock` that it was given, and never the
modules `time`, `random` and `uuid`. With a seeded clock, the same seed gives the same run.

No decision about records depends on a clock: event time comes from the records alone.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """A source of time, waiting and random numbers. All methods may be called from several threads."""

    def now_s(self) -> float:
        """Seconds since some moment; never step back. For durations and deadlines."""

    def unix_s(self) -> float:
        """Wall-clock time, Unix seconds; may jump. For times that people and other machines read."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until an event is set, at most so long; returns whether it is set."""

    def wait_on(self, condition: threading.Condition, seconds: float) -> bool:
        """Wait, with a condition's lock held, until it is notified, at most so long; whether it was."""

    def thread(self, work: Callable[[], None], name: str, daemon: bool) -> threading.Thread:
        """A thread that waits by this clock, not started yet."""

    def draw(self) -> float:
        """A random number in [0, 1)."""

    def token(self) -> str:
        """32 hexadecimal digits, unique to this call: for names that must be unique."""


class SystemClock:
    """The machine's own clock and randomness.

    >>> SYSTEM_CLOCK.now_s() <= SYSTEM_CLOCK.now_s()
    True
    """

    def __repr__(self) -> str:
        return "SYSTEM_CLOCK"

    def now_s(self) -> float:
        return time.monotonic()

    def unix_s(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)

    def wait_on(self, condition: threading.Condition, seconds: float) -> bool:
        return condition.wait(seconds)

    def thread(self, work: Callable[[], None], name: str, daemon: bool) -> threading.Thread:
        return threading.Thread(target=work, name=name, daemon=daemon)

    def draw(self) -> float:
        return _random.random()

    def token(self) -> str:
        return f"{_random.getrandbits(128):032x}"


_random = random.SystemRandom()  # the operating system's: forked processes must not draw the same numbers
SYSTEM_CLOCK = SystemClock()


class ManualClock:
    """A clock for tests: it stands still until a caller waits on it, then jumps; random numbers are seeded.

    >>> clock = ManualClock(seed=1, start_s=100.0)
    >>> clock.sleep(2.5)
    >>> clock.now_s(), clock.slept
    (102.5, [2.5])
    """

    def __init__(self, seed: int = 0, start_s: float = 1_000.0) -> None:
        """A clock that shows `start_s`, as time since some moment and as Unix seconds."""
        self._now_s = start_s
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.slept: list[float] = []  # how long each `sleep` and each `wait` for an event not set was to be

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self._now_s += seconds

    def now_s(self) -> float:
        return self._now_s

    def unix_s(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(max(seconds, 0.0))

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if not event.is_set():
            self.sleep(seconds)
        return event.is_set()

    def wait_on(self, condition: threading.Condition, seconds: float) -> bool:
        if condition.wait(0.001):  # other threads run on the machine's time
            return True
        self.sleep(seconds)
        return False

    def thread(self, work: Callable[[], None], name: str, daemon: bool) -> threading.Thread:
        return threading.Thread(target=work, name=name, daemon=daemon)

    def draw(self) -> float:
        with self._lock:
            return self._random.random()

    def token(self) -> str:
        with self._lock:
            return f"{self._random.getrandbits(128):032x}"

"""Rates over seconds and increases over minutes of counters whose processes come and go."""

import time
from collections import deque

RATE_TICKS = 10  # a rate is the mean over so many seconds, so that it is readable
RISE_TICKS = 300  # the period of the alerts
COUNTERS_MAX = 20_000


class Counters:
    """Takes all readings of a tick, then `end_tick`; a tick is about a second."""

    def __init__(self) -> None:
        self.rises: dict[str, float] = {}  # increases over the last RISE_TICKS
        self._last: dict[tuple[str, str], float] = {}
        self._tick: dict[str, float] = {}
        self._ticks: deque[tuple[float, dict[str, float]]] = deque()  # with the tick's length in seconds
        self._ended_s = time.monotonic()

    def add(self, name: str, life: str, value: float | None) -> None:
        """Take a process's reading. The first one, and one that is lower than the last, adds no increase."""
        if value is None:
            return
        last = self._last.get((name, life))
        self._last[name, life] = value
        if last is not None:
            self._tick[name] = self._tick.get(name, 0.0) + max(value - last, 0.0)

    def end_tick(self) -> None:
        """All have been read."""
        now_s = time.monotonic()
        self._ticks.append((now_s - self._ended_s, self._tick))
        self._ended_s = now_s
        for name, rise in self._tick.items():
            self.rises[name] = self.rises.get(name, 0.0) + rise
        if len(self._ticks) > RISE_TICKS:
            for name, rise in self._ticks.popleft()[1].items():
                self.rises[name] -= rise
        self._tick = {}
        if len(self._last) > COUNTERS_MAX:  # of processes that have ended
            self._last.clear()

    def rate(self, name: str) -> float | None:
        """The rate per second over the last RATE_TICKS; None if nobody has reported it in that time."""
        newest = [(s, tick[name]) for s, tick in list(self._ticks)[-RATE_TICKS:] if name in tick]
        seconds = sum(s for s, _ in newest)
        return sum(rise for _, rise in newest) / seconds if seconds > 0.0 else None

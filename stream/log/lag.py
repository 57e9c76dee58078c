"""How far a reader is behind a topic, per partition: in records, and in seconds.

Seconds are the age of the oldest record that the reader has not taken. It is estimated without reading that
record, which would disturb the reader: from where the log's end was at earlier measurements, and, for
records older than those, from the ingest time of the last record that the reader took.
"""

import bisect
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ground.clock import SYSTEM_CLOCK, Clock
from ground.threads import HelperThread
from stream.errors import LogError
from stream.log.base import Log

EVERY_S = 1.0
HISTORY_MAX = 600  # measurements remembered per partition


class Position(NamedTuple):
    """How far a reader has come in a partition."""

    offset: int  # of the next record it takes
    ingest_ms: int  # of the last one it took, Unix ms; 0: none since it began


class Lag(NamedTuple):
    """How far a reader is behind a partition."""

    topic: str
    partition: int
    records: int
    seconds: float


class LagMeter:
    """Measures a reader's lag about once a second, in a thread of its own.

    The role calls `check` regularly, or gives `on_failure`.

    Args:
        log: the log that is read.
        topic: the topic.
        positions: where the reader is, by partition; called in the meter's thread.
        clock: says when, and makes the thread.
        on_failure: called in the thread with the exception that ends it.
    """

    def __init__(
        self,
        log: Log,
        topic: str,
        positions: Callable[[], Mapping[int, Position]],
        clock: Clock = SYSTEM_CLOCK,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.lags: list[Lag] = []  # as measured last; none while the log is away
        self.up = True  # whether the log answered last time
        self._log = log
        self._topic = topic
        self._positions = positions
        self._history: dict[int, _Ends] = {}
        self._clock = clock
        self._thread = HelperThread(f"lag {topic}", self._run, on_failure, clock=clock)

    @property
    def remembered(self) -> int:
        """Measurements kept, at most `HISTORY_MAX` a partition."""
        return sum(len(ends) for ends in self._history.values())

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def failure(self) -> BaseException | None:
        """The exception that ended the thread, if any."""
        return self._thread.failure

    def check(self) -> None:
        """Re-raise the exception that ended the thread, if any."""
        self._thread.check()

    def stop(self) -> None:
        """End the thread; no harm if it was not started."""
        self._thread.stop()

    def measure(self) -> list[Lag]:
        """Measure now.

        Raises:
            LogError: the log does not answer.
        """
        ends = self._log.ends(self._topic)
        now_s = self._clock.now_s()
        # after the ends: a reader may pass an end, and is then not behind it
        positions = self._positions()
        lags = []
        for partition, (offset, ingest_ms) in sorted(positions.items()):
            if partition >= len(ends):
                continue  # added to the topic since the ends were read
            end = ends[partition][1]
            history = self._history.setdefault(partition, _Ends())
            history.add(now_s, end)
            seconds = 0.0
            if offset < end:
                seen_s = history.passed_at(offset)
                if seen_s is not None:
                    seconds = now_s - seen_s
                else:
                    seconds = self._clock.unix_s() - (ingest_ms or self._ingest_ms(partition, offset)) / 1e3
            lags.append(Lag(self._topic, partition, max(end - offset, 0), max(seconds, 0.0)))
        self.lags = lags
        return lags

    def _ingest_ms(self, partition: int, offset: int) -> int:
        """Of the record at an offset: a reader that has taken nothing yet is not disturbed."""
        found = self._log.read(self._topic, partition, offset, 1)
        return found[0].ingest_ms if found else int(self._clock.unix_s() * 1e3)

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self.measure()
                self.up = True
            except LogError:
                self.up = False
                self.lags = []
            self._clock.wait(stop, EVERY_S)


class _Ends:
    """Where a partition ended, when."""

    def __init__(self) -> None:
        self._at_s: list[float] = []
        self._end: list[int] = []

    def __len__(self) -> int:
        return len(self._end)

    def add(self, at_s: float, end: int) -> None:
        if len(self._end) > 1 and self._end[-2] == self._end[-1] == end:
            self._at_s[-1] = at_s  # of measurements with one end the first and the last say it all
            return
        self._at_s.append(at_s)
        self._end.append(end)
        if len(self._end) > HISTORY_MAX:
            del self._at_s[0], self._end[0]

    def passed_at(self, offset: int) -> float | None:
        """About when the record at `offset` came; None: before the first measurement."""
        i = bisect.bisect_right(self._end, offset)  # the first measurement with the record in the log
        if i == 0 or i == len(self._end):
            return None
        before, after = self._end[i - 1], self._end[i]
        share = (offset + 1 - before) / (after - before)
        return self._at_s[i - 1] + share * (self._at_s[i] - self._at_s[i - 1])

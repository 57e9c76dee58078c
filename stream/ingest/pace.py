"""Keeps sources together: one that is far ahead in event time waits for one that reads a backlog.

Impressions and actions are joined in event time. After a pause each source has a backlog, and the smaller one
would be read first: its clock would run hours ahead, and what comes from the other one would be late. This
decides only when a record is read, never what becomes of it.
"""

import threading

from ground.clock import SYSTEM_CLOCK, Clock

IDLE_S = 0.5  # without a record, after which a partition counts as read to its end


class _Place:
    def __init__(self, now_s: float) -> None:
        self.time_s = float("-inf")  # event time of its next record, about
        self.behind = True  # reads records that are older than now
        self.busy_s = now_s  # when a record was last read, by our clock


class Pace:
    """The places of all partitions of all sources that one process reads. Of several threads.

    Args:
        ahead_s: how far ahead of another source a source may be, in event time.
    """

    def __init__(self, ahead_s: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._ahead_s = ahead_s
        self._clock = clock
        self._places: dict[tuple[str, int], _Place] = {}
        self._away: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, source: str, partition: int) -> None:
        """A partition is read from now on."""
        with self._lock:
            self._places[source, partition] = _Place(self._clock.now_s())

    def end(self, source: str, partition: int) -> None:
        """A partition is read no longer."""
        with self._lock:
            self._places.pop((source, partition), None)

    def set_away(self, source: str, away: bool) -> None:
        """Whether a source cannot be read now: then the others wait for it."""
        with self._lock:
            (self._away.add if away else self._away.discard)(source)

    def limit_s(self, source: str, partition: int) -> float:
        """The event time up to which a partition may be read now."""
        now_s = self._clock.now_s()
        limit_s = float("inf")
        with self._lock:
            for (name, number), place in self._places.items():
                if (name, number) == (source, partition):
                    continue
                waiting = place.behind and now_s - place.busy_s < IDLE_S
                if waiting or name in self._away:
                    limit_s = min(limit_s, place.time_s)
        return limit_s + self._ahead_s

    def note(self, source: str, partition: int, time_s: float, taken_ms: int) -> None:
        """A partition's next record has about this event time.

        Args:
            taken_ms: when its log took the record, Unix ms; 0: not known.
        """
        with self._lock:
            place = self._places.get((source, partition))
            if place is not None:
                place.busy_s = self._clock.now_s()
                now_s = self._clock.unix_s()
                place.time_s = min(time_s, now_s)
                place.behind = now_s - taken_ms / 1e3 > self._ahead_s

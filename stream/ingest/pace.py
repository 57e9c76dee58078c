"""Keeps sources together: one that is far ahead in event time waits for one that reads a backlog.

Impressions and actions are joined in event time. After a pause each source has a backlog, and the smaller one
would be read first: its clock would run hours ahead, and what comes from the other one would be late. This
decides only when a record is read, never what becomes of it.
"""

import threading

from ground.clock import SYSTEM_CLOCK, Clock

SEEN_S = 0.1  # after which what was emitted has been committed, and can be read
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
        self._matcher: _Place | None = None
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

    def match_begins(self) -> None:
        """What is emitted to topic `matches` is read by this process too."""
        with self._lock:
            self._matcher = _Place(float("-inf"))

    def owe(self) -> None:
        """Something was emitted to topic `matches`: its reader is behind until it has found nothing more."""
        if self._matcher is not None:
            self._matcher.busy_s = self._clock.now_s()

    def matched(self, clock_s: float) -> None:
        """The reader of topic `matches` has come to this event time."""
        if self._matcher is not None:
            self._matcher.time_s = max(self._matcher.time_s, clock_s)

    def match_rests(self) -> None:
        """The reader of topic `matches` has found nothing; what was emitted just now it may not have seen."""
        if self._matcher is not None and self._clock.now_s() - self._matcher.busy_s > SEEN_S:
            self._matcher.busy_s = float("-inf")

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
            matcher = self._matcher
            if matcher is not None and now_s - matcher.busy_s < IDLE_S and matcher.time_s > float("-inf"):
                limit_s = min(limit_s, matcher.time_s)
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

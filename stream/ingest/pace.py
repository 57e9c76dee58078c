"""Keeps sources together: one that is far ahead in event time waits for one that reads a backlog.

Impressions and actions are joined in event time. After a pause each source has a backlog, and the smaller one
would be read first: its clock would run hours ahead, and what comes from the other one would be late. This
decides only when a record is read, never what becomes of it.
"""

import threading
from collections.abc import Sequence

from ground.clock import SYSTEM_CLOCK, Clock

QUIET_S = 0.5  # without a record, after which a look tells whether a partition is read to its end
STALE_S = 1.0  # without a turn of its thread, after which a source may have a backlog that nobody has seen


class _Place:
    def __init__(self, now_s: float) -> None:
        self.time_s = float("-inf")  # event time of its next record, about
        self.behind = True  # reads records that are older than now
        self.busy_s = now_s  # when a record was last read, or its end looked for, by our clock


class Pace:
    """The places of all partitions of all sources that one process reads. Of several threads.

    Nothing counts as read because time has passed: on a busy machine each thread may stand still for seconds.

    Args:
        ahead_s: how far ahead of another source a source may be, in event time.
        sources: whose partitions are not known yet; until they are, the others wait.
    """

    def __init__(self, ahead_s: float, clock: Clock = SYSTEM_CLOCK, sources: Sequence[str] = ()) -> None:
        self._ahead_s = ahead_s
        self._clock = clock
        self._places: dict[tuple[str, int], _Place] = {}
        self._turned_s: dict[str, float] = dict.fromkeys(sources, float("-inf"))
        self._away: set[str] = set()
        self._unsent: set[str] = set()  # sources with outputs for topic `matches` that are not in it yet
        self._sent = 0  # how often such outputs have been sent
        self._rested = 0  # as of which of them the reader of the topic has found nothing more
        self._matches = False  # whether this process reads the topic
        self._matched_s = float("-inf")  # its event time
        self._lock = threading.Lock()

    def begin(self, source: str, partition: int) -> None:
        """A partition is read from now on."""
        with self._lock:
            self._places[source, partition] = _Place(self._clock.now_s())

    def end(self, source: str, partition: int) -> None:
        """A partition is read no longer."""
        with self._lock:
            self._places.pop((source, partition), None)

    def turned(self, source: str) -> None:
        """A source's thread knows its partitions, and is about to read."""
        with self._lock:
            self._turned_s[source] = self._clock.now_s()

    def set_away(self, source: str, away: bool) -> None:
        """Whether a source cannot be read now: then the others wait for it."""
        with self._lock:
            (self._away.add if away else self._away.discard)(source)

    def match_begins(self) -> None:
        """What is emitted to topic `matches` is read by this process too."""
        with self._lock:
            self._matches = True

    def owe(self, source: str, time_s: float) -> None:
        """An output for topic `matches` was made of a record with this event time."""
        if self._matches:
            with self._lock:
                self._unsent.add(source)
                if self._matched_s == float("-inf"):
                    self._matched_s = time_s  # its reader has nothing that is older

    def sent(self, source: str) -> None:
        """All outputs of a source are in the topic."""
        if self._matches:
            with self._lock:
                if source in self._unsent:
                    self._unsent.remove(source)
                    self._sent += 1

    def matched(self, clock_s: float) -> None:
        """The reader of topic `matches` has come to this event time."""
        with self._lock:
            self._matched_s = max(self._matched_s, clock_s)

    def sendings(self) -> int:
        """How often outputs for topic `matches` have been sent; `match_rests` takes it."""
        return self._sent

    def match_rests(self, sendings: int) -> None:
        """The reader of topic `matches` found nothing, with a read that began after so many `sendings`."""
        with self._lock:
            self._rested = max(self._rested, sendings)

    def all_read(self) -> bool:
        """Whether no source has a backlog, as far as is known: what did not come by now is not there."""
        with self._lock:
            stale_s = self._clock.now_s() - STALE_S
            stale = any(at < stale_s for at in self._turned_s.values())
            return not (stale or self._away or any(place.behind for place in self._places.values()))

    def limit_s(self, source: str, partition: int) -> float:
        """The event time up to which a partition may be read now."""
        limit_s = float("inf")
        with self._lock:
            stale_s = self._clock.now_s() - STALE_S
            waited_for = {name for name, at in self._turned_s.items() if at < stale_s} - {source} | self._away
            if any(self._turned_s[name] == float("-inf") for name in waited_for & set(self._turned_s)):
                return float("-inf")
            for (name, number), place in self._places.items():
                if (name, number) != (source, partition) and (place.behind or name in waited_for):
                    limit_s = min(limit_s, place.time_s)
            if self._matches and (self._unsent or self._rested < self._sent):
                limit_s = min(limit_s, self._matched_s)
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

    def quiet(self, source: str) -> list[int]:
        """The partitions of a source for which others wait, and of which nothing was read for a moment."""
        with self._lock:
            now_s = self._clock.now_s()
            found = [
                number
                for (name, number), place in self._places.items()
                if name == source and place.behind and now_s - place.busy_s >= QUIET_S
            ]
            for number in found:
                self._places[source, number].busy_s = now_s
        return found

    def at_end(self, source: str, partition: int) -> None:
        """A partition is read to its end."""
        with self._lock:
            place = self._places.get((source, partition))
            if place is not None:
                place.behind = False

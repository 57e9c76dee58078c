"""A partition's clock: the newest plausible event time in it.

Where the log notes when it took each record, an event ahead of that moment counts as of about that moment.
Where it does not (a Kafka topic with the producers' own times), the other events of the partition are all
there is to compare with:

- An event further ahead of the clock than `step_s` does not move it. Once `CONFIRM_EVENTS` more events have
  been so far ahead than have not, the clock moves to the earliest of them: the stream had paused.
- As long as fewer than `START_EVENTS` events have come, the clock is the newest event time that is at most
  `step_s` ahead of their median; it may then step back, since the first event of all may be the wrong one.

So a producer whose clock runs ahead cannot close the windows of other requests, unless it sends most events.
All of this follows from the records alone.
"""

import bisect

import msgspec

CONFIRM_EVENTS = 100
START_EVENTS = 100
LIVE_S = 60.0  # events that lag the log's clock by more than a window and this are old: they get no ticks


class PartitionProgress(msgspec.Struct, omit_defaults=True):
    """One partition's own numbers, kept in the state."""

    clock: float = 0.0  # event time, Unix seconds
    undecided: int = 0
    remembered: int = 0
    flushes: int = 0
    further_actions: int = 0  # that wait for an impression, beyond the first of each request
    # the next four: where the log does not note times
    begun: bool = False  # `START_EVENTS` have come
    first: list[float] = []  # event times until then, in order
    ahead: int = 0  # events too far ahead, less those that were not; at least 0
    earliest: float = 0.0  # of those ahead
    # ingest time of the newest record, Unix seconds; 0: unknown
    ingest_s: float = msgspec.field(default=0.0, name="taken_s")
    waiting: int = 0  # requests whose first target is decided, and a further one is not
    waiting_bytes: int = 0  # of them
    advancing: bool = False  # not all that is due at this clock was ended

    def begin_at(self, clock: float, ingest_s: float) -> None:
        """Begin at the clock that another joiner had; 0: at the start of the log.

        Args:
            ingest_s: ingest time of that joiner's newest record, Unix seconds.
        """
        self.clock = clock
        self.ingest_s = ingest_s
        self.begun = clock > 0.0

    @property
    def steady(self) -> bool:
        """Whether a joiner that begins here with only the clock will have the same clock."""
        return not self.first and not self.ahead

    def trust_log(self) -> None:
        """From here on the log notes ingest times, so events need no comparison."""
        self.begun = True
        self.first = []
        self.ahead = 0

    def lives(self, window_s: float) -> bool:
        """Whether events arrive about when they happen, not from a file of old events."""
        behind_s = self.ingest_s - self.clock
        return self.clock > 0.0 and self.ingest_s > 0.0 and behind_s <= window_s + LIVE_S

    def latest(self, time: float, step_s: float) -> float:
        """The upper limit of an event's time, from the partition's other events, without ingest times.

        Returns:
            `time`, or the clock if the event is too far ahead. May set the clock; does not move it to `time`.
        """
        if not self.begun:
            return self._begin(time, step_s)
        if time <= self.clock + step_s:
            if self.ahead:
                self.ahead -= 1
            return time
        self.earliest = min(self.earliest, time) if self.ahead else time
        self.ahead += 1
        if self.ahead < CONFIRM_EVENTS:
            return self.clock
        self.ahead = 0
        return self.earliest

    def _begin(self, time: float, step_s: float) -> float:
        first = self.first
        bisect.insort(first, time)
        limit = first[(len(first) - 1) // 2] + step_s
        newest = first[bisect.bisect_right(first, limit) - 1]
        if self.clock > limit:
            self.clock = newest
        if len(first) == START_EVENTS:
            self.begun = True
            self.first = []
        return min(time, max(newest, self.clock))

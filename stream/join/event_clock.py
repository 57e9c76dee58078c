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


def is_steady(progress: PartitionProgress) -> bool:
    """Whether a joiner that begins here, with the clock alone, has the same clock from here on."""
    return not progress.first and not progress.ahead


def forget_doubts(progress: PartitionProgress) -> None:
    """From here on the log gives ingest times, so events need no comparison."""
    progress.begun = True
    progress.first = []
    progress.ahead = 0


def compare(progress: PartitionProgress, time: float, step_s: float) -> float:
    """As of when an event at `time` counts, where there are only other events to compare it with.

    Returns:
        `time`, or the clock if the event is too far ahead. May set the clock; does not move it to `time`.
    """
    if not progress.begun:
        return _begin(progress, time, step_s)
    if time <= progress.clock + step_s:
        if progress.ahead:
            progress.ahead -= 1
        return time
    progress.earliest = min(progress.earliest, time) if progress.ahead else time
    progress.ahead += 1
    if progress.ahead < CONFIRM_EVENTS:
        return progress.clock
    progress.ahead = 0
    return progress.earliest


def _begin(progress: PartitionProgress, time: float, step_s: float) -> float:
    first = progress.first
    bisect.insort(first, time)
    limit = first[(len(first) - 1) // 2] + step_s
    newest = first[bisect.bisect_right(first, limit) - 1]
    if progress.clock > limit:
        progress.clock = newest
    if len(first) == START_EVENTS:
        progress.begun = True
        progress.first = []
    return min(time, max(newest, progress.clock))

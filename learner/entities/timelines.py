"""What is kept of one entity, as bytes: for each attribute its last values, each with the time of its event.

    | hour: 4 bytes | MessagePack of {attribute: [[time, value or null], ...]}, times rising |

`hour` is the last hour, in event time, in which the entity was told of or seen; a full store evicts by it.
For each attribute the newest value at or before a time counts, so events may come in any order.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from stream.limits import ENTITY_BYTES_MAX
from stream.records.entities.record import EntityEvent
from stream.records.types import Features, Value

HOUR_S = 3600.0
HEAD = 4  # bytes before the timelines

Timeline = list[tuple[float, Value | None]]

_decode = msgspec.msgpack.Decoder(dict[str, Timeline]).decode
_encode = msgspec.msgpack.Encoder().encode


class Latest(NamedTuple):
    """An entity's newest values, true from `since` on."""

    since: float
    values: Features
    kept: bytes  # what they were read from


def hour_of(time: float) -> bytes:
    """The head of an entity that was seen at a time."""
    return int(time // HOUR_S).to_bytes(HEAD, "big")


def told(kept: bytes, event: EntityEvent, versions: int) -> bytes:
    """What is kept of an entity after an event.

    Args:
        kept: before; empty: nothing.
        versions: how many values of an attribute are kept; the oldest go, and first of all repeated ones.
    """
    timelines = _decode(kept[HEAD:]) if kept else {}
    for name, value in event.set.items():
        timeline = timelines.setdefault(name, [])
        at = bisect_right(timeline, event.time, key=_time)
        if at and timeline[at - 1][0] == event.time:
            at -= 1  # said again: the later event counts
            del timeline[at]
        timeline.insert(at, (event.time, value))
        if len(timeline) > versions:
            del timeline[_superfluous(timeline)]
    body = _encode(dict(sorted(timelines.items())))
    while len(body) > ENTITY_BYTES_MAX:
        _shorten(timelines)
        body = _encode(dict(sorted(timelines.items())))
    return max(kept[:HEAD], hour_of(event.time)) + body


def latest(kept: bytes) -> Latest:
    """The newest values of an entity, without those that are taken away."""
    timelines = _decode(kept[HEAD:])
    since = max((timeline[-1][0] for timeline in timelines.values()), default=0.0)
    return Latest(since, {n: v for n, t in timelines.items() if (v := t[-1][1]) is not None}, kept)


def as_of(kept: bytes, time: float) -> Features:
    """The values of an entity at a time: later events do not exist for it."""
    found: Features = {}
    for name, timeline in _decode(kept[HEAD:]).items():
        at = bisect_right(timeline, time, key=_time)
        value = timeline[at - 1][1] if at else None
        if value is not None:
            found[name] = value
    return found


def without(kept: bytes, named: Callable[[str, int | str], bool]) -> bytes:
    """What is kept without the values that are certain ids; the same object if there are none."""
    changed = False
    timelines = _decode(kept[HEAD:])
    for name, timeline in timelines.items():
        for i, (time, value) in enumerate(timeline):
            if isinstance(value, list):
                left = [one for one in value if isinstance(one, float) or not named(name, one)]
                if len(left) < len(value):
                    timeline[i], changed = (time, left), True
            elif isinstance(value, int | str) and named(name, value):
                timeline[i], changed = (time, None), True
    return kept[:HEAD] + _encode(timelines) if changed else kept


def _time(version: tuple[float, Value | None]) -> float:
    return version[0]


def _superfluous(timeline: Timeline) -> int:
    """The version that says least: one that repeats the one before it, or the oldest."""
    return next((i for i in range(1, len(timeline)) if timeline[i][1] == timeline[i - 1][1]), 0)


def _shorten(timelines: dict[str, Timeline]) -> None:
    """Drop the oldest version of the attribute that takes most; of one version, the attribute."""
    name = max(timelines, key=lambda name: (len(timelines[name]) > 1, len(_encode(timelines[name]))))
    del timelines[name][0]
    if not timelines[name]:
        del timelines[name]

"""The joined share: of the actions of each producer, how many met their impression, by partition of `events`.

Counted since the role was started, for people and alerts; no decision depends on it.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from stream.join.outputs import Unusable

SENDERS_MAX = 500  # producers and partitions that are counted; the rest count as one
WAITING_MAX = 100_000  # actions of which it is noted that they wait; the oldest go
NAMELESS, OTHERS = "(no name)", "(others)"


class EventSender(NamedTuple):
    """A producer in a partition."""

    producer: str
    partition: int  # -1: of all that are beyond the limit


class Met(msgspec.Struct):
    """Actions of one sender."""

    met: int = 0  # their impression was there, or came
    unmet: int = 0  # it never came


class Meetings:
    """The joined share of all senders."""

    def __init__(self) -> None:
        self._met: dict[EventSender, Met] = {}
        # (partition, request) -> (offset, sender) of each action that waits
        self._waiting: OrderedDict[tuple[int, str], list[tuple[int, Met]]] = OrderedDict()
        self._count = 0  # of them

    def counts(self) -> dict[EventSender, Met]:
        """By sender so far. May be called from any thread."""
        return dict(self._met)

    def acted(self, producer: str, partition: int, offset: int, request_id: str, met: bool) -> None:
        """An action was taken; if it did not meet its impression, it waits."""
        sender = EventSender(producer or NAMELESS, partition)
        counts = self._met.get(sender)
        if counts is None:
            if len(self._met) >= SENDERS_MAX:
                sender = EventSender(OTHERS, -1)
            counts = self._met.setdefault(sender, Met())
        if met:
            counts.met += 1
            return
        self._waiting.setdefault((partition, request_id), []).append((offset, counts))
        self._count += 1
        while self._count > WAITING_MAX:
            self._count -= len(self._waiting.popitem(last=False)[1])

    def shown(self, partition: int, request_id: str) -> None:
        """An impression came."""
        if self._waiting:
            for _, counts in self._pop(partition, request_id):
                counts.met += 1

    def ended(self, partition: int, outputs: Iterable[object]) -> None:
        """Some actions that waited may be among what cannot be used."""
        if not self._waiting:
            return
        for output in outputs:
            if isinstance(output, Unusable) and output.origin is not None:
                request_id, at = output.origin.key.decode(errors="replace"), output.origin.offset
                waiting = self._pop(partition, request_id)
                ended = [counts for offset, counts in waiting if offset == at]
                for counts in ended[:1]:  # each of a batch has a letter of its own
                    counts.unmet += 1
                left = [entry for entry in waiting if entry[0] != at] + [(at, counts) for counts in ended[1:]]
                if left:
                    self._waiting[partition, request_id] = left
                    self._count += len(left)

    def _pop(self, partition: int, request_id: str) -> list[tuple[int, Met]]:
        found = self._waiting.pop((partition, request_id), [])
        self._count -= len(found)
        return found

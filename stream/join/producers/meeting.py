"""The joined share: of the actions of each producer, how many met their impression, by partition of `events`.

Counted since the role was started, for people and alerts; no decision depends on it.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from stream.join.outputs import Decided, Unusable

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
        self._waiting: OrderedDict[tuple[int, int], tuple[str, Met]] = OrderedDict()
        self._of_request: dict[tuple[int, str], list[int]] = {}

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
        self._waiting[partition, offset] = request_id, counts
        self._of_request.setdefault((partition, request_id), []).append(offset)
        if len(self._waiting) > WAITING_MAX:
            (partition, offset), (request_id, _) = next(iter(self._waiting.items()))
            self._end(partition, offset, request_id)

    def shown(self, partition: int, request_id: str) -> None:
        """An impression came."""
        if self._of_request:
            for offset in self._of_request.pop((partition, request_id), ()):
                _, counts = self._waiting.pop((partition, offset))
                counts.met += 1

    def ended(self, partition: int, outputs: Iterable[Decided | Unusable]) -> None:
        """Some actions that waited are among what cannot be used."""
        if not self._waiting:
            return
        for output in outputs:
            if isinstance(output, Unusable) and output.origin is not None:
                found = self._waiting.get((partition, output.origin.offset))
                if found is not None:
                    request_id, counts = found
                    counts.unmet += 1
                    self._end(partition, output.origin.offset, request_id)

    def _end(self, partition: int, offset: int, request_id: str) -> None:
        del self._waiting[partition, offset]
        offsets = self._of_request[partition, request_id]
        offsets.remove(offset)
        if not offsets:
            del self._of_request[partition, request_id]

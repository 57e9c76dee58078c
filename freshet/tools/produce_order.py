"""Whether a file's events come in the order of their times, as its requests are decided by that clock."""

from collections.abc import Iterator

from stream.records.entities.record import AnyEvent
from stream.records.targets import Targets
from stream.records.types import Action, Impression


class InTime:
    """Passes events on, and counts actions so far behind the newest event that their request is decided.

    A file that holds each request with its actions, one request after the other, looks in order, but a
    purchase a day later moves the clock past the windows of all requests that follow within that day.

    >>> action = Action(request_id="a", time=10.0, candidate=0)
    >>> events = InTime(iter([Impression("b", 80.0, [{"item": 1}]), action]), Targets())
    >>> len(list(events)), events.late
    (2, 1)
    """

    def __init__(self, events: Iterator[AnyEvent], targets: Targets) -> None:
        self._events = events
        self._targets = targets
        self._newest = float("-inf")
        self._actions = 0
        self.late = 0

    def __iter__(self) -> Iterator[AnyEvent]:
        for event in self._events:
            if isinstance(event, Action):
                self._actions += 1
                self.late += event.time + self._window_s(event) < self._newest
            if isinstance(event, Action | Impression):
                self._newest = max(self._newest, event.time)
            yield event

    def _window_s(self, action: Action) -> float:
        return self._targets[self._targets.of_action(action.name)].window_s

    def phrase(self) -> str:
        """What happened, and what to do."""
        return (
            f"{self.late:,} of {self._actions:,} actions stand behind events that are later by more than "
            "their target's window_s, so their requests are decided by then, and they count as late; sort "
            "the file by time, and send it to a new log"
        )

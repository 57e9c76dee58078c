"""The rules of several targets by brute force: all is kept, all is computed again with each event."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stream.records.targets import Targets
from stream.records.types import Action, Impression


class Taught(NamedTuple):
    """What an example teaches: of a request's candidates, by number."""

    request: str
    target: str
    labels: tuple[tuple[int, float], ...]
    before: float | None


class Reference:
    """Requests with several targets, each event in turn; `learn` and `first_action` as in [join]."""

    def __init__(self, targets: Targets, learn: bool, first_action: bool) -> None:
        self.targets, self.first_action, self.clock = targets, first_action, 0.0
        self.wait = targets[""].observe_s
        self.more = 2 * self.wait if learn else 0.0
        self.asked: dict[str, Impression] = {}
        self.early: dict[str, list[tuple[float, Action]]] = {}
        self.said: dict[tuple[str, str, int], tuple[float, bool, float]] = {}
        self.taught: dict[tuple[str, str], dict[int, float]] = {}

    def take(self, event: Impression | Action) -> Iterator[Taught]:
        self.clock = max(self.clock, event.time)
        for name in self.asked:
            yield from self.decide(name, self.clock)
        if isinstance(event, Action):
            if event.request_id in self.asked:
                yield from self.act(event)
            else:
                self.early.setdefault(event.request_id, []).append((self.clock + self.wait, event))
        elif event.request_id not in self.asked:
            self.asked[event.request_id] = event
            waiting = [a for until, a in self.early.pop(event.request_id, []) if until > self.clock]
            for action in sorted(waiting, key=lambda action: action.time):
                yield from self.decide(event.request_id, min(action.time, self.clock))
                yield from self.act(action, min(action.time, self.clock))
            yield from self.decide(event.request_id, self.clock)

    def decide(self, name: str, clock: float, only: Sequence[str] | None = None) -> Iterator[Taught]:
        due = [t for t in self.targets.ordered if only is None or t in only]
        for t in sorted(due, key=lambda t: self.targets[t].observe_s):
            if (name, t) not in self.taught and (
                only or self.since(name, clock) >= self.targets[t].observe_s
            ):
                labels = self.taught[name, t] = self.sample(name, t)
                if labels:
                    yield Taught(name, t, tuple(labels.items()), None)

    def act(self, action: Action, clock: float | None = None) -> Iterator[Taught]:
        name, c = action.request_id, action.candidate
        t, since = (
            self.targets.of_action(action.name),
            self.since(name, self.clock if clock is None else clock),
        )
        closed = {u for u in self.targets if since >= self.targets[u].window_s + self.more}
        new = (
            action.time,
            bool(action.label),
            (action.label if action.value is None else action.value) * action.label,
        )
        while t:  # whether it, and with it all that it is of, may still happen
            if t in closed:
                return
            t = "" if self.happened(name, self.targets[t].of or t, c) else self.targets[t].of
        t = self.targets.of_action(action.name)
        if new <= self.said.get((name, t, c), (-1.0, False, 0.0)):
            return
        self.said[name, t, c] = new
        for u in self.targets.ordered:
            known, now = self.taught.get((name, u)), self.sample(name, u)
            if known is not None and u not in closed and c in now and known.get(c) != now[c]:
                yield Taught(name, u, ((c, now[c]),), known.get(c))
                known[c] = now[c]
        if self.first_action and new[1]:
            events = [u for u in self.targets if self.targets[u].kind == "event"]
            yield from self.decide(name, self.clock, [u for u in events if self.happened(name, u, c)] or [""])

    def since(self, name: str, clock: float) -> float:
        return clock - self.asked[name].time

    def happened(self, name: str, t: str, c: int) -> bool:
        said = self.said.get((name, t, c))
        return said[1] if said else any(self.happened(name, u, c) for u in self.targets.children(t))

    def sample(self, name: str, t: str) -> dict[int, float]:
        everyone, of = range(len(self.asked[name].candidates)), self.targets[t].of
        among = self.sample(name, of) if of else everyone
        found = [c for c in among if not of or self.happened(name, of, c)]
        if self.targets[t].kind == "event":
            return {c: float(self.happened(name, t, c)) for c in found}
        return {c: self.said.get((name, t, c), (0.0, False, 0.0))[2] for c in found}

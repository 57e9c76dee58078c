"""When each target of a request is decided, and when what happens later no longer counts."""

from typing import NamedTuple

from stream.join.settings import JoinSettings
from stream.records.targets import Targets

REMEMBERED_WINDOWS = 2.0
"""How long a request is remembered, and with `late = "learn"` still open, in windows of the first target."""


class Moment(NamedTuple):
    """A moment in the life of a request."""

    after_s: float  # event time since the impression
    decides: tuple[int, ...]  # targets, each after its `of`


class TargetRules:
    """The targets by number, in the order of their declaration; 0 is the primary one.

    A target is *open* from the impression until its window is over: until then, what happens is learned. It
    is *decided* once, at `observe_s`; what happens between is learned as a correction.
    """

    def __init__(self, targets: Targets, settings: JoinSettings) -> None:
        first = targets[""]
        self.targets = targets
        self.names = targets.names
        self.window_s = first.observe_s  # also how long an action waits for its impression
        more_s = REMEMBERED_WINDOWS * self.window_s if settings.late == "learn" else 0.0
        index = {name: i for i, name in enumerate(targets.names)}
        self.of = [index[targets[name].of] if targets[name].of else -1 for name in targets.names]
        self.chain = [self._chain(target) for target in range(len(self.of))]
        """By target: its `of`, that one's `of`, and so on."""
        self.children = [[index[child] for child in targets.children(name)] for name in targets.names]
        self.order = [index[name] for name in targets.ordered]
        self.is_value = [targets[name].kind == "value" for name in targets.names]
        observe = [targets[name].observe_s for name in targets.names]
        close = [targets[name].window_s + more_s for name in targets.names]
        times = sorted({*observe, *close})
        self.steps = [Moment(at, tuple(t for t in self.order if observe[t] == at)) for at in times]
        self.closes_at = [times.index(at) for at in close]
        """By target: the step with which it is over."""
        self.open_at = [
            [t for t in self.order if self.of[t] >= 0 and step <= self.closes_at[t]]
            for step in range(len(times))
        ]
        """By step: the targets with an `of` that are still open."""
        self.roots_close_at = max(at for at, of in zip(self.closes_at, self.of, strict=True) if of < 0)
        roots = [t for t, of in enumerate(self.of) if of < 0]
        self.quiet_end_at_once = roots == [0] and self.roots_close_at == 0
        """Whether requests with which nothing happens are over with the first step, and have one example."""
        self.first_action = settings.decide == "first_action"
        self.longest_s = times[-1]
        """How long a request may wait; behind that it is remembered."""

    def _chain(self, target: int) -> list[int]:
        of = self.of[target]
        return [of, *self._chain(of)] if of >= 0 else []

    @property
    def structure(self) -> str:
        """What waiting requests depend on; other lengths of the windows have the same."""
        said = [
            f"{name} of {self.names[of]}" if of >= 0 else name
            for name, of in zip(self.names, self.of, strict=True)
        ]
        steps = [
            f"{number}: {', '.join(self.names[t] for t in step.decides) or 'none'}"
            for number, step in enumerate(self.steps)
        ]
        return f"{', '.join(said)}; decided in steps {'; '.join(steps)}"

    def number_of(self, action: str) -> int:
        """The number of the target that an action of this name is of."""
        return self.names.index(self.targets.of_action(action))

    def name_in_example(self, target: int) -> str:
        """What an example says of its target: nothing, if it is the primary one."""
        return self.names[target] if target else ""


def rules_of(targets: Targets, settings: JoinSettings) -> TargetRules | None:
    """The rules of targets; None: there is one that the simpler `Pairing` decides just as well."""
    return None if is_plain(targets, settings) else TargetRules(targets, settings)


def is_plain(targets: Targets, settings: JoinSettings) -> bool:
    """Whether there is one target that the simpler `Pairing` decides just as well."""
    first = targets[""]
    one = len(targets) == 1 and first.kind == "event" and first.observe_s == first.window_s
    return not targets.declared or (one and settings.decide == "window" and settings.late == "drop")

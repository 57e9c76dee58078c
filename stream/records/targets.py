"""Targets: what is predicted of a candidate, and which actions say how it turned out.

Without a declaration there is one, `click`, which takes actions of every name. With `[targets.NAME]` sections
an action's `name` says which target it is of. The first one declared is the primary target.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from ground.short_repr import ShortRepr
from stream.errors import RecordError
from stream.limits import TARGET_NAME_MAX, TARGET_WINDOW_S_MAX, TARGETS_MAX, WEIGHT_MAX

PRIMARY = "click"
"""The target's name where none is declared."""

_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{TARGET_NAME_MAX - 1}}}")


class Target(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section [targets.NAME]: one target.

    A target with `of` is learned among the candidates for which that other target happened. Both times are
    event time from the impression on: what did not happen within `observe_s` is learned as a negative, and
    what happens after it still counts until `window_s`.
    """

    kind: Literal["event", "value"] = "event"  # it happens or not; or it is a number of at least 0
    of: str = ""  # another target; empty: learned among all candidates that were shown
    actions: tuple[str, ...] = ()  # names of the actions that are of this target; empty: its own name
    window_s: float = 0.0  # 0: that of [join]
    observe_s: float = 0.0  # 0: window_s
    scale: Literal["linear", "log1p"] = "linear"  # on which a value is learned
    # Candidates of an order that was drawn count by 1 / (candidates × propensity), and by this at most: as if
    # all orders had been equally likely. 0: each counts once.
    propensity_clip: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.window_s <= TARGET_WINDOW_S_MAX:
            raise ValueError(f"window_s is {self.window_s}; expected over 0, up to 30 days")
        if not 0.0 <= self.observe_s <= TARGET_WINDOW_S_MAX:
            raise ValueError(f"observe_s is {self.observe_s}; expected over 0, up to window_s")
        if self.kind == "event" and self.scale != "linear":
            raise ValueError(f'scale = "{self.scale}" is for targets of kind "value"')
        if self.propensity_clip and not 1.0 <= self.propensity_clip <= WEIGHT_MAX:
            raise ValueError(
                f"propensity_clip is {self.propensity_clip}; expected 0, for no weights, or the largest "
                f"weight, from 1 to {WEIGHT_MAX:g}"
            )
        if self.propensity_clip and self.of:
            raise ValueError("propensity_clip is for a target of what was shown, without `of`")
        for action in self.actions:
            if not 0 < len(action) <= TARGET_NAME_MAX:
                raise ValueError(
                    f"actions holds {action!r}; expected names of 1 to {TARGET_NAME_MAX} characters"
                )


class Targets(Mapping[str, Target]):
    """All targets in the order in which they are declared, with every default filled in.

    >>> targets = Targets({"click": Target(), "buy": Target(of="click", actions=("buy", "order"))}, 60.0)
    >>> targets.primary, targets.of_action("order"), targets["buy"].observe_s
    ('click', 'buy', 60.0)
    """

    def __init__(self, declared: Mapping[str, Target] | None = None, window_s: float = 60.0) -> None:
        """Check the targets.

        Args:
            declared: by name; the first is the primary one. None or empty: one target, `click`.
            window_s: of a target that has none of its own.

        Raises:
            ValueError: a name or an action is not unique or not a name, an `of` is unknown, runs in a circle
                or is a value, or the times of a target and of its `of` do not fit together.
        """
        self.declared = bool(declared)
        self._targets = {
            name: _filled(name, target, window_s)
            for name, target in (declared or {PRIMARY: Target()}).items()
        }
        self.names = tuple(self._targets)
        self.primary = self.names[0]
        self.clips = tuple(target.propensity_clip for target in self._targets.values())
        self._check_names()
        self._check_order()
        self.ordered = tuple(self._ordered())
        """The names, each after its `of`."""
        self._of_action = self._actions()

    def __getitem__(self, name: str) -> Target:
        return self._targets[name or self.primary]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Targets({self._targets})" if self.declared else "Targets()"

    def of_action(self, name: str) -> str:
        """The target that an action of this name is of.

        Raises:
            RecordError: none is; the message lists the names that are known.
        """
        if not self.declared:
            return self.primary
        found = self._of_action.get(name)
        if found is None:
            raise RecordError(f"action {name!r} is of no target; known actions: {', '.join(self._of_action)}")
        return found

    def children(self, name: str) -> tuple[str, ...]:
        """The targets that are learned among what happened of this one."""
        return tuple(other for other in self.names if self._targets[other].of == name)

    def _check_names(self) -> None:
        if len(self) > TARGETS_MAX:
            raise ValueError(f"{len(self)} targets are declared; expected at most {TARGETS_MAX}")
        for name in self.names:
            if _NAME.fullmatch(name) is None:
                raise ValueError(
                    f"target {name!r}: expected a name of letters, digits and underscores, at most "
                    f"{TARGET_NAME_MAX}, not beginning with a digit"
                )

    def _check_order(self) -> None:
        first = self._targets[self.primary]
        for name, target in self._targets.items():
            if target.of and target.of not in self._targets:
                raise ValueError(
                    f"target {name} is of {target.of!r}, which is not declared; declared: {', '.join(self)}"
                )
            circle = [name]
            while (of := self._targets[circle[-1]].of) and of in self._targets:
                if of in circle:
                    raise ValueError(f"targets run in a circle: {' of '.join([*circle, of])}")
                circle.append(of)
        if first.of:
            raise ValueError(
                f"target {self.primary} is declared first, so it is the primary one, which must not be of "
                f"another; declare {first.of} before it"
            )
        for name, target in self._targets.items():
            if target.of:
                _check_of(name, target, self._targets[target.of])

    def _ordered(self) -> Iterator[str]:
        """The names, each after its `of`."""
        left = list(self.names)
        while left:
            ready = [name for name in left if self._targets[name].of not in left]
            yield from ready
            left = [name for name in left if name not in ready]

    def _actions(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, target in self._targets.items():
            for action in target.actions:
                if found.setdefault(action, name) != name:
                    raise ValueError(f"action {action!r} is of two targets, {found[action]} and {name}")
        return found


def _filled(name: str, target: Target, window_s: float) -> Target:
    """The target with its own name and times where it has none."""
    window_s = target.window_s or window_s
    if target.observe_s > window_s:
        raise ValueError(
            f"target {name}: observe_s is {target.observe_s:g}, longer than its window_s, {window_s:g}"
        )
    return msgspec.structs.replace(
        target,
        actions=target.actions or (name,),
        window_s=window_s,
        observe_s=target.observe_s or window_s,
    )


def _check_of(name: str, target: Target, of: Target) -> None:
    if of.kind == "value":
        raise ValueError(f"target {name} is of {target.of}, which is a value; expected a target that happens")
    for field in ("observe_s", "window_s"):
        mine, its = getattr(target, field), getattr(of, field)
        if mine < its:
            raise ValueError(
                f"target {name}: {field} is {mine:g}, shorter than {its:g}, that of {target.of}, among which "
                "it is learned"
            )


UNDECLARED = Targets()
"""One target, `click`, which takes actions of every name."""

UNKNOWN = Targets()
"""Those of a log whose config is not at hand: labels, values and outcomes may be of any."""

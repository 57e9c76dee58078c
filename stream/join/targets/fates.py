"""What a step decides of one candidate, remembered by what is known of it.

Candidates do not depend on each other, and what is known of one is little: of each target whether it
happened, did not, or nobody said so. So few of these fates occur, and each is computed once.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from stream.join.targets.outcomes import Outcome, Outcomes, TargetEntry
from stream.join.targets.rules import TargetRules

Known = tuple[bool | None, ...]
"""By target: whether it happened, as far as anybody said."""

Said = Mapping[int, Mapping[int, Outcome]]

FATES_MAX = 10_000
"""Remembered; those not used for longest go."""


class InSample(NamedTuple):
    """A candidate in the sample of a target that a step decides."""

    label: float
    implied: bool = False  # nobody said so
    value: bool = False  # its label is what was said, not `label`


class Fate(NamedTuple):
    """What a step makes of one candidate."""

    parts: tuple[
        InSample | None, ...
    ]  # by target; None: it is not in that sample, or the step decides another
    waits: bool  # something is open of it behind the step


class Fates:
    """The fates of candidates that all count as shown."""

    def __init__(self, rules: TargetRules) -> None:
        self._rules = rules
        self._nothing: Known = (None,) * len(rules.names)
        self._find = lru_cache(FATES_MAX)(self._compute)
        self._counts = lru_cache(FATES_MAX)(self._compute_counts)

    def of(self, entry: TargetEntry, candidate: int) -> Fate:
        """What the entry's next step makes of a candidate with which something was done."""
        return self._find(entry.step, self._known(entry.said, candidate))

    def counts(self, entry: TargetEntry, candidate: int, target: int) -> bool:
        """Whether an action with a candidate still counts, see `Outcomes.counts`."""
        known = self._known(entry.said, candidate) if entry.said else self._nothing
        return self._counts(entry.step, known, target)

    def _known(self, said: Said, candidate: int) -> Known:
        known: list[bool | None] = [*self._nothing]
        for target, outcomes in said.items():
            if candidate in outcomes:
                known[target] = outcomes[candidate].happened
        return tuple(known)

    def _compute_counts(self, step: int, known: Known, target: int) -> bool:
        return Outcomes(self._rules, _entry_of(step, known)).counts(target, 0)

    def _compute(self, step: int, known: Known) -> Fate:
        entry = _entry_of(step, known)
        outcomes = Outcomes(self._rules, entry)
        parts: list[InSample | None] = [None] * len(known)
        for target in self._rules.steps[step].decides:
            if outcomes.has(target, 0):
                label = outcomes.label(target, 0)
                value = self._rules.is_value[target] and label != 0.0
                parts[target] = InSample(label, label != 0.0 and target not in entry.said, value)
        entry.step = step + 1
        return Fate(tuple(parts), bool(outcomes.needed()))


def _entry_of(step: int, known: Known) -> TargetEntry:
    """A request of one candidate of which this is known."""
    said = {t: {0: Outcome(0.0, happened, 1.0)} for t, happened in enumerate(known) if happened is not None}
    return TargetEntry(0.0, size=1, step=step, said=said)

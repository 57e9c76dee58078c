"""What has happened with the candidates of one request, target by target.

The newest action by event time counts. An action of a target implies that its `of` happened too, unless an
action of that one says otherwise: nobody buys what they did not open, and the event that says so may be lost.
"""

from collections.abc import Collection

import msgspec

from stream.join.examples import of_kept
from stream.join.pending import Entry
from stream.join.targets.rules import TargetRules
from stream.records.decoding import Decoder
from stream.records.fast_decoding import splices, thinned
from stream.records.types import Impression, encode


class Outcome(msgspec.Struct, array_like=True, frozen=True, gc=False, order=True):
    """The newest action of one target with one candidate."""

    time: float
    happened: bool  # False: taken back
    label: float  # 1, or a value

    def says(self, other: "Outcome") -> bool:
        """Whether both say the same, at whatever times."""
        return self.happened == other.happened and self.label == other.label


class TargetEntry(Entry, array_like=True, gc=False):
    """One request with several targets.

    It is `decided` once its first target is. It is finished once nothing of it is open: then `original` is
    empty. In between its `original` holds only what is still needed.
    """

    start: float = 0.0  # event time from which the steps are counted
    step: int = 0  # so many are done
    done: int = 0  # the targets that are decided, as bits
    kept: list[int] | None = None  # the candidates that `original` has left; None: all
    said: dict[int, dict[int, Outcome]] = msgspec.field(default_factory=dict)  # target -> candidate ->
    # target -> candidate -> the label with which it was learned, of candidates that have left the sample
    left: dict[int, dict[int, float]] = msgspec.field(default_factory=dict)
    held: int = 0  # bytes that are counted as waiting

    def numbers(self) -> Collection[int]:
        """The candidates that `original` has, without those that are forgotten."""
        kept = range(self.size) if self.kept is None else self.kept
        gone = self.gone
        return [c for at, c in enumerate(kept) if at not in gone] if gone else kept

    def keep(self, needed: list[int], impressions: Decoder[Impression]) -> None:
        """Keep only some of the candidates.

        Args:
            impressions: decodes `original`.
        """
        at = needed if self.kept is None else [self.kept.index(c) for c in needed]
        if splices(self.original):
            self.original = thinned(self.original, at)
        else:
            kept = of_kept(impressions.decode_again(self.original), at)
            plain = msgspec.structs.replace(
                kept, labels=None, outcomes=None, shown=None, place=None, propensity=None
            )
            self.original = encode(plain)
        self.kept, self.gone = needed, None
        left = set(needed)
        for target, said in self.said.items():
            if not left.issuperset(said):
                self.said[target] = {c: outcome for c, outcome in said.items() if c in left}

    def is_whole(self) -> bool:
        """Whether `original` has all candidates, as they were shown, and can be copied into an example."""
        return self.exposed is None and self.kept is None and splices(self.original)

    def is_quiet(self) -> bool:
        """Whether all candidates are there, and nothing is known to have happened with any."""
        return not self.said and not self.gone and self.is_whole()

    def is_plain(self) -> bool:
        """Whether all candidates that are there count as shown, and can be copied into an example."""
        return self.exposed is None and not self.gone and splices(self.original)

    def is_done(self, target: int) -> bool:
        """Whether a target is decided."""
        return bool(self.done >> target & 1)


class Outcomes:
    """What an entry says happened.

    Args:
        shown: the candidates that were shown; None: all of them.
    """

    def __init__(self, rules: TargetRules, entry: TargetEntry, shown: Collection[int] | None = None) -> None:
        self._rules = rules
        self._entry = entry
        self._said = entry.said
        self._shown = shown
        self._every: list[int] | None = None  # see `_acted`

    def happened(self, target: int, candidate: int) -> bool:
        """Whether a target happened, as far as is known or implied."""
        said = self._said.get(target)
        if said is not None and (outcome := said.get(candidate)) is not None:
            return outcome.happened
        children = self._rules.children[target]
        return bool(children) and any(self.happened(child, candidate) for child in children)

    def has(self, target: int, candidate: int) -> bool:
        """Whether a candidate is in the sample of a target."""
        for of in self._rules.chain[target]:
            if not self.happened(of, candidate):
                return False
        return self._shown is None or candidate in self._shown

    def label(self, target: int, candidate: int) -> float:
        """The label of a candidate of the sample."""
        if not self._rules.is_value[target]:
            return float(self.happened(target, candidate))
        outcome = self._said.get(target, {}).get(candidate)
        return outcome.label if outcome is not None and outcome.happened else 0.0

    def labels(self, target: int) -> dict[int, float]:
        """The labels of a target's sample, by candidate."""
        entry, shown = self._entry, self._shown
        if self._rules.of[target] >= 0:
            return {c: self.label(target, c) for c in self._acted() if self.has(target, c)}
        labels = dict.fromkeys(entry.numbers(), 0.0)
        if shown is not None:
            labels = {c: 0.0 for c in labels if c in shown}
        for candidate in self._acted():
            if candidate in labels:
                labels[candidate] = self.label(target, candidate)
        return labels

    def _acted(self) -> list[int]:
        """The candidates with which anything was done, in order: of all others nothing happened."""
        if self._every is None:
            said, gone = self._said, self._entry.gone
            every: set[int] = set()
            for candidates in said.values():
                every.update(candidates)
            self._every = sorted(every)
            if gone:
                left = self._entry.numbers()
                self._every = [c for c in self._every if c in left]
        return self._every

    def taught(self, candidate: int) -> dict[int, float]:
        """By target that is decided: the label with which this candidate was learned."""
        entry = self._entry
        return {
            target: self.label(target, candidate)
            for target in self._rules.order
            if entry.is_done(target) and self.has(target, candidate)
        }

    def touched(self) -> set[int]:
        """The candidates with which something happened."""
        every = {candidate for said in self._said.values() for candidate in said}
        roots = [target for target, of in enumerate(self._rules.of) if of < 0]
        return {c for c in every if any(self.happened(target, c) for target in roots)}

    def is_open(self, target: int) -> bool:
        """Whether what happens of a target still counts."""
        return self._entry.step <= self._rules.closes_at[target]

    def counts(self, target: int, candidate: int) -> bool:
        """Whether an action still counts: its target is open, and its `of` happened or still may."""
        of = self._rules.of[target]
        if not self.is_open(target):
            return False
        return of < 0 or self.happened(of, candidate) or self.counts(of, candidate)

    def needed(self) -> list[int]:
        """The candidates of which something is still open."""
        step = self._entry.step
        if step <= self._rules.roots_close_at:
            return list(self._entry.numbers())
        open_ones = self._rules.open_at[step] if step < len(self._rules.open_at) else ()
        if not open_ones or not self._said:
            return []
        found = []
        for candidate in self._acted():
            for target in open_ones:
                if self._waits(target, candidate):
                    found.append(candidate)
                    break
        return found

    def _waits(self, target: int, candidate: int) -> bool:
        """Whether a candidate is in a target's sample, or still may come into it."""
        of = self._rules.of[target]
        return self.has(target, candidate) or (self.is_open(of) and self._waits(of, candidate))

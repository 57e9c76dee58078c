"""Decided requests become examples: all candidates that were shown, or all clicks and a share of the rest."""

import math
from collections.abc import Collection
from typing import NamedTuple

import msgspec
import xxhash

from stream.join.exposures import seen, settled
from stream.join.pending import Entry, Reaction
from stream.join.settings import JoinCounts, JoinSettings
from stream.records.decoding import Decoder
from stream.records.fast_decoding import splice, splice_some, splices
from stream.records.types import Action, Example, Impression, Served, encode, picked


class Aim(NamedTuple):
    """The target that an example is of, as far as an example depends on it."""

    name: str = ""  # as the example has it; empty: the primary one
    root: bool = True  # learned among all candidates that were shown
    value: bool = False


class Amended(NamedTuple):
    """A label that was learned, if it was, and the one that is to be learned."""

    before: float | None
    after: float


PRIMARY_AIM = Aim()


class ExampleMaker:
    """Builds the examples of one partition.

    Args:
        impressions: decodes the impressions that entries hold.
    """

    def __init__(self, settings: JoinSettings, impressions: Decoder[Impression]) -> None:
        self._impressions = impressions
        self._rate = settings.negative_rate
        self._log_odds = math.log(settings.negative_rate)
        self._seed = settings.seed & 0xFFFFFFFFFFFFFFFF

    def make(
        self, entry: Entry, decided: float, impression: Impression | None, counts: JoinCounts
    ) -> bytes | None:
        """The example of a request that is decided now, as bytes; None: no candidate is kept.

        Args:
            impression: the entry's, if it has been decoded already.
            counts: to count into.
        """
        original = entry.original
        if entry.exposed is not None:
            return self._make_of_shown(entry, decided, impression, counts)
        if impression is None and self._rate == 1.0 and not entry.gone and splices(original):
            all_labels = [0.0] * entry.size
            for i, reaction in entry.reactions.items():
                all_labels[i] = reaction.label
            return self.copy(original, all_labels, decided, counts)
        labels = dict.fromkeys(range(entry.size), 0.0)
        for i, reaction in entry.reactions.items():
            labels[i] = reaction.label
        for gone in entry.gone or ():
            del labels[gone]
        impression = impression or self._impressions.decode_again(original)
        return self.encode(impression, labels, decided, False, counts)

    def copy(self, original: bytes, labels: list[float], decided: float, counts: JoinCounts) -> bytes:
        """The example of all candidates of an impression that `splices`, whose bytes are copied."""
        _count(labels, counts)
        return splice(original, labels, decided)

    def copy_some(
        self, original: bytes, labels: dict[int, float], decided: float, counts: JoinCounts, aim: Aim
    ) -> bytes:
        """The example of a further target, of an impression that `splices`: see `splice_some`."""
        _count(list(labels.values()), counts)
        return splice_some(original, labels, decided, aim.name)

    def make_late(
        self, entry: Entry, action: Action, before: Reaction | None, decided: float, counts: JoinCounts
    ) -> bytes | None:
        """An example of the one candidate of an action that came after its request was decided.

        None: nothing was learned of it and nothing is now, or it was learned with the same label.

        Args:
            before: the candidate's reaction until then.
        """
        candidate = action.candidate
        learned: float | None = 0.0 if before is None else before.label
        impression = self._impressions.decode_again(entry.original)
        if entry.exposed is not None:
            clicked = {i for i, reaction in entry.reactions.items() if reaction.label} - {candidate}
            if not learned and candidate not in seen(impression, entry.exposed, clicked).candidates:
                learned = None
            impression = self.laid_out(entry, impression, counts)
            assert impression.shown is not None
            if candidate not in impression.shown:
                counts.unshown += 1
                return None
        return self.amend(impression, candidate, Amended(learned, action.label), decided, counts)

    def amend(
        self,
        impression: Impression,
        candidate: int,
        labels: Amended,
        decided: float,
        counts: JoinCounts,
        aim: Aim = PRIMARY_AIM,
    ) -> bytes | None:
        """What is to be learned of a candidate whose label has changed; None: nothing.

        Args:
            candidate: its place among the impression's candidates.
            aim: the target that the labels are of.
        """
        before, after = labels
        if before == 0.0 and self._thins(aim) and not self._keeps(impression.request_id, candidate):
            before = None  # that negative was left out
        if before is None:
            return self.encode(impression, {candidate: after}, decided, True, counts, aim)
        if before == after:
            return None
        counts.corrections += 1
        return self.encode(impression, {candidate: after}, decided, True, counts, aim, [before])

    def _make_of_shown(
        self, entry: Entry, decided: float, impression: Impression | None, counts: JoinCounts
    ) -> bytes | None:
        """`make` for a request of which somebody said what was shown."""
        impression = self.laid_out(
            entry, impression or self._impressions.decode_again(entry.original), counts
        )
        assert impression.shown is not None
        gone = entry.gone or ()
        labels = {candidate: 0.0 for candidate in sorted(impression.shown) if candidate not in gone}
        for candidate in labels:
            if (reaction := entry.reactions.get(candidate)) is not None:
                labels[candidate] = reaction.label
        counts.exposed += 1
        counts.unshown += entry.size - len(set(impression.shown).union(gone))
        if not labels:
            counts.emptied += 1
            return None
        return self.encode(impression, labels, decided, False, counts)

    def laid_out(
        self,
        entry: Entry,
        impression: Impression,
        counts: JoinCounts,
        clicked: Collection[int] | None = None,
    ) -> Impression:
        """The impression with what counts as shown, and the places of that, which the entry notes as learned.

        Propensities are of the order that was drawn, so they are dropped where it was shown otherwise.

        Args:
            clicked: the candidates with which something happened; None: as the entry's reactions say.
        """
        assert entry.exposed is not None
        if clicked is None:
            clicked = {candidate for candidate, reaction in entry.reactions.items() if reaction.label}
        found = seen(impression, entry.exposed, clicked)
        entry.exposed = settled(entry.exposed, found)
        if not entry.decided:  # else it was counted then, or is a late action
            counts.shown_by_click += found.by_click
        place = [0] * entry.size
        for at, candidate in enumerate(found.candidates):
            place[candidate] = at
        drawn = impression.place or range(entry.size)
        as_drawn = not found.by_click and all(drawn[c] == place[c] for c in found.candidates)
        return msgspec.structs.replace(
            impression,
            shown=found.candidates,
            place=place,
            propensity=impression.propensity if as_drawn else None,
        )

    def encode(
        self,
        impression: Impression,
        labels: dict[int, float],
        decided: float,
        late: bool,
        counts: JoinCounts,
        aim: Aim = PRIMARY_AIM,
        before: list[float] | None = None,
    ) -> bytes | None:
        """The example of the candidates in `labels`, without dropped negatives; None: all are dropped.

        Args:
            aim: the target that the labels are of.
            before: their labels as they were learned before, all of which are kept.
        """
        kept, size, thins = list(labels), len(impression.candidates), self._thins(aim)
        if thins and before is None:
            kept = [i for i, label in labels.items() if label or self._keeps(impression.request_id, i)]
            counts.subsampled += len(labels) - len(kept)
            if not kept:
                counts.emptied += 1
                return None
        shown = impression
        if len(kept) < len(impression.candidates):
            shown = of_kept(impression, kept)
            labels = {i: labels[i] for i in kept}
        kept_labels = list(labels.values())
        _count(kept_labels, counts)
        example = Example(
            shown.request_id,
            shown.time,
            decided,
            shown.candidates,
            kept_labels,
            shown.context,
            _served(shown.served, aim.name),
            self._log_odds if thins else 0.0,
            late,
            shown.place if aim.root else None,
            shown.propensity if aim.root else None,
            candidate_count=size if aim.root and impression.shown is not None else 0,
            target=aim.name,
            weight=_weights(shown),
            before=before,
        )
        return encode(example)

    def _thins(self, aim: Aim) -> bool:
        """Whether only a share of a target's negatives is kept."""
        return self._rate < 1.0 and aim.root and not aim.value

    def _keeps(self, request_id: str, candidate: int) -> bool:
        """Whether a negative candidate is kept; every rerun decides the same."""
        name = candidate.to_bytes(4, "big") + request_id.encode()
        return xxhash.xxh3_64_intdigest(name, self._seed) < self._rate * 2.0**64


def _count(labels: list[float], counts: JoinCounts) -> None:
    negatives = labels.count(0.0)
    counts.examples += 1
    counts.positives += len(labels) - negatives
    counts.negatives += negatives


def of_kept(impression: Impression, kept: list[int]) -> Impression:
    """An impression of the candidates that are kept."""
    return msgspec.structs.replace(
        impression,
        candidates=[impression.candidates[i] for i in kept],
        served=None if impression.served is None else impression.served.picked(kept),
        place=picked(impression.place, kept),
        propensity=picked(impression.propensity, kept),
        weight=picked(impression.weight, kept) if isinstance(impression.weight, list) else impression.weight,
    )


def _weights(impression: Impression) -> list[float] | None:
    """The weight of each candidate, if anything is said of it."""
    weight = impression.weight
    return [weight] * len(impression.candidates) if isinstance(weight, int | float) else weight


def _served(served: Served | None, target: str) -> Served | None:
    """What was answered for one target."""
    if served is None or (not target and not served.targets):
        return served
    if not target:
        return msgspec.structs.replace(served, targets={})
    answered = served.targets.get(target)
    if answered is None:
        return None
    return Served(answered.base, answered.corrected, served.model, filled=served.filled)

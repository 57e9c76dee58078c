"""Decided requests become examples: all candidates that were shown, or all clicks and a share of the rest."""

import math

import msgspec
import xxhash

from stream.join.exposures import seen
from stream.join.pending import Entry
from stream.join.settings import JoinCounts, JoinSettings
from stream.records.decoding import Decoder
from stream.records.fast_decoding import splice, splices
from stream.records.types import Action, Example, Impression, encode, picked


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
            _count(all_labels, counts)
            return splice(original, all_labels, decided)
        labels = dict.fromkeys(range(entry.size), 0.0)
        for i, reaction in entry.reactions.items():
            labels[i] = reaction.label
        for gone in entry.gone or ():
            del labels[gone]
        impression = impression or self._impressions.decode_again(original)
        return self._encode(impression, labels, decided, False, counts)

    def make_late(self, entry: Entry, action: Action, decided: float, counts: JoinCounts) -> bytes | None:
        """An example of the one candidate of an action that came after its request was decided.

        None: it is not kept, or takes a click back that was the only sign that the candidate was shown.
        """
        impression = self._impressions.decode_again(entry.original)
        if entry.exposed is not None:
            impression = self._laid_out(entry, impression, counts)
            assert impression.shown is not None
            if action.candidate not in impression.shown:
                counts.unshown += 1
                return None
        return self._encode(impression, {action.candidate: action.label}, decided, True, counts)

    def _make_of_shown(
        self, entry: Entry, decided: float, impression: Impression | None, counts: JoinCounts
    ) -> bytes | None:
        """`make` for a request of which somebody said what was shown."""
        impression = self._laid_out(
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
        return self._encode(impression, labels, decided, False, counts)

    def _laid_out(self, entry: Entry, impression: Impression, counts: JoinCounts) -> Impression:
        """The impression with what counts as shown, and the places of that.

        Propensities are of the order that was drawn, so they are dropped where it was shown otherwise.
        """
        assert entry.exposed is not None
        clicked = {candidate for candidate, reaction in entry.reactions.items() if reaction.label}
        found = seen(impression, entry.exposed, clicked)
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

    def _encode(
        self, impression: Impression, labels: dict[int, float], decided: float, late: bool, counts: JoinCounts
    ) -> bytes | None:
        """The example of the candidates in `labels`, without dropped negatives; None: all are dropped."""
        kept, size = list(labels), len(impression.candidates)
        if self._rate < 1.0:
            kept = [i for i, label in labels.items() if label or self._keeps(impression.request_id, i)]
            counts.subsampled += len(labels) - len(kept)
            if not kept:
                counts.emptied += 1
                return None
        shown = impression
        if len(kept) < len(impression.candidates):
            shown = _of_kept(impression, kept)
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
            shown.served,
            self._log_odds,
            late,
            shown.place,
            shown.propensity,
            candidate_count=0 if impression.shown is None else size,
        )
        return encode(example)

    def _keeps(self, request_id: str, candidate: int) -> bool:
        """Whether a negative candidate is kept; every rerun decides the same."""
        name = candidate.to_bytes(4, "big") + request_id.encode()
        return xxhash.xxh3_64_intdigest(name, self._seed) < self._rate * 2.0**64


def _count(labels: list[float], counts: JoinCounts) -> None:
    negatives = labels.count(0.0)
    counts.examples += 1
    counts.positives += len(labels) - negatives
    counts.negatives += negatives


def _of_kept(impression: Impression, kept: list[int]) -> Impression:
    """An impression of the candidates that are kept."""
    return msgspec.structs.replace(
        impression,
        candidates=[impression.candidates[i] for i in kept],
        served=None if impression.served is None else impression.served.picked(kept),
        place=picked(impression.place, kept),
        propensity=picked(impression.propensity, kept),
    )

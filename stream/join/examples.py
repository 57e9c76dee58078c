"""Decided requests become examples: all of their candidates, or all clicks and a share of the rest."""

import math

import msgspec
import xxhash

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
        """The example of a request that is decided now, as bytes; None: nothing of it is kept.

        Args:
            impression: the entry's, where it has been decoded.
            counts: counted into.
        """
        original = entry.original
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
        """An example of the one candidate of an action that came after its request was decided."""
        impression = self._impressions.decode_again(entry.original)
        return self._encode(impression, {action.candidate: action.label}, decided, True, counts)

    def _encode(
        self, impression: Impression, labels: dict[int, float], decided: float, late: bool, counts: JoinCounts
    ) -> bytes | None:
        """An example of the candidates in `labels`, less the negatives that are not kept; None: of none."""
        kept = list(labels)
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
        )
        return encode(example)

    def _keeps(self, request_id: str, candidate: int) -> bool:
        """Whether a candidate is kept if it is a negative: a choice that every rerun repeats."""
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

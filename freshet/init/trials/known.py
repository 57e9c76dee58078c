"""Histories and rates on trial: kept if the whole model gains by them on the first lines."""

from collections import Counter
from collections.abc import Callable, Sequence

from freshet.config import Config
from freshet.decide.gains import Gain, Gains
from freshet.init.trials.offers import Keepers, Offer, history_offers, rate_offers
from learner.settings import LearnerSettings
from stream.records.types import Example

KNOWN_LINES = 60_000
"""So many, since a network needs tens of thousands of lines until it knows whose histories are alike."""

SURE_OF_SOME = 2.8
"""By how many standard errors the best of some windows must be better: Student's t of 19 degrees of freedom
at 97.5 % for all of `WINDOWS_TRIED` together (Bonferroni)."""

More = list[tuple[str, list[str]]]
"""Features beside those of columns: names, and their lines in the config."""


def known_that_gains(
    keepers: Keepers, taken: Sequence[str], examples: Sequence[Example], config_of: Callable[[More], Config]
) -> More:
    """The histories and the rate that gain something, each beside those before it.

    The deep part learns too: it is what reads the items of a history, and beside it a rate over a short
    window adds little but noise.

    Args:
        taken: names that they may not have.
        examples: in any order.
        config_of: the config with some of them.

    Raises:
        FreshetError: the examples do not fit the config.
    """
    examples = sorted(examples, key=lambda example: example.time)
    whole = Gains(lambda _: examples, LearnerSettings().deep)
    kept: More = []

    def of(offer: Offer) -> Gain | None:
        return whole.of(config_of(kept), config_of([*kept, (offer.name, offer.lines)]))

    for offer in history_offers(keepers):
        gain = None if offer.name in taken else of(offer)
        if gain is not None and gain.sure:
            kept.append(_with_reason(offer, gain))
    windows = _windows(keepers.item, examples)
    if windows and windows[0].name not in taken:
        found = [(gain, offer) for offer in windows if (gain := of(offer)) is not None]
        if found:
            gain, best = max(found, key=lambda one: one[0].errors)
            if gain.sure and gain.errors >= SURE_OF_SOME:
                kept.append(_with_reason(best, gain))
    return kept


def _windows(item: str, examples: Sequence[Example]) -> list[Offer]:
    values = (
        str(value)
        for example in examples
        for candidate in example.candidates
        if item and (value := candidate.get(item, example.context.get(item))) is not None
    )
    return rate_offers(item, [example.time for example in examples], Counter(values))


def _with_reason(offer: Offer, gain: Gain) -> tuple[str, list[str]]:
    return offer.name, [line.replace("{why}", f"{offer.why}: {gain}") for line in offer.lines]

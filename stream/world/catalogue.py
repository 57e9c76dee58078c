"""The items of a simulated world: what is on show, how often each is shown, and what is true of it.

Places in the catalogue stay, items come and go: a new item takes the place of the oldest. Where so
configured, many arrive at once (a burst), or a few are all the rage for a while (a spike).
"""

import math

import numpy as np
import numpy.typing as npt

from stream.records.types import Value
from stream.world.settings import WorldSettings
from stream.world.titles import Titles

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_QUALITY_SD = 0.55  # on the logit scale, as all that follows
_NOVELTY = 0.4  # of an item just arrived; halves with `item_half_life_h`
_ATTRIBUTE_SD = 0.3  # of the first attribute's effect; the fifth's is half of it
_ATTRIBUTE_VALUES = 20
_SPIKE_ITEMS, _SPIKE_EXPOSURE, _SPIKE_LOGIT = 5, 30.0, 1.5
_ITEM_ZIPF = 0.7
_AGES = ((120.0, "new"), (600.0, "minutes"), (3600.0, "hour"), (86_400.0, "day"), (math.inf, "old"))


class Catalogue:
    """The items at one moment of event time, as `weigh` has last seen them.

    Args:
        settings: the world's.
        rng: for what every world has.
        regime_rng: for what only some have: attributes, titles, spikes. The world draws from it too.
    """

    exposure: Floats
    """(items,), cumulative: the share of what is shown that falls on this place or one before."""

    logit: Floats
    """(items,), the part of the click logit that depends on the item and its category alone."""

    features: list[dict[str, Value]]
    """Of each item."""

    def __init__(
        self, settings: WorldSettings, rng: np.random.Generator, regime_rng: np.random.Generator
    ) -> None:
        self._settings = s = settings
        self._rng = rng
        self._regime_rng = regime_rng
        self._item = np.arange(s.items)
        self._next_item = s.items
        self._arrivals = 0.0
        self.category = rng.integers(0, s.categories, s.items)  # (items,)
        self._quality = rng.normal(0.0, _QUALITY_SD, s.items)
        sd = _ATTRIBUTE_SD / (1.0 + np.arange(s.attributes) / 4.0)
        self._effects = regime_rng.normal(0.0, sd, (_ATTRIBUTE_VALUES, s.attributes))
        self._attributes = regime_rng.integers(0, _ATTRIBUTE_VALUES, (s.items, s.attributes))
        self._titles = Titles(s.title_words, regime_rng) if s.title_words else None
        self._title = np.zeros((s.items, s.title_words), dtype=np.int64)
        self._text = [""] * s.items
        self._appeal = (1.0 + rng.permutation(s.items)) ** -_ITEM_ZIPF
        # Ages as if the world had run before: evenly spread over the time that replaces every item once.
        turnover_s = s.items / s.new_items_per_h * 3600.0 if s.new_items_per_h else 0.0
        self._born = s.start_time - np.sort(rng.uniform(0.0, turnover_s, s.items))[::-1]
        self._entitle(np.arange(s.items))
        self._oldest = 0
        self._next_burst = s.start_time + (s.burst_every_s or math.inf)
        self._next_spike = s.start_time + (s.spike_every_s or math.inf)
        self._spike_ends = -math.inf
        self._spiking: Ints = np.zeros(0, dtype=np.int64)  # places of the items that are all the rage

    def arrive(self, time: float, elapsed_s: float) -> None:
        """Replace the oldest items by new ones, at the configured rate, for the time since the last call."""
        s = self._settings
        self._arrivals += s.new_items_per_h * elapsed_s / 3600.0
        count = min(int(self._arrivals), s.items)
        self._arrivals -= int(self._arrivals)
        if count:
            self._replace(count, time)

    def burst_and_spike(self, time: float) -> None:
        """Bursts and spikes that are due; after a long silence one stands for all that it hid."""
        s = self._settings
        if time >= self._next_burst:
            self._next_burst += s.burst_every_s * (1 + (time - self._next_burst) // s.burst_every_s)
            self._replace(max(int(s.items * s.burst_share), 1), time)
        if time >= self._next_spike:
            self._next_spike += s.spike_every_s * (1 + (time - self._next_spike) // s.spike_every_s)
            self._spiking = self._regime_rng.permutation(s.items)[:_SPIKE_ITEMS]
            self._spike_ends = time + s.spike_s
        elif time >= self._spike_ends:
            self._spiking = self._spiking[:0]

    def weigh(self, time: float, bias: float, popularity: Floats) -> None:
        """Bring exposure, logits and features to a moment.

        Args:
            time: event time.
            bias: what every logit begins with.
            popularity: (categories,), what a category adds to it.
        """
        s = self._settings
        age_s = time - self._born
        fresh = 0.5 ** (age_s / (s.item_half_life_h * 3600.0))
        weight = self._appeal * np.maximum(fresh, 1e-3)
        weight[self._spiking] = np.maximum(weight[self._spiking], weight.mean()) * _SPIKE_EXPOSURE
        self.exposure = np.cumsum(weight) / weight.sum()
        self.logit = bias + self._quality + _NOVELTY * fresh + popularity[self.category]
        self.logit += self._effects[self._attributes, np.arange(s.attributes)].sum(axis=1)
        if self._titles is not None:
            self.logit += self._titles.worth(self._title)
        self.logit[self._spiking] += _SPIKE_LOGIT
        ages = np.searchsorted([limit for limit, _ in _AGES], age_s, side="right").tolist()
        names = [name for _, name in _AGES]
        self.features = [
            {"item": item, "category": f"c{category}", "age": names[age]}
            for item, category, age in zip(self._item.tolist(), self.category.tolist(), ages, strict=True)
        ]
        if s.title_words:
            for features, text in zip(self.features, self._text, strict=True):
                features["title"] = text
        if s.attributes:
            for features, values in zip(self.features, self._attributes.tolist(), strict=True):
                features.update({f"attr{j}": value for j, value in enumerate(values)})

    def slate(self, chance: Floats) -> Ints:
        """Distinct places of items, (slate,), drawn by exposure.

        Args:
            chance: (twice the slate,) uniform.
        """
        s = self._settings
        drawn = np.searchsorted(self.exposure, chance)
        shown = list(dict.fromkeys(drawn.tolist()))[: s.slate]
        if len(shown) < s.slate or max(shown) >= s.items:
            # Few items, or most exposure on a few: fill up with those next in place, round the catalogue.
            taken = {place for place in shown if place < s.items}
            place = int(chance[0] * s.items)
            while len(taken) < s.slate:
                taken.add(place)
                place = (place + 1) % s.items
            shown = list(taken)
        return np.array(shown, dtype=np.int64)

    def _replace(self, count: int, time: float) -> None:
        s, rng = self._settings, self._rng
        at = (self._oldest + np.arange(count)) % s.items
        self._oldest = (self._oldest + count) % s.items
        self._item[at] = self._next_item + np.arange(count)
        self._next_item += count
        self.category[at] = rng.integers(0, s.categories, count)
        self._quality[at] = rng.normal(0.0, _QUALITY_SD, count)
        self._attributes[at] = self._regime_rng.integers(0, _ATTRIBUTE_VALUES, (count, s.attributes))
        self._born[at] = time
        self._entitle(at)

    def _entitle(self, places: Ints) -> None:
        """Give the items at these places new titles."""
        if self._titles is not None:
            self._title[places] = self._titles.draw(len(places))
            for place in places.tolist():
                self._text[place] = self._titles.text(self._title[place])

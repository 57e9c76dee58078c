"""Titles of the items of a simulated world: a few words each, of which some promise a better item."""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_SYLLABLES = ("ba", "do", "fi", "ga", "ku", "li", "mo", "ne", "pa", "ru", "sa", "ti", "vo", "wa", "ze")
_EFFECT_SD = 0.8  # of the logit that a whole title adds


class Titles:
    """Draws titles, and says what they are worth.

    Args:
        words: of a title.
        rng: draws the words' effects, and titles.
    """

    def __init__(self, words: int, rng: np.random.Generator) -> None:
        self._words = words
        self._rng = rng
        self._effects = rng.normal(0.0, _EFFECT_SD / math.sqrt(max(words, 1)), len(_SYLLABLES) ** 2)

    def draw(self, count: int) -> Ints:
        """New titles, (count, words): numbers of their words."""
        return self._rng.integers(0, len(self._effects), (count, self._words))

    def worth(self, titles: Ints) -> Floats:
        """What titles (n, words) add to the logit of their items, (n,)."""
        worth: Floats = self._effects[titles].sum(axis=1)
        return worth

    def text(self, title: Ints) -> str:
        """A title (words,) as its reader sees it."""
        size = len(_SYLLABLES)
        return " ".join(_SYLLABLES[word // size] + _SYLLABLES[word % size] for word in title.tolist())

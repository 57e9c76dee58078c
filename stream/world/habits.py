"""What people of a simulated world clicked last: they are drawn to its categories for a while."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_NEWEST = 0.5  # share of the newest click; of those before it half is left


class Habits:
    """How much each person is drawn to each category by their own clicks.

    Args:
        strength: what is added to the logit of a category that somebody clicked all the last times.
        half_life_s: of what clicks add, event time.
        shape: (people, categories).
    """

    def __init__(self, strength: float, half_life_s: float, shape: tuple[int, int]) -> None:
        self._strength = strength
        self._half_life_s = half_life_s
        self._drawn = np.zeros(shape)  # shares, at most 1 together, as of `_at`
        self._at = np.zeros(shape[0])

    def logit(self, person: int, time: float) -> Floats:
        """What is added to the logit of each category, (categories,); moves the person's clock to `time`."""
        mine = self._drawn[person]
        mine *= 0.5 ** (max(time - self._at[person], 0.0) / self._half_life_s)
        self._at[person] = max(time, self._at[person])
        return self._strength * mine

    def clicked(self, person: int, categories: Ints) -> None:
        """Note clicks, one for each entry of `categories`, at the time of the last call of `logit`."""
        for category in categories.tolist():
            self._drawn[person] *= 1.0 - _NEWEST
            self._drawn[person, category] += _NEWEST

    def leave(self, people: Ints) -> None:
        """Others have come in the place of these people."""
        self._drawn[people] = 0.0

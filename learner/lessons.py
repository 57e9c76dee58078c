"""What rows are learned from: their labels, and how each of them counts."""

from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt


class Lessons(NamedTuple):
    """What n rows are learned from. All arrays have shape (n,)."""

    y: npt.NDArray[np.float64]  # labels: 0 or 1, or numbers on the scale of a target of kind value
    shift: npt.NDArray[np.float64]  # added to the logit: minus the log-odds of thinned negatives
    weight: npt.NDArray[np.float64]  # factor on the log likelihood; 0: predicted and not learned
    before: npt.NDArray[np.float64]  # the label that the row was learned with before; NaN: it was not
    target: npt.NDArray[np.int32]  # the number of the row's target
    noise: npt.NDArray[np.float64]  # of a value, for the deep part: variance around its prediction; else 0

    @property
    def quiet(self) -> npt.NDArray[np.bool_]:
        """Rows that are no sighting of their ids, (n,): they have no weight, or were counted before."""
        return (self.weight == 0.0) | ~np.isnan(self.before)

    def part(self, first: int, last: int) -> "Lessons":
        """Rows first to last (exclusive), as views."""
        return Lessons._make(array[first:last] for array in self)

    @classmethod
    def plain(cls, y: npt.NDArray[np.float64]) -> Self:
        """Lessons of labels y (n,) of the first target, each learned once, without negatives left out."""
        n = len(y)
        return cls(y, np.zeros(n), np.ones(n), np.full(n, np.nan), np.zeros(n, dtype=np.int32), np.zeros(n))

"""What rows are learned from: their labels, and how each of them counts."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from stream.records.types import Example


class Lessons(NamedTuple):
    """What n rows are learned from. All arrays have shape (n,)."""

    y: npt.NDArray[np.float64]  # labels, 0 or 1
    shift: npt.NDArray[np.float64]  # added to the logit: minus the log-odds of thinned negatives
    weight: npt.NDArray[np.float64]  # factor on the log likelihood; 0: predicted and not learned
    before: npt.NDArray[np.float64]  # the label that the row was learned with before; NaN: it was not

    @property
    def quiet(self) -> npt.NDArray[np.bool_]:
        """Rows that are no sighting of their ids, (n,): they have no weight, or were counted before."""
        return (self.weight == 0.0) | ~np.isnan(self.before)

    def part(self, first: int, last: int) -> "Lessons":
        """Rows first to last (exclusive), as views."""
        return Lessons._make(array[first:last] for array in self)

    @classmethod
    def plain(cls, y: npt.NDArray[np.float64]) -> Self:
        """Lessons of labels y (n,), each learned once, of a stream whose negatives are all there."""
        return cls(y, np.zeros(len(y)), np.ones(len(y)), np.full(len(y), np.nan))

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Self:
        """The lessons of examples, row by row."""
        y = np.array([label for e in examples for label in e.labels], dtype=np.float64)
        lessons = cls.plain(y)
        lessons.shift[:] = np.repeat([-e.log_odds for e in examples], [len(e.labels) for e in examples])
        if any(e.weight is not None for e in examples):
            lessons.weight[:] = [w for e in examples for w in (e.weight or [1.0] * len(e.labels))]
        if any(e.before is not None for e in examples):
            lessons.before[:] = [b for e in examples for b in (e.before or [np.nan] * len(e.labels))]
        return lessons

"""What rows are learned from: their labels, and how each of them counts."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from learner.errors import FeatureError
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Example


class Lessons(NamedTuple):
    """What n rows are learned from. All arrays have shape (n,)."""

    y: npt.NDArray[np.float64]  # labels: 0 or 1, or numbers on the scale of a target of kind value
    shift: npt.NDArray[np.float64]  # added to the logit: minus the log-odds of thinned negatives
    weight: npt.NDArray[np.float64]  # factor on the log likelihood; 0: predicted and not learned
    before: npt.NDArray[np.float64]  # the label that the row was learned with before; NaN: it was not
    target: npt.NDArray[np.int32]  # the number of the row's target
    noise: npt.NDArray[
        np.float64
    ]  # variance of a value around its prediction, for the deep part; 0: an event

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

    @classmethod
    def of(cls, examples: Sequence[Example], targets: Targets = UNDECLARED) -> Self:
        """The lessons of examples, row by row.

        Raises:
            FeatureError: an example is of a target that is not declared, or its labels are none of it.
        """
        y = np.array([label for e in examples for label in e.labels], dtype=np.float64)
        sizes = [len(e.labels) for e in examples]
        lessons = cls.plain(y)
        lessons.shift[:] = np.repeat([-e.log_odds for e in examples], sizes)
        if any(e.weight is not None for e in examples):
            lessons.weight[:] = [w for e in examples for w in (e.weight or [1.0] * len(e.labels))]
        if any(e.before is not None for e in examples):
            lessons.before[:] = [b for e in examples for b in (e.before or [np.nan] * len(e.labels))]
        if any(e.target for e in examples):
            lessons.target[:] = np.repeat([number_of(targets, e.target) for e in examples], sizes)
        lessons.check(targets)
        return lessons

    def check(self, targets: Targets) -> None:
        """Check the labels.

        Raises:
            FeatureError: an event has a label that is neither 0 nor 1.
        """
        is_value = np.array([target.kind == "value" for target in targets.values()])[self.target]
        for labels in (self.y, self.before):
            wrong = ~(is_value | np.isnan(labels)) & (labels != 0.0) & (labels != 1.0)
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                name = targets.names[self.target[row]]
                raise FeatureError(f"target {name} is an event, whose labels are 0 or 1, not {labels[row]:g}")


def number_of(targets: Targets, name: str) -> int:
    """The number of a target; an empty name is the first.

    Raises:
        FeatureError: there is no target of that name.
    """
    if not name:
        return 0
    if name not in targets:
        raise FeatureError(f"target {name!r} is not declared; declared: {', '.join(targets.names)}")
    return targets.names.index(name)

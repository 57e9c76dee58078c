"""Labelled requests: examples as arrays, ready to learn. They can be sent to another process."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ground.rows import Rows, rows_where
from learner.errors import FeatureError
from learner.features.encoder import Batch, Encoder
from learner.lessons import Lessons
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Example

CHUNK_ROWS = 2048
"""The best number of rows per call: large enough to outweigh the cost of calls, small enough to stay in
cache."""


class Labelled(NamedTuple):
    """R requests with n candidates in all, and their labels."""

    batch: Batch
    lessons: Lessons  # of the n candidates
    served: npt.NDArray[np.float64]  # (n,), the probability that was served, or NaN
    late: npt.NDArray[np.bool_]  # (R,)

    @classmethod
    def of(cls, encoder: Encoder, examples: Sequence[Example], targets: Targets = UNDECLARED) -> "Labelled":
        """Encode examples.

        Raises:
            FeatureError: a value does not fit the schema, or a label its target.
        """
        batch = encoder.encode(examples)
        served = [p for e in examples for p in (e.served.base if e.served else [np.nan] * len(e.labels))]
        return cls(
            batch=batch,
            lessons=lessons_of(examples, targets),
            served=np.array(served, dtype=np.float64),
            late=np.array([e.late for e in examples], dtype=np.bool_),
        )

    @property
    def y(self) -> npt.NDArray[np.float64]:
        """The labels, (n,)."""
        return self.lessons.y

    def only(self, target: int) -> "Labelled":
        """The requests of one target."""
        if not (self.lessons.target != target).any():
            return self
        requests, times, rows, numbers = self.batch
        mine = self.lessons.target == target
        kept = mine[requests[:-1]]
        batch = Batch(
            np.concatenate([[0], np.cumsum(np.diff(requests)[kept])]),
            times[kept],
            rows_where(rows, mine),
            numbers[mine],
        )
        lessons = Lessons._make(array[mine] for array in self.lessons)
        return Labelled(batch, lessons, self.served[mine], self.late[kept])

    @property
    def quiet(self) -> npt.NDArray[np.bool_] | None:
        """Candidates that are no sighting of their ids, (n,); None: there are none."""
        quiet = self.lessons.quiet
        return quiet if quiet.any() else None

    @property
    def requests(self) -> int:
        """R."""
        return len(self.late)

    def part(self, first: int, last: int) -> "Labelled":
        """Requests first to last (exclusive), as views where that is possible."""
        requests, times, rows, numbers = self.batch
        a, b = requests[first], requests[last]
        i, j = rows.start[a], rows.start[b]
        batch = Batch(
            requests[first : last + 1] - a,
            times[first:last],
            Rows(rows.start[a : b + 1] - i, rows.column[i:j], rows.key[i:j], rows.x[i:j]),
            numbers[a:b],
        )
        return Labelled(batch, self.lessons.part(a, b), self.served[a:b], self.late[first:last])


def fits(encoder: Encoder, example: Example, targets: Targets = UNDECLARED) -> bool:
    """Whether an example fits the schema and its target."""
    try:
        Labelled.of(encoder, [example], targets)
    except FeatureError:
        return False
    return True


def lessons_of(examples: Sequence[Example], targets: Targets = UNDECLARED) -> Lessons:
    """The lessons of examples, row by row.

    Raises:
        FeatureError: an example is of a target that is not declared, or its labels are none of it.
    """
    y = np.array([label for e in examples for label in e.labels], dtype=np.float64)
    sizes = [len(e.labels) for e in examples]
    lessons = Lessons.plain(y)
    lessons.shift[:] = np.repeat([-e.log_odds for e in examples], sizes)
    if any(e.weight is not None for e in examples):
        lessons.weight[:] = [w for e in examples for w in (e.weight or [1.0] * len(e.labels))]
    if any(e.before is not None for e in examples):
        lessons.before[:] = [b for e in examples for b in (e.before or [np.nan] * len(e.labels))]
    if any(e.target for e in examples):
        lessons.target[:] = np.repeat([number_of(targets, e.target) for e in examples], sizes)
    _check(lessons, targets)
    return lessons


def _check(lessons: Lessons, targets: Targets) -> None:
    """Check the labels.

    Raises:
        FeatureError: an event has a label that is neither 0 nor 1.
    """
    is_value = np.array([target.kind == "value" for target in targets.values()])[lessons.target]
    for labels in (lessons.y, lessons.before):
        wrong = ~(is_value | np.isnan(labels)) & (labels != 0.0) & (labels != 1.0)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            name = targets.names[lessons.target[row]]
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

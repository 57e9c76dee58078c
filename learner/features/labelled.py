"""Labelled requests: examples as arrays, ready to learn. They can be sent to another process."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ground.rows import Rows, joined_offsets, rows_joined, rows_where
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
        return self.where(self.lessons.target[self.batch.requests[:-1]] == target)

    def where(self, kept: npt.NDArray[np.bool_]) -> "Labelled":
        """The requests where `kept` (R,) is true."""
        requests, times, rows, numbers, _ = self.batch
        sizes = np.diff(requests)
        mine = np.repeat(kept, sizes)
        batch = Batch(
            np.concatenate([[0], np.cumsum(sizes[kept])]), times[kept], rows_where(rows, mine), numbers[mine]
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
        requests, times, rows, numbers, _ = self.batch
        a, b = requests[first], requests[last]
        i, j = rows.start[a], rows.start[b]
        batch = Batch(
            requests[first : last + 1] - a,
            times[first:last],
            Rows(rows.start[a : b + 1] - i, rows.column[i:j], rows.key[i:j], rows.x[i:j]),
            numbers[a:b],
        )
        return Labelled(batch, self.lessons.part(a, b), self.served[a:b], self.late[first:last])


def joined(parts: Sequence[Labelled]) -> Labelled:
    """The requests of one or more parts, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    batches = [part.batch for part in parts]
    rows = rows_joined([batch.rows for batch in batches])
    return Labelled(
        Batch(
            joined_offsets([batch.requests for batch in batches]),
            np.concatenate([batch.times for batch in batches]),
            rows,
            np.concatenate([batch.numbers for batch in batches]),
        ),
        Lessons._make(np.concatenate(arrays) for arrays in zip(*(p.lessons for p in parts), strict=True)),
        np.concatenate([part.served for part in parts]),
        np.concatenate([part.late for part in parts]),
    )


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
    if any(targets.clips) and any(e.propensity is not None for e in examples):
        lessons.weight[:] *= [w for e in examples for w in _by_propensity(e, targets)]
    if any(e.before is not None for e in examples):
        lessons.before[:] = [b for e in examples for b in (e.before or [np.nan] * len(e.labels))]
    if any(e.target for e in examples):
        lessons.target[:] = np.repeat([number_of(targets, e.target) for e in examples], sizes)
    _check(lessons, targets)
    return lessons


def _by_propensity(example: Example, targets: Targets) -> list[float]:
    """How much each candidate counts for having been drawn to its place, by inverse propensity scoring.

    By 1 / (n q), q being the probability with which one of n candidates was put where it was shown: in
    expectation each place then counts as often as if all orders had been equally likely.
    """
    clip = targets.clips[number_of(targets, example.target)]
    if not clip or example.propensity is None:
        return [1.0] * len(example.labels)
    n = max(example.candidate_count, len(example.labels))
    return [min(1.0 / (n * q), clip) for q in example.propensity]


def _check(lessons: Lessons, targets: Targets) -> None:
    """Check the labels.

    Raises:
        FeatureError: an event has a label that is neither 0 nor 1.
    """
    for labels in (lessons.y, lessons.before):
        wrong = (labels != 0.0) & (labels != 1.0) & ~np.isnan(labels)
        if np.count_nonzero(wrong):
            wrong &= ~np.array([target.kind == "value" for target in targets.values()])[lessons.target]
        if np.count_nonzero(wrong):
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


def join(batches: Sequence[Batch]) -> Batch:
    """Concatenate several batches."""
    if len(batches) == 1:
        return batches[0]
    rows = [batch.rows for batch in batches]
    return Batch(
        requests=_join_offsets([batch.requests for batch in batches]),
        times=np.concatenate([batch.times for batch in batches]),
        rows=Rows(
            start=_join_offsets([r.start for r in rows]),
            column=np.concatenate([r.column for r in rows]),
            key=np.concatenate([r.key for r in rows]),
            x=np.concatenate([r.x for r in rows]),
        ),
        numbers=np.concatenate([batch.numbers for batch in batches]),
    )


def _join_offsets(parts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    ends = np.cumsum([0] + [part[-1] for part in parts[:-1]])
    return np.concatenate([[0], *(part[1:] + end for part, end in zip(parts, ends, strict=True))])

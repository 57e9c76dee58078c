"""The incomplete group: rows that the fast part has learned and the deep part has not.

The deep part learns from its inputs as of prediction time. So they are kept here unchanged, and saved with
the learner's state.
"""

from typing import NamedTuple, Self

import msgspec
import numpy as np
import numpy.typing as npt

from ground.rows import Rows
from learner.lessons import Lessons

_OF_ENTRIES, _OF_ROWS, _OF_REQUESTS, _OF_ROWS_TOO = slice(2, 7), slice(7, 14), slice(14, 17), slice(17, 24)
"""The fields after the offsets, by their length: one item per entry, row or request."""

_ALWAYS = 17
"""Fields that are always saved. The others are left out where they say nothing, as in states of a Freshet
that did not have them."""

_WITHOUT_CREDIT = 23

_DENSE, _SCALE = 7, 8
"""The two-dimensional fields."""

_LABELS = 12


class PendingRows(NamedTuple):
    """R requests of n rows in order, with the deep part's inputs.

    `known` says whether an entry's id had a row at prediction time. `left` is the entry's posterior over
    prior deviation after the row was learned (`FastOutputs.left`).
    """

    requests: npt.NDArray[np.int64]  # (R + 1,)
    start: npt.NDArray[np.int64]  # (n + 1,)
    column: npt.NDArray[np.int32]  # (E,)
    key: npt.NDArray[np.uint64]  # (E,)
    x: npt.NDArray[np.float32]  # (E,)
    known: npt.NDArray[np.bool_]  # (E,)
    left: npt.NDArray[np.float32]  # (E,)
    dense: npt.NDArray[np.float32]  # (n, d)
    embedding_scale: npt.NDArray[np.float32]  # (n, F), the scale of each embedding
    z: npt.NDArray[np.float64]  # (n,), honest logit of the fast part
    s2: npt.NDArray[np.float64]  # (n,), its variance
    shift: npt.NDArray[np.float64]  # (n,), minus the log-odds of thinned negatives
    y: npt.NDArray[np.float64]  # (n,)
    served: npt.NDArray[np.float64]  # (n,), the probability that was served, or NaN
    group: npt.NDArray[np.uint64]  # (R,), the request's user
    time: npt.NDArray[np.float64]  # (R,), event time
    late: npt.NDArray[np.bool_]  # (R,)
    weight: npt.NDArray[np.float64]  # (n,), see `Lessons`
    before: npt.NDArray[np.float64]  # (n,)
    target: npt.NDArray[np.int32]  # (n,)
    centre: npt.NDArray[np.float64]  # (n,), see `FastOutputs.spread`
    unit: npt.NDArray[np.float64]  # (n,)
    noise: npt.NDArray[np.float64]  # (n,)
    credit: npt.NDArray[np.float64]  # (n,), see `learner.fast.late`

    @property
    def lessons_of_network(self) -> Lessons:
        """`lessons`, with what the deep part is told of negatives that are not known yet."""
        lessons = self.lessons
        if not self.credit.any():
            return lessons
        first = np.isnan(self.before)
        return lessons._replace(
            y=np.where(first, lessons.y + self.credit, lessons.y),
            weight=np.where(first, self.weight, self.weight * (1.0 - self.credit)),
        )

    @property
    def lessons(self) -> Lessons:
        """What the rows are learned from, values in their targets' units."""
        y, before = (self.y - self.centre) / self.unit, (self.before - self.centre) / self.unit
        return Lessons(y, self.shift, self.weight, before, self.target, self.noise)

    @property
    def rows(self) -> Rows:
        """The sparse rows, with pairs and count columns."""
        return Rows(self.start, self.column, self.key, self.x)

    @property
    def n(self) -> int:
        """How many rows wait."""
        return len(self.y)

    @classmethod
    def empty(cls, dense: int, features: int) -> Self:
        """No requests, with `dense` dense inputs per row."""
        return cls(
            requests=np.zeros(1, dtype=np.int64),
            start=np.zeros(1, dtype=np.int64),
            column=np.zeros(0, dtype=np.int32),
            key=np.zeros(0, dtype=np.uint64),
            x=np.zeros(0, dtype=np.float32),
            known=np.zeros(0, dtype=np.bool_),
            left=np.zeros(0, dtype=np.float32),
            dense=np.zeros((0, dense), dtype=np.float32),
            embedding_scale=np.zeros((0, features), dtype=np.float32),
            z=np.zeros(0),
            s2=np.zeros(0),
            shift=np.zeros(0),
            y=np.zeros(0),
            served=np.zeros(0),
            group=np.zeros(0, dtype=np.uint64),
            time=np.zeros(0),
            late=np.zeros(0, dtype=np.bool_),
            weight=np.zeros(0),
            before=np.zeros(0),
            target=np.zeros(0, dtype=np.int32),
            centre=np.zeros(0),
            unit=np.zeros(0),
            noise=np.zeros(0),
            credit=np.zeros(0),
        )

    def joined(self, other: "PendingRows") -> "PendingRows":
        """These requests followed by the other's."""
        if self.n == 0:
            return other
        mine: tuple[npt.NDArray[np.generic], ...] = self
        more: tuple[npt.NDArray[np.generic], ...] = other
        arrays = [list(both) for both in zip(mine, more, strict=True)]
        arrays[0][1] = self.requests[-1] + other.requests[1:]
        arrays[1][1] = self.start[-1] + other.start[1:]
        return PendingRows._make(np.concatenate(both) for both in arrays)

    def part(self, first: int, last: int) -> "PendingRows":
        """Requests first to last (exclusive), as views where that is possible."""
        a, b = self.requests[first], self.requests[last]
        i, j = self.start[a], self.start[b]
        return PendingRows._make(
            [
                self.requests[first : last + 1] - a,
                self.start[a : b + 1] - i,
                *(array[i:j] for array in self[_OF_ENTRIES]),
                *(array[a:b] for array in self[_OF_ROWS]),
                *(array[first:last] for array in self[_OF_REQUESTS]),
                *(array[a:b] for array in self[_OF_ROWS_TOO]),
            ]
        )

    def copy(self) -> "PendingRows":
        """A copy of the arrays."""
        return PendingRows._make(array.copy() for array in self)

    def encode(self) -> bytes:
        """The requests as bytes."""
        plain = bool(
            (self.weight == 1.0).all() and np.isnan(self.before).all() and not self.target.any()
            and not self.noise.any() and not self.credit.any()
        )  # fmt: skip
        saved = _ALWAYS if plain else len(self) if self.credit.any() else _WITHOUT_CREDIT
        arrays: tuple[npt.NDArray[np.generic], ...] = self[:saved]
        widths = [self.dense.shape[1], self.embedding_scale.shape[1]]
        return msgspec.msgpack.encode([*widths, *(array.tobytes() for array in arrays)])

    @staticmethod
    def count(data: bytes) -> int:
        """How many rows wait, by what `encode` gave."""
        return len(msgspec.msgpack.decode(data)[2 + _LABELS]) // 8

    @classmethod
    def decode(cls, data: bytes, like: "PendingRows") -> Self:
        """The inverse of `encode`.

        Raises:
            ValueError: its rows have another width than those of `like`, or its version differs.
        """
        dense, features, *parts = msgspec.msgpack.decode(data)
        if [dense, features] != [like.dense.shape[1], like.embedding_scale.shape[1]]:
            raise ValueError("pending rows have another width or come from another version of Freshet")
        empty: tuple[npt.NDArray[np.generic], ...] = cls.empty(dense, features)
        if len(parts) == _ALWAYS:
            n = len(parts[_LABELS]) // 8
            said: tuple[npt.NDArray[np.generic], ...] = (
                np.ones(n), np.full(n, np.nan), np.zeros(n, dtype=np.int32), np.zeros(n), np.ones(n),
                np.zeros(n),
            )  # fmt: skip
            parts += [array.tobytes() for array in said]
        if len(parts) == _WITHOUT_CREDIT:
            parts.append(np.zeros(len(parts[_LABELS]) // 8).tobytes())
        if len(parts) != len(empty):
            raise ValueError(f"pending rows have {len(parts)} arrays, not {len(empty)}")
        arrays = [
            np.frombuffer(part, dtype=mine.dtype).copy() for part, mine in zip(parts, empty, strict=True)
        ]
        arrays[_DENSE] = arrays[_DENSE].reshape(-1, dense)
        arrays[_SCALE] = arrays[_SCALE].reshape(-1, features)
        return cls._make(arrays)

"""Coverage of the scored requests: ids without a row in the model, and features without a value.

Both are scored with defaults, without an error. Only these counts reveal a misspelt feature name, or ids in
another format than those of the training examples.
"""

import threading
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from learner.fast.part import FastInputs
from learner.features.encoder import Encoder
from learner.features.spec import OF_TIME
from stream.records.types import Features

LISTED_MAX = 100
"""Limit of candidates or names in one list of an answer, so that the size of an answer is bounded."""
NAME_CHARACTERS_MAX = 64

Flags = npt.NDArray[np.bool_]


class FeatureCounts(msgspec.Struct, frozen=True):
    """One feature in the candidates scored since the server began."""

    ids: int  # number of ids looked up; 0 for features without ids
    unknown: int  # number of these ids without a row in the model
    missing: int  # candidates without a value


class Listed(msgspec.Struct, frozen=True):
    """Some candidates of a request: the first by number, and the count of the others."""

    candidates: list[int]
    more: int = 0


class Unknowns(msgspec.Struct, frozen=True):
    """Unknown ids and missing values of one request, by feature; `undeclared` names are ignored."""

    ids: dict[str, Listed]  # candidates with an id that has no row
    missing: dict[str, Listed]  # candidates without a value
    undeclared: list[str]


class Coverage(NamedTuple):
    """Unknown ids and missing values of n candidates and F features."""

    names: Sequence[str]  # (F,)
    unknown: Flags  # (n, F): an id of the candidate has no row
    missing: Flags  # (n, F): the candidate has no value
    taken: Collection[str] = ()  # names of values that are parts of features

    def part(self, first: int, end: int) -> "Coverage":
        """The coverage of candidates `first` to `end` (exclusive)."""
        return Coverage(self.names, self.unknown[first:end], self.missing[first:end], self.taken)

    def of(self, context: Features, candidates: Sequence[Features]) -> Unknowns:
        """The coverage as part of an answer. `self` must have all candidates of the request."""
        sent = {*context, *(name for candidate in candidates for name in candidate)}
        undeclared = _undeclared(sent, {*self.names, *self.taken})
        return Unknowns(self._listed(self.unknown), self._listed(self.missing), undeclared)

    def _listed(self, flags: Flags) -> dict[str, Listed]:
        found = {}
        for column in np.flatnonzero(flags.any(axis=0)).tolist():
            numbers = np.flatnonzero(flags[:, column])
            found[self.names[column]] = Listed(
                numbers[:LISTED_MAX].tolist(), max(len(numbers) - LISTED_MAX, 0)
            )
        return found


class CoverageCounts:
    """Counts over all requests. Thread-safe.

    Args:
        encoder: says which columns the features have.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._names = encoder.features
        self._taken = encoder.parts
        self._feature_of = np.array(encoder.feature_of, dtype=np.int64)  # of each column
        kinds = encoder.kinds
        # sequence ids are not counted (only the deep part uses them); a missing hour comes from the time
        self._ids = np.array([kind in ("id", "ids") for kind in kinds])
        self._may_miss = np.array([kind not in (*OF_TIME, "place") for kind in kinds])
        self._lock = threading.Lock()
        self._totals = np.zeros((3, len(kinds)), dtype=np.int64)

    def count(self, inputs: FastInputs) -> Coverage:
        """Count a predicted batch; returns its coverage."""
        features = len(self._names)
        n = len(inputs.start) - 1
        row = np.repeat(np.arange(n), np.diff(inputs.start))
        own = np.flatnonzero(inputs.column < len(self._feature_of))  # the columns after those are pairs
        row, column = row[own], self._feature_of[inputs.column[own]]
        absent = inputs.place[own] < 0
        missing = np.ones((n, features), dtype=np.bool_)
        missing[row, column] = False
        missing &= self._may_miss
        unknown = np.zeros((n, features), dtype=np.bool_)
        unknown[row[absent], column[absent]] = True
        unknown &= self._ids
        counted = np.stack(
            [
                np.bincount(column, minlength=features) * self._ids,
                np.bincount(column[absent], minlength=features) * self._ids,
                missing.sum(axis=0),
            ]
        )
        with self._lock:
            self._totals += counted
        return Coverage(self._names, unknown, missing, self._taken)

    def totals(self) -> dict[str, FeatureCounts]:
        """By feature, since the server began."""
        with self._lock:
            ids, unknown, missing = self._totals.tolist()
        return {name: FeatureCounts(ids[c], unknown[c], missing[c]) for c, name in enumerate(self._names)}


def _undeclared(sent: Collection[str], declared: Collection[str]) -> list[str]:
    names = sorted(set(sent).difference(declared))[:LISTED_MAX]
    return [name[:NAME_CHARACTERS_MAX] for name in names]

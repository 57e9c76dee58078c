"""Slices of the predictions: the most frequent values of each feature, new and known ids, hours.

A candidate belongs to the slice of each value in a list. An id is *new* in the first request of the data that
has it, and known afterwards.
"""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from freshet.errors import CompareError
from stream.files.record_columns import FeatureColumn, layout_of

Ints = npt.NDArray[np.int64]

VALUES_MAX = 8
EXAMPLES_MIN = 30
NEW_FROM = 50
"""From so many values on, a feature is split into new and known ids too."""


class Slices(NamedTuple):
    """One way to cut the candidates."""

    title: str
    names: list[str]
    of: list[tuple[Ints, Ints]]  # of each of one or more layers: (rows, their slice)

    def layers(self, n: int) -> list[Ints]:
        """For each layer, the slice of each of n candidates; -1: none."""
        found = []
        for rows, which in self.of:
            layer = np.full(n, -1, dtype=np.int64)
            layer[rows] = which
            found.append(layer)
        return found


class PredictionsFile(NamedTuple):
    """The contents of a predictions file: n candidates of R requests."""

    request: Ints  # (n,), from 0
    time: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    base: npt.NDArray[np.float64]
    corrected: npt.NDArray[np.float64]
    path: Path
    columns: list[FeatureColumn]

    @property
    def requests(self) -> int:
        """R."""
        return int(self.request[-1]) + 1 if len(self.request) else 0


def read_predictions(path: Path) -> PredictionsFile:
    """Read a predictions file.

    Raises:
        CompareError: it does not exist, or is not a predictions file.
    """
    import pyarrow
    import pyarrow.parquet

    names = ["candidate", "time", "label", "base", "corrected"]
    try:
        layout = layout_of(pyarrow.parquet.read_schema(path))
        table = pyarrow.parquet.read_table(path, columns=names)
    except FileNotFoundError:
        raise CompareError(
            f"{path}: the predictions are not there; replay again with --predictions"
        ) from None
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise CompareError(f"{path}: the predictions cannot be read: {error}") from None
    if layout is None or any(name not in table.column_names for name in names):
        raise CompareError(f"{path}: holds no predictions; replay with --predictions makes such a file")
    candidate, time, y, base, corrected = (table[name].to_numpy() for name in names)
    request = np.cumsum(candidate == 0) - 1
    return PredictionsFile(request, time, y, base, corrected, path, layout.features)


def make_slices(predicted: PredictionsFile) -> list[Slices]:
    """All cuts; reads one feature at a time."""
    import pyarrow.parquet

    found = [_hours(predicted)]
    for column in predicted.columns:
        if column.kind == "number":
            values = pyarrow.parquet.read_table(predicted.path, columns=[column.column])[column.column]
            found.append(_quarters(column, values.to_numpy()))
            continue
        table = pyarrow.parquet.read_table(predicted.path, columns=[column.column])
        rows, code, words = _codes(column, table[column.column].combine_chunks())
        if not words:
            continue
        found.append(_biggest(column, rows, code, words))
        if len(words) >= NEW_FROM and column.kind in ("int", "uint", "text"):
            found.append(_new_ids(column, predicted.request, rows, code))
    return [slices for slices in found if slices.names]


def _codes(column: FeatureColumn, values: Any) -> tuple[Ints, Ints, list[str]]:
    """For each value: its row and its number among the distinct values; and these as text."""
    import pyarrow.compute

    if column.kind in ("ints", "uints", "texts"):
        rows = pyarrow.compute.list_parent_indices(values).to_numpy().astype(np.int64)
        values = pyarrow.compute.list_flatten(values)
    else:
        rows = np.flatnonzero(pyarrow.compute.is_valid(values).to_numpy(zero_copy_only=False))
        values = values.drop_null()
    coded = pyarrow.compute.dictionary_encode(values)
    return rows, coded.indices.to_numpy().astype(np.int64), [str(v) for v in coded.dictionary.to_pylist()]


def _biggest(column: FeatureColumn, rows: Ints, code: Ints, words: list[str]) -> Slices:
    """The most frequent values; the values of lists overlap, so each gets its own layer."""
    counts = np.bincount(code, minlength=len(words))
    chosen = [int(c) for c in np.argsort(-counts, kind="stable")[:VALUES_MAX] if counts[c] >= EXAMPLES_MIN]
    names = [words[c] for c in chosen]
    title = column.column
    if column.kind in ("ints", "uints", "texts"):
        return Slices(title, names, [(rows[code == c], np.full(counts[c], i)) for i, c in enumerate(chosen)])
    number = np.full(len(words), -1, dtype=np.int64)
    number[chosen] = np.arange(len(chosen))
    return Slices(title, names, [(rows, number[code])])


def _new_ids(column: FeatureColumn, request: Ints, rows: Ints, code: Ints) -> Slices:
    first = np.full(int(code.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, code, request[rows])
    new = request[rows] == first[code]
    return Slices(f"{column.column}, new or known", ["new", "known"], [(rows, (~new).astype(np.int64))])


def _hours(predicted: PredictionsFile) -> Slices:
    hour = (predicted.time // 3600).astype(np.int64) % 24
    return Slices("hour (UTC)", [f"{h:02d}" for h in range(24)], [(np.arange(len(hour)), hour)])


def _quarters(column: FeatureColumn, values: npt.NDArray[np.float64]) -> Slices:
    rows = np.flatnonzero(np.isfinite(values))
    if len(rows) < EXAMPLES_MIN:
        return Slices(column.column, [], [])
    cuts = np.unique(np.quantile(values[rows], [0.25, 0.5, 0.75]))
    edges = [f"{cut:.4g}" for cut in cuts]
    names = [f"up to {edges[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(edges))]
    names.append(f"over {edges[-1]}")
    return Slices(column.column, names, [(rows, np.searchsorted(cuts, values[rows]))])

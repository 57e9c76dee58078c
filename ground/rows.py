"""Sparse rows: the form in which a linear model, and an error memory, reads an example."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Rows(NamedTuple):
    """n rows of (column, key, x) entries, in compressed form; E entries in all.

    One row is one candidate. An entry says: in this row, field `column` has the id `key`, with
    weight `x` (1 for a plain id, less where a list shares its weight among its values). No row
    holds the same (column, key) twice, except for a learner's sequences, which neither the linear
    model nor an error memory reads.
    """

    start: npt.NDArray[np.int64]  # (n + 1,), entries of row i are start[i]:start[i + 1]
    column: npt.NDArray[np.int32]  # (E,)
    key: npt.NDArray[np.uint64]  # (E,)
    x: npt.NDArray[np.float32]  # (E,)

    @property
    def n(self) -> int:
        """How many rows."""
        return len(self.start) - 1


def rows_from_keys(keys: npt.ArrayLike) -> Rows:
    """Rows from a plain (n, k) table of 64-bit keys: column j of the table is field j."""
    table = np.ascontiguousarray(keys, dtype=np.uint64)
    if table.ndim != 2:
        raise ValueError(f"keys must have shape (rows, fields), not {table.shape}")
    n, k = table.shape
    return Rows(
        start=np.arange(n + 1, dtype=np.int64) * k,
        column=np.tile(np.arange(k, dtype=np.int32), n),
        key=table.reshape(-1),
        x=np.ones(n * k, dtype=np.float32),
    )


def rows_where(rows: Rows, keep: npt.NDArray[np.bool_]) -> Rows:
    """The rows where `keep` (n,) is true."""
    sizes = np.diff(rows.start)
    entries = np.repeat(keep, sizes)
    start = np.concatenate([[0], np.cumsum(sizes[keep])])
    return Rows(start, rows.column[entries], rows.key[entries], rows.x[entries])


def rows_at(rows: Rows, places: npt.NDArray[np.int64]) -> Rows:
    """The rows at `places` (m,), in their order."""
    sizes = np.diff(rows.start)[places]
    entries = ranges(rows.start[places], sizes)
    start = np.concatenate([[0], np.cumsum(sizes)])
    return Rows(start, rows.column[entries], rows.key[entries], rows.x[entries])


def rows_joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one part after the other."""
    return Rows(
        joined_offsets([part.start for part in parts]),
        np.concatenate([part.column for part in parts]),
        np.concatenate([part.key for part in parts]),
        np.concatenate([part.x for part in parts]),
    )


def joined_offsets(parts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Offsets (n_i + 1,) that each begin at 0, as those of one list: (Σ n_i + 1,).

    >>> joined_offsets([np.array([0, 2]), np.array([0, 1, 4])])
    array([0, 2, 3, 6])
    """
    return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part) for part in parts]))])


def ranges(starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The numbers from each start on, so many as its size says, one after the other.

    >>> ranges(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    return np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())

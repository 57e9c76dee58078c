"""Sparse rows: the form in which a linear model, and an error memory, reads an example."""

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

"""What candidates attend to, for a prediction whose other inputs are read from the tables in one pass."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embeddings import Table
from embeddings.kernels.pooling import entry_rows
from learner.deep.attention import attend
from learner.deep.networks import Array
from learner.features.encoder import Batch, Encoder
from learner.features.entries import entry_times


class AttendedColumn(NamedTuple):
    """A column of a sequence or history."""

    column: int
    table: Table
    dim: int
    second: int  # where values begin in a row, see `attend`
    at: int  # where it begins among the deep part's inputs


def sequences_of(encoder: Encoder, tables: Sequence[Table]) -> list[AttendedColumn]:
    """The columns of a schema that candidates attend to."""
    starts = np.cumsum([0, *encoder.dims]).tolist()
    return [
        AttendedColumn(c, tables[c], dim := encoder.dims[c], encoder.specs[c].row_dim - dim, starts[c])
        for c in encoder.sequences
    ]


def attend_to_all(
    sequences: Sequence[AttendedColumn], batch: Batch, bias: Callable[[int], Array], x0: Array
) -> None:
    """Write what the candidates of a batch attend to into the deep part's inputs (n, width).

    Args:
        bias: of a column, by the code of an id's age, see `Filler.age_bias`.
    """
    rows = batch.rows
    row, times = entry_rows(rows.start), entry_times(batch.requests, rows.start, batch.times)
    for one in sequences:
        mine = np.flatnonzero(rows.column == one.column)
        slots: npt.NDArray[np.int64] = one.table.find(rows.key[mine], times[mine])
        known = slots >= 0
        vectors, place = one.table.vectors(slots[known]), np.where(known, np.cumsum(known) - 1, -1)
        code = rows.x[mine]
        attend(row[mine], place, vectors, one.dim, one.second, one.at, code, bias(one.column)[0], x0)

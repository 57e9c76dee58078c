"""What several shards have learned in a turn, in the order in which the requests came."""

from collections.abc import Sequence

import numpy as np

from ground.rows import joined_offsets, ranges, rows_at, rows_joined
from learner.shards.owners import Ints
from learner.train.trainer import Learnt

_ROWS = 1  # of `Learnt`: after the offsets


def in_order(parts: Sequence[Learnt], numbers: Ints) -> Learnt:
    """The requests of all parts as one.

    Args:
        numbers: (R,), of the requests, in the order of the parts; each once, from 0 on.
    """
    offsets = joined_offsets([part.requests for part in parts])
    order = np.argsort(numbers)
    sizes = np.diff(offsets)[order]
    places = ranges(offsets[order], sizes)
    rows = rows_joined([part.rows for part in parts])
    columns = zip(*(part[_ROWS + 1 :] for part in parts), strict=True)
    return Learnt(
        np.concatenate([[0], np.cumsum(sizes)]),
        rows_at(rows, places),
        *(np.concatenate(arrays)[places] for arrays in columns),
    )

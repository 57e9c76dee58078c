"""Types that a table returns: its arrays, the block of a batch, a delta, and its counters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Slots = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Lines = npt.NDArray[np.uint32]


class Block(NamedTuple):
    """The distinct ids of a batch, each with its row read once, and the mapping from the n ids to them."""

    slots: Slots  # (m,), distinct; -1 for ids without a row
    inverse: npt.NDArray[np.int64]  # (n,), id i of the batch is number inverse[i]
    vectors: Floats  # (m, dim), zeros for ids without a row


class Delta(NamedTuple):
    """What changed since the last drain, each key once per list. Apply `deleted` first, then `touched`."""

    touched: Keys
    deleted: Keys


class TableStats(NamedTuple):
    """Counters since the table was made."""

    rows: int
    rows_max: int
    bytes: int
    inserted: int
    refused: int  # sightings of ids that are not admitted yet
    full: int  # sightings refused at rows_max
    expired: int
    deleted: int
    evicted: int

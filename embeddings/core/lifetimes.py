"""Count the rows that are alive in event time. A table with a TTL and no eviction is full by this count.

A table's clock is the latest time of a sighting. Rows are counted by their last seen, in cells of 2^shift
seconds: at most 1/512 of the TTL, or one second for a TTL below 17 minutes. When all of a cell has expired
by the clock, its rows leave the count, and only then may a sweep remove them from memory. The first cell
that is still counted is the floor. So the count does not depend on sweeps, and a restored table has the
same count as the saved one: the sightings alone decide which sighting is refused.

Rows below the floor keep their slot until a sweep reaches them; the table has spare slots for them
(`spec.py`). While more rows than `crowded` are in memory, each new row checks SWEPT_PER_ROW slots. No row
survives two rounds of the sweep below the floor, so memory never holds more than the rows alive, the rows
made within two rounds, and the rows of one batch.
"""

from typing import Final

import numpy as np
from numba import njit

from embeddings.core.positions import Ages

CELLS: Final = 2048
"""Cells that are counted separately: twice the cells of one TTL, so that a batch may span a whole TTL."""

SWEPT_PER_ROW: Final = 32
"""Slots that a crowded table checks for each new row."""


def shift_of(ttl_s: int, tick_s: int) -> int:
    """The width of a cell is 2^shift seconds, so that a TTL and a tick span at most CELLS / 2 cells."""
    return max((ttl_s + tick_s).bit_length() - 10, 0)


@njit(cache=True, nogil=True, forceinline=True)
def floor_at(now, rules):
    """The first cell with rows that exist at `now`, Unix seconds."""
    if rules.tick_s > 1:
        now -= now % rules.tick_s
    return max(now - rules.ttl_s, np.int64(0)) >> rules.seen_shift


@njit(cache=True, nogil=True, forceinline=True)
def cell_of(seen, rules):
    """The cell of a row last seen at `seen`, uint32 seconds."""
    return np.int64(seen) >> rules.seen_shift


@njit(cache=True, nogil=True, forceinline=True)
def count_in(alive, ages, seen, rules):
    """Count a row that is now in memory. Its last seen must not be later than the clock."""
    cell = cell_of(seen, rules)
    if cell >= ages[Ages.FLOOR]:
        alive[cell & (CELLS - 1)] += 1
        ages[Ages.HELD] += 1


@njit(cache=True, nogil=True, forceinline=True)
def count_out(alive, ages, seen, rules):
    """Stop counting a row that leaves memory."""
    cell = cell_of(seen, rules)
    if cell >= ages[Ages.FLOOR]:
        alive[cell & (CELLS - 1)] -= 1
        ages[Ages.HELD] -= 1


@njit(cache=True, nogil=True, forceinline=True)
def renew(alive, ages, before, after, rules):
    """Move a row from the cell of its previous last seen to the cell of its new one."""
    if cell_of(before, rules) != cell_of(after, rules):
        count_out(alive, ages, before, rules)
        count_in(alive, ages, after, rules)


@njit(cache=True, nogil=True)
def advance(alive, ages, time, rules):
    """Advance the clock to `time`, int64 seconds, if that is later, and the floor with it."""
    if time <= ages[Ages.NEWEST]:
        return
    ages[Ages.NEWEST] = time
    floor = floor_at(time, rules)
    if floor - ages[Ages.FLOOR] >= CELLS:
        alive[:] = 0
        ages[Ages.HELD] = 0
    else:
        for cell in range(ages[Ages.FLOOR], floor):
            ages[Ages.HELD] -= alive[cell & (CELLS - 1)]
            alive[cell & (CELLS - 1)] = 0
    ages[Ages.FLOOR] = max(floor, ages[Ages.FLOOR])

"""How many rows are alive by event time: what decides that a table with a TTL and no eviction is full.

A table's clock is the latest time of a sighting. Rows are counted by the time at which they were last
seen, in cells of 2^shift seconds: at most 1/512 of the TTL, one second for a TTL below 17 minutes. Once the
clock has passed the TTL of all of a cell, its rows are not counted any more, and only then may a sweep take
them out of memory. So the count is that of the rows in memory which lie above the floor, whether or not a
sweep has come by, and a table that was restored counts what the one before it counted: which sighting is
refused follows from the sightings alone.

Rows below the floor that no sweep has reached take slots, for which a table has some to spare (`spec.py`):
while more rows are in memory than `crowded`, each new row pays for a look at SWEPT_PER_ROW slots. Rows that
a sweep has passed over twice would have been taken out, so there are never more than the rows alive, those
made within two rounds of the sweep, and those of one batch.
"""

from typing import Final

import numpy as np
from numba import njit

from embeddings.core.positions import Ages

CELLS: Final = 2048
"""Cells told apart: twice what one TTL spans, so that a batch which spans a whole TTL fits as well."""

SWEPT_PER_ROW: Final = 32
"""Slots looked at for each row that is made in a crowded table."""


def shift_of(ttl_s: int, tick_s: int) -> int:
    """The width of a cell, as a power of two of seconds: a TTL and a tick span at most CELLS / 2 cells."""
    return max((ttl_s + tick_s).bit_length() - 10, 0)


@njit(cache=True, nogil=True, forceinline=True)
def floor_at(now, rules):
    """The first cell that holds rows which exist at `now`, Unix seconds."""
    if rules.tick_s > 1:
        now -= now % rules.tick_s
    return max(now - rules.ttl_s, np.int64(0)) >> rules.seen_shift


@njit(cache=True, nogil=True, forceinline=True)
def cell_of(seen, rules):
    """The cell of a row last seen at `seen`, uint32 seconds."""
    return np.int64(seen) >> rules.seen_shift


@njit(cache=True, nogil=True, forceinline=True)
def count_in(alive, ages, seen, rules):
    """Count a row that is now in memory, last seen no later than the clock says."""
    cell = cell_of(seen, rules)
    if cell >= ages[Ages.FLOOR]:
        alive[cell & (CELLS - 1)] += 1
        ages[Ages.HELD] += 1


@njit(cache=True, nogil=True, forceinline=True)
def count_out(alive, ages, seen, rules):
    """Count out a row that leaves memory."""
    cell = cell_of(seen, rules)
    if cell >= ages[Ages.FLOOR]:
        alive[cell & (CELLS - 1)] -= 1
        ages[Ages.HELD] -= 1


@njit(cache=True, nogil=True, forceinline=True)
def renew(alive, ages, before, after, rules):
    """Count a row by its new last seen."""
    if cell_of(before, rules) != cell_of(after, rules):
        count_out(alive, ages, before, rules)
        count_in(alive, ages, after, rules)


@njit(cache=True, nogil=True)
def advance(alive, ages, time, rules):
    """Move the clock to `time`, int64 seconds, unless it is there already, and the floor with it."""
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

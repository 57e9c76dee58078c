"""Consistent reads on other threads while one thread writes: a sequence lock over stripes of rows.

The writer makes a row's version odd, writes the row, and makes the version even again. A reader copies the
row and keeps the copy if the version was even and has not changed; otherwise it copies again (Lameter 2005,
as in Linux's seqlock). Readers write nothing, so they do not slow each other, and the writer only by cache
lines that move between cores. One version covers many rows: a stripe of every 16,384th slot. The writer has
one row open at a time, so a reader retries because of another row with probability 1 in 16,384.

The lock does not protect writers from each other: there must be one writer at a time.
"""

import numpy as np
from numba import njit

from ground.kernels.intrinsics import fence

STRIPES = 1 << 14
"""Number of versions: 64 KiB, which fit into a core's cache."""

_STRIPE = np.int64(STRIPES - 1)
_ONE = np.uint32(1)


@njit(cache=True, nogil=True, forceinline=True)
def begin_write(versions, slot):
    """Open a row for writing: readers retry until `end_write`."""
    versions[slot & _STRIPE] += _ONE
    fence()


@njit(cache=True, nogil=True, forceinline=True)
def end_write(versions, slot):
    """Close a row: a reader that sees the new version also sees everything written before."""
    fence()
    versions[slot & _STRIPE] += _ONE


@njit(cache=True, nogil=True, forceinline=True)
def begin_read(versions, slot):
    """The version of a row, to be read before the copy; odd while the row is being written."""
    version = versions[slot & _STRIPE]
    fence()
    return version


@njit(cache=True, nogil=True, forceinline=True)
def is_whole(versions, slot, version):
    """Whether a copy made since `begin_read` returned `version` is consistent."""
    fence()
    return version & _ONE == np.uint32(0) and versions[slot & _STRIPE] == version

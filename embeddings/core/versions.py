"""Whole rows for readers on other threads, while one thread writes: a sequence lock over stripes of rows.

The writer makes a row's version odd, writes the row, and makes it even again. A reader copies the row
and keeps the copy if the version was even and is still the same; else it copies anew (Lameter 2005, as
in Linux's seqlock). Readers never write, so they slow neither each other nor, but for the lines that
travel between cores, the writer. One version stands for many rows: a stripe of every 16,384th slot. A
writer has one row open at a time, so a reader meets another row's stripe by odds of 1 in 16,384.

There is one writer at a time; the lock is none between writers.
"""

import numpy as np
from numba import njit

from ground.kernels.intrinsics import fence

STRIPES = 1 << 14
"""Versions: 64 KiB of them, which stay in a core's cache."""

_STRIPE = np.int64(STRIPES - 1)
_ONE = np.uint32(1)


@njit(cache=True, nogil=True, forceinline=True)
def begin_write(versions, slot):
    """Open a row for writing: readers turn away from it until `end_write`."""
    versions[slot & _STRIPE] += _ONE
    fence()


@njit(cache=True, nogil=True, forceinline=True)
def end_write(versions, slot):
    """Close it: a reader that sees the new version sees all that was written."""
    fence()
    versions[slot & _STRIPE] += _ONE


@njit(cache=True, nogil=True, forceinline=True)
def begin_read(versions, slot):
    """The version of a row before it is copied; odd while it is being written."""
    version = versions[slot & _STRIPE]
    fence()
    return version


@njit(cache=True, nogil=True, forceinline=True)
def is_whole(versions, slot, version):
    """Whether what was copied since `begin_read` returned `version` is one state of the row."""
    fence()
    return version & _ONE == np.uint32(0) and versions[slot & _STRIPE] == version

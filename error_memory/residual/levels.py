"""The residual memory's own statistics, for each power of two of examples held, in one small array.

A clock and a counter, then LEVELS numbers each: the gate's D and when it last moved
(`error_memory.residual.gate`),
the scale of the prior variances and its squared gradients (`error_memory.residual.memory`). NaN: the level
was never reached.
"""

from math import exp

from numba import njit

from error_memory.residual.gate import LEVELS, gain_at, known_at

CLOCK, EXAMPLES, GAINS = 0, 1, 2  # event time, s; examples learned since the memory was made; D
MOVED_AT = GAINS + LEVELS  # examples learned when D last moved
SCALES = GAINS + 2 * LEVELS  # ln of the factor
SQUARES = GAINS + 3 * LEVELS
SMALL = GAINS + 4 * LEVELS


@njit(cache=True, nogil=True, error_model="numpy")
def gain(small, level):
    """The recent gain of corrections at a level."""
    return gain_at(small[GAINS:MOVED_AT], small[MOVED_AT:SCALES], small[EXAMPLES], level)


@njit(cache=True, nogil=True, error_model="numpy")
def scale(small, level):
    """The factor on prior variances at a level."""
    return exp(known_at(small[SCALES:SQUARES], level))

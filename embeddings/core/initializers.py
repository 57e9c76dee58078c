"""Initial vectors: a function of the key and the table's seed alone, so the same on every machine."""

from math import cos, log, pi, sqrt
from typing import Final

import numpy as np
from numba import njit

from ground.kernels.mixing import mix

ZEROS: Final = 0
UNIFORM: Final = 1
NORMAL: Final = 2

KINDS: Final = {"zeros": ZEROS, "uniform": UNIFORM, "normal": NORMAL}
"""The initializers by their names in a spec."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SHIFT_11 = np.uint64(11)
_UNIT = 1.0 / (1 << 53)


@njit(cache=True, nogil=True)
def start_vector(row, key, dim, kind, scale, seed):
    """Draw the first `dim` columns of a new row; they must be zeros before.

    Uniform in ±scale, or normal of deviation `scale` (Box and Muller 1958), from SplitMix64 (Steele,
    Lea and Flood 2014) seeded with a hash of key and seed.
    """
    if kind == ZEROS:
        return
    draw = mix(key + mix(np.uint64(seed) + _GOLDEN))
    for j in range(dim):
        draw += _GOLDEN
        u = float(mix(draw) >> _SHIFT_11) * _UNIT
        if kind == UNIFORM:
            row[j] = np.float32(scale * (2.0 * u - 1.0))
        else:
            v = float(mix(~draw) >> _SHIFT_11) * _UNIT
            row[j] = np.float32(scale * sqrt(-2.0 * log(1.0 - u)) * cos(2.0 * pi * v))

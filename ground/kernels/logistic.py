"""The logistic function and its inverse, compiled for one number and with numpy for arrays.

numpy and compiled code may round `exp` and `log` differently in the last bit. So a caller that changes
from one form to the other changes the bits of its results, and with them state hashes.
"""

from math import exp, log, log1p

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]


@njit(cache=True, nogil=True, error_model="numpy")
def sigmoid(z):
    """The logistic function of one number, without overflow.

    >>> float(sigmoid(0.0)), float(sigmoid(-1000.0))
    (0.5, 0.0)
    """
    if z >= 0.0:
        return 1.0 / (1.0 + exp(-z))
    t = exp(z)
    return t / (1.0 + t)


@njit(cache=True, nogil=True, error_model="numpy")
def sigmoid_short(z):
    """The logistic function of one number in one formula, for loops that must not branch.

    It differs from `sigmoid` in the last bits for z < 0. Below about -709 it is 0.
    """
    return 1.0 / (1.0 + exp(-z))


@njit(cache=True, nogil=True, error_model="numpy")
def logit(p, largest):
    """ln(p / (1 - p)) of one number, clipped to ±`largest`, which 0 and 1 give too.

    >>> float(logit(0.5, 16.0)), float(logit(0.0, 16.0))
    (0.0, -16.0)
    """
    if p <= 0.0:
        return -largest
    if p >= 1.0:
        return largest
    return min(max(log(p) - log1p(-p), -largest), largest)


def sigmoids(z: Floats) -> Floats:
    """The logistic function of an array of logits of any shape.

    >>> sigmoids(np.array([0.0]))
    array([0.5])
    """
    return np.asarray(1.0 / (1.0 + np.exp(-z)))


def logits(p: Floats, smallest: float) -> Floats:
    """ln(p / (1 - p)) of an array of probabilities, which are clipped to `smallest` and 1 - `smallest` first.

    >>> logits(np.array([0.5]), 1e-9)
    array([0.])
    """
    clipped = np.clip(p, smallest, 1.0 - smallest)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))

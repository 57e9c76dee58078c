"""Generations: evidence by when it came, so that a part of it can be dropped, or fade, in one write.

Evidence is dropped by stream position: when the base has learned every example of a generation, its place
is freed, and each cell stamped with its epoch is dead. Evidence fades in event time by forward decay: a
cell is kept at the scale of its generation's origin and read times the generation's weight,

    w_g = 2^-((clock - origin_g) / half life)

so that nothing is swept (Cormode, Shkapenyuk, Srivastava and Xu 2009, "Forward Decay", section 4).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

HALF_LIVES_MAX = 40.0
"""A generation older than this is worth less than 1e-12 of itself, and goes."""


class Generations(NamedTuple):
    """The G places that generations take. All arrays have shape (G,)."""

    epoch: npt.NDArray[np.uint32]  # higher is younger; 0: free
    first: npt.NDArray[np.int64]  # least position of its examples
    last: npt.NDArray[np.int64]  # greatest
    examples: npt.NDArray[np.int64]  # how many it holds
    origin: npt.NDArray[np.float64]  # event time at which it opened, s
    weight: npt.NDArray[np.float64]  # the weight of its cells now; 0: free


def make_generations(generations: int) -> Generations:
    """Places for `generations` generations, all free."""
    return Generations(
        epoch=np.zeros(generations, dtype=np.uint32),
        first=np.zeros(generations, dtype=np.int64),
        last=np.zeros(generations, dtype=np.int64),
        examples=np.zeros(generations, dtype=np.int64),
        origin=np.zeros(generations, dtype=np.float64),
        weight=np.zeros(generations, dtype=np.float64),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def free_place(gens):
    """A free place for a generation, or -1."""
    for g in range(len(gens.epoch)):
        if gens.epoch[g] == 0:
            return g
    return -1


@njit(cache=True, nogil=True, error_model="numpy")
def drop(gens, g):
    """Drop a generation: every cell with its stamp is dead from here on."""
    gens.epoch[g] = 0
    gens.weight[g] = 0.0
    gens.examples[g] = 0


def drop_learnt(gens: Generations, position: int) -> None:
    """Drop the generations whose every example is at or below `position`."""
    learnt = gens.last <= position
    gens.epoch[learnt] = 0
    gens.weight[learnt] = 0.0
    gens.examples[learnt] = 0


@njit(cache=True, nogil=True, error_model="numpy")
def oldest_epoch(gens):
    """The least epoch in use: a row last written before it holds no evidence. The greatest number if none
    is."""
    oldest = np.uint32(0xFFFFFFFF)
    for g in range(len(gens.epoch)):
        if gens.epoch[g] != 0 and gens.epoch[g] < oldest:
            oldest = gens.epoch[g]
    return oldest


@njit(cache=True, nogil=True, error_model="numpy")
def tick(gens, clock, half_life):
    """Weigh the generations by their age at event time `clock`: 2^-(age / half life)."""
    for g in range(len(gens.epoch)):
        if gens.epoch[g] != 0:
            age = (clock - gens.origin[g]) / half_life
            if age > HALF_LIVES_MAX:
                drop(gens, g)
            else:
                gens.weight[g] = 2.0**-age

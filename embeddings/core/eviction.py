"""Eviction: the least recently or least frequently used rows are removed before the table is full.

A clock counts sightings, in generations of G = rows_max / 64 sightings. A row's *stamp* is the
generation of its last sighting; with `least_frequent`, *uses* counts its sightings. `held` counts the
rows of each class of uses and each generation. When a generation ends and the table is nearly full, a
*limit* is computed from these counts alone, without reading a row: all rows below a class, and within
this class all rows below a generation, are evicted. From then on they do not exist, like an expired
row: `find` misses them and a sighting makes a new row. Their slots are freed in bounded steps, a few
for each new row, and all of them before the next limit is set.

So eviction depends on the sightings alone, not on slots, batches, sweeps or restarts. The price is a
coarse limit: a table with more than rows_max - G rows at the end of a generation is reduced to
rows_max - 7 G.

Expired rows leave `held` by whole generations, once all rows of a generation must have expired; this
too depends on event times alone.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from embeddings.core.positions import Ages, State
from ground.kernels.intrinsics import borrow

CLASSES: Final = {"none": 0, "least_recent": 1, "least_frequent": 64}
"""Classes of uses. With one class, only recency matters. The last of 64 is "63 or more"."""

GENERATIONS: Final = {"none": 0, "least_recent": 4096, "least_frequent": 256}
"""Generations that are counted separately, a power of two. Older rows count as one generation."""

PARTS: Final = 64
"""Generations per rows_max sightings."""

EVICTED_GENERATIONS: Final = 6
"""A limit evicts at least as many rows as this many generations have sightings. With fewer, rows stay longer,
but the hand must check more slots for each new row: PARTS / EVICTED_GENERATIONS."""


Counts = npt.NDArray[np.int64]

_USES_MAX = np.int64(0xFFFFFFFF)
_ONE = np.uint32(1)


@njit(cache=True, nogil=True, forceinline=True)
def _age(bits, slot, rules):
    """A row's stamp and uses."""
    stamp = np.int64(bits[slot, rules.age_column])
    return stamp, np.int64(bits[slot, rules.age_column + 1]) if rules.classes > 1 else np.int64(0)


@njit(cache=True, nogil=True, forceinline=True)
def limit_of(ages):
    """The current limit: generation, class, stamp. Kernels read it once, not after each write."""
    return ages[Ages.LIMIT_GENERATION], ages[Ages.LIMIT_CLASS], ages[Ages.LIMIT_STAMP]


@njit(cache=True, nogil=True, forceinline=True)
def beyond(bits, bounds, slot, rules):
    """Whether a limit has evicted the row at a slot."""
    if rules.classes == 0:
        return False
    generation, rank_least, stamp_least = bounds
    if rules.classes == 1:  # a limit's stamp is not later than its generation
        return bool(np.int64(bits[slot, np.uint64(rules.age_column)]) < stamp_least)
    stamp, uses = _age(bits, slot, rules)
    rank = min(uses, rules.classes - 1)
    # No short circuit: the processor could not predict these branches.
    below = (rank < rank_least) | ((rank == rank_least) & (stamp < stamp_least))
    return bool((stamp < generation) & below)


@njit(cache=True, nogil=True, forceinline=True)
def evicted(bits, ages, slot, rules):
    """Whether the current limit has evicted the row at a slot."""
    return beyond(bits, limit_of(ages), slot, rules)


@njit(cache=True, nogil=True, forceinline=True)
def _cell(held, ages, stamp):
    return max(min(stamp, ages[Ages.GENERATION]), ages[Ages.FLOOR]) & (held.shape[1] - 1)


@njit(cache=True, nogil=True, forceinline=True)
def _arrive(held, ages, stamp, uses):
    held[min(uses, held.shape[0] - 1), _cell(held, ages, stamp)] += 1
    ages[Ages.HELD] += 1


@njit(cache=True, nogil=True, forceinline=True)
def leave(bits, held, ages, slot, rules):
    """Remove a row from the counts, unless it was already removed with its whole generation."""
    stamp, uses = _age(bits, slot, rules)
    rank, cell = min(uses, held.shape[0] - 1), _cell(held, ages, stamp)
    counted = np.int64(held[rank, cell] > 0)
    held[rank, cell] -= counted
    ages[Ages.HELD] -= counted


@njit(cache=True, nogil=True, forceinline=True)
def used(uses, times):
    """Uses, uint32, of a row after `times` more sightings."""
    return np.uint32(min(np.int64(uses) + np.int64(times), _USES_MAX))


@njit(cache=True, nogil=True, forceinline=True)
def use(bits, held, ages, slot, rules, now):
    """Record one more sighting of an existing row, in generation `now`; returns whether the row changed."""
    stamp, uses = _age(bits, slot, rules)
    leave(bits, held, ages, slot, rules)
    _arrive(held, ages, now, uses + 1)
    bits[slot, rules.age_column] = np.uint32(now)
    if rules.classes > 1:
        bits[slot, rules.age_column + 1] = used(uses, 1)
    return rules.classes > 1 or stamp != now


@njit(cache=True, nogil=True, forceinline=True)
def counting(held, ages):
    """What `count_again` needs beside the counts; kernels read it once.

    Returns:
        Of the clock the current generation and the floor, and how many generations are counted: uint32.
    """
    return np.uint32(ages[Ages.GENERATION]), np.uint32(ages[Ages.FLOOR]), np.uint32(held.shape[1])


@njit(cache=True, nogil=True, forceinline=True)
def count_again(cells, counting, stamp, rank, stamp_now, rank_now):
    """Update the counts for an existing row: subtract its previous stamp and class, add the new ones.

    A cell may fall below 0: with a TTL, call `settle` after the batch.

    Args:
        cells: `held` in one dimension.
        counting: see `counting`.
        stamp, rank, stamp_now, rank_now: uint32.
    """
    generation, floor, ring = counting
    cells[np.uint64(rank * ring + (max(min(stamp, generation), floor) & (ring - _ONE)))] -= 1
    cells[np.uint64(rank_now * ring + (max(stamp_now, floor) & (ring - _ONE)))] += 1


@njit(cache=True, nogil=True)
def settle(cells, ages):
    """Take back what `count_again` subtracted of rows that had already left with their whole generation.

    Such a generation gets no new rows, so its cell, which was 0, shows how many these were.
    """
    left = np.int64(0)
    for i in range(cells.shape[0]):
        below = min(cells[i], np.int64(0))
        cells[i] -= below
        left -= below
    ages[Ages.HELD] += left


@njit(cache=True, nogil=True, forceinline=True)
def rank_of(uses, rules):
    """The class of a row with so many uses, where uses are counted."""
    return np.uint32(min(np.int64(uses), rules.classes - 1))


@njit(cache=True, nogil=True, forceinline=True)
def begin(bits, held, ages, slot, rules, now, times):
    """Record a new row with `times` sightings, the last in generation `now`."""
    bits[slot, rules.age_column] = np.uint32(now)
    if rules.classes > 1:
        bits[slot, rules.age_column + 1] = np.uint32(times)
    _arrive(held, ages, now, times if rules.classes > 1 else np.int64(0))
    ages[Ages.MADE] += 1


@njit(cache=True, nogil=True, forceinline=True)
def pass_time(ages, age_times, time):
    """Record the time of a sighting in the current generation."""
    cell = ages[Ages.GENERATION] % age_times.shape[0]
    age_times[cell] = max(age_times[cell], np.int64(time))
    ages[Ages.NEWEST] = max(ages[Ages.NEWEST], np.int64(time))


@njit(cache=True, nogil=True)
def turn(held, ages, age_times, rules):
    """Begin a generation; returns whether the table is so full that `limit` must be called.

    Args:
        held: (classes, generations) int64.
        ages, age_times: the clock, and the latest time in each generation.
        rules: the table's `Rules`.
    """
    classes, ring = held.shape
    rows_max, ttl_s = rules.rows_max, rules.ttl_s
    length = max(rows_max // PARTS, 1)
    generation = ages[Ages.GENERATION] + 1
    if generation - ages[Ages.FLOOR] >= ring:
        oldest, after = ages[Ages.FLOOR] % ring, (ages[Ages.FLOOR] + 1) % ring
        for rank in range(classes):
            held[rank, after] += held[rank, oldest]
            held[rank, oldest] = 0
        age_times[after] = max(age_times[after], age_times[oldest])
        ages[Ages.FLOOR] += 1
    ages[Ages.GENERATION] = generation
    ages[Ages.LEFT] = length
    # A row's last seen may be later than its last sighting.
    age_times[generation % ring] = ages[Ages.NEWEST]
    if ttl_s > 0:
        now = ages[Ages.NEWEST]
        if rules.tick_s > 1:
            now -= now % rules.tick_s
        for g in range(ages[Ages.FLOOR], generation):
            if age_times[g % ring] + ttl_s < now:
                for rank in range(classes):
                    ages[Ages.HELD] -= held[rank, g % ring]
                    held[rank, g % ring] = 0
    return ages[Ages.HELD] > rows_max - length and ages[Ages.MADE] >= EVICTED_GENERATIONS * length


@njit(cache=True, nogil=True)
def limit(held, ages, state, rows_max):
    """Set a limit that leaves rows_max less EVICTED_GENERATIONS + 1 generations of rows; start the hand.

    All rows beyond the previous limit must have been removed: with `least_frequent` it may have been higher.
    """
    classes, ring = held.shape
    length = max(rows_max // PARTS, 1)
    excess = ages[Ages.HELD] - (rows_max - (EVICTED_GENERATIONS + 1) * length)
    out = 0
    for rank in range(classes):
        for g in range(ages[Ages.FLOOR], ages[Ages.GENERATION]):
            out += held[rank, g % ring]
            held[rank, g % ring] = 0
            if out >= excess:
                ages[Ages.LIMIT_GENERATION] = ages[Ages.GENERATION]
                ages[Ages.LIMIT_CLASS] = rank
                ages[Ages.LIMIT_STAMP] = g + 1
                ages[Ages.HELD] -= out
                ages[Ages.EVICTED] += out
                ages[Ages.MADE] = 0
                aim(state, rows_max)
                return


LIMIT_WORDS: Final = 3
"""Words of one noted limit: generation, class, stamp."""


@njit(cache=True, nogil=True, forceinline=True)
def note_limit(limits, ages, state):
    """Append the current limit to `limits`, where that array has room for any: see `Store.alive`."""
    at = LIMIT_WORDS * state[State.LIMITS]
    if at + LIMIT_WORDS <= limits.shape[0]:
        limits[at], limits[at + 1], limits[at + 2] = limit_of(ages)
        state[State.LIMITS] += 1


@njit(cache=True, nogil=True)
def aim(state, rows_max):
    """Send the hand over all used slots, fast enough to finish before the next limit."""
    state[State.HAND] = 0
    state[State.HAND_END] = state[State.HIGH]
    state[State.STRIDE] = state[State.HIGH] // (EVICTED_GENERATIONS * max(rows_max // PARTS, 1)) + 1


@njit(cache=True, nogil=True)
def pass_batch(held, ages, age_times, rules, times, inverse, stamps):
    """Advance the clock by a batch in which no limit is set: generations may end, but no row is evicted.

    Args:
        times: (n,) uint32, of all sightings.
        inverse: (n,) int64, the number of each sighting's id.
        stamps: (m,) uint32, out: the generation of each id's last sighting.
    """
    times, inverse, stamps = borrow(times), borrow(inverse), borrow(stamps)
    n = times.shape[0]
    first = 0
    while first < n:
        if ages[Ages.LEFT] == 0:
            turn(held, ages, age_times, rules)
        last = min(first + ages[Ages.LEFT], n)
        now = np.uint32(ages[Ages.GENERATION])
        if last - first == n:
            stamps[:] = now
        else:
            numbers = inverse[first:last]
            for i in range(numbers.shape[0]):
                stamps[np.uint64(numbers[i])] = now
        pass_time(ages, age_times, times[first:last].max())
        ages[Ages.LEFT] -= last - first
        first = last


def turns_within(ages: npt.NDArray[np.int64], rows_max: int, sightings: npt.NDArray[np.int64]) -> Counts:
    """How many generations end within the next `sightings`: (k,) to (k,) int64."""
    length = max(rows_max // PARTS, 1)
    return np.maximum((sightings - int(ages[Ages.LEFT]) + length - 1) // length, 0)


def limit_is_far(ages: npt.NDArray[np.int64], rows_max: int, sightings: int, rows: int) -> bool:
    """Whether these many sightings, which make at most `rows` rows, certainly set no limit."""
    length = max(rows_max // PARTS, 1)
    return bool(
        sightings <= ages[Ages.LEFT]
        or ages[Ages.HELD] + rows <= rows_max - length
        or ages[Ages.MADE] + rows < EVICTED_GENERATIONS * length
    )

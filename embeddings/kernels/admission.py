"""Admission: which sighting of an id makes a row (Monolith's frequency filter and probabilistic filter).

The frequency filter is bounded and set-associative: one line of 8 counters per bucket, each with 24 bits
of the key's fingerprint, an 8-bit count and the time of the last sighting. A full line drops its least
recently seen id. An admitted id leaves the filter, so after its row expires it must be admitted again.
Two ids are confused with a probability of about 8 / 2²⁴. The probabilistic filter admits each sighting
with a given probability; its only state is the number of draws so far. Both decide sighting by sighting,
in order, so it does not matter how a stream is cut into batches.

Source: Liu et al. 2022, arXiv 2209.07663, section 2.2.1.
"""

import numpy as np
from numba import njit

from embeddings.core.positions import State
from ground.kernels.intrinsics import prefetch
from ground.kernels.mixing import mix

_WAYS = 8
_SALT = np.uint64(0xA0761D6478BD642F)
_FINGERPRINT_SHIFT = np.uint64(40)
_COUNT_SHIFT = np.uint64(32)
_COUNT_MASK = np.uint64(0xFF)
_TIME_MASK = np.uint64(0xFFFFFFFF)
_SHIFT_11 = np.uint64(11)
_UNIT = 1.0 / (1 << 53)


@njit(cache=True, nogil=True, forceinline=True)
def _note(line_changed, changed, state, line):
    """List a line as written."""
    if line_changed[line] == 0:
        line_changed[line] = 1
        changed[state[State.CHANGED_LINES]] = np.uint32(line)
        state[State.CHANGED_LINES] += 1


@njit(cache=True, nogil=True, forceinline=True)
def _line_of(filter_lines, hashed):
    return np.int64(hashed & np.uint64(filter_lines.shape[0] - 1))


@njit(cache=True, nogil=True, forceinline=True)
def ask_for_line(filter_lines, key):
    """Prefetch the line of an id."""
    prefetch(filter_lines, _line_of(filter_lines, mix(key ^ _SALT)), 0)


@njit(cache=True, nogil=True)
def admit(filter_lines, line_changed, changed, state, key, time, rules):
    """Count one sighting of an id without a row; returns whether the id is admitted.

    A counter is a uint64: fingerprint (24 bits) | count (8) | last sighting (32, Unix seconds); a
    count of 0 means empty. In the probabilistic filter, the first word counts the draws.
    """
    admit_after, admit_age_s = rules.admit_after, rules.admit_age_s
    if rules.admit_share < 1.0:
        draws = filter_lines[0, 0]
        filter_lines[0, 0] = draws + np.uint64(1)
        _note(line_changed, changed, state, 0)
        return float(mix(mix(key ^ _SALT) ^ draws) >> _SHIFT_11) * _UNIT < rules.admit_share
    if admit_after <= 1:
        return True
    h = mix(key ^ _SALT)
    line = _line_of(filter_lines, h)
    fingerprint = h >> _FINGERPRINT_SHIFT
    _note(line_changed, changed, state, line)
    found = -1
    victim = 0
    oldest = np.int64(1) << 40
    for way in range(_WAYS):
        word = filter_lines[line, way]
        if (word >> _COUNT_SHIFT) & _COUNT_MASK == np.uint64(0):
            age = np.int64(-1)
        else:
            age = np.int64(word & _TIME_MASK)
            if word >> _FINGERPRINT_SHIFT == fingerprint:
                found = way
        if age < oldest:
            oldest = age
            victim = way
    count = np.int64(1)
    latest = np.int64(time)
    if found >= 0:
        word = filter_lines[line, found]
        seen = np.int64(word & _TIME_MASK)
        if admit_age_s == 0 or seen + admit_age_s >= latest:
            count = np.int64((word >> _COUNT_SHIFT) & _COUNT_MASK) + 1
        latest = max(latest, seen)
        victim = found
    if count >= admit_after:
        filter_lines[line, victim] = np.uint64(0)
        return True
    filter_lines[line, victim] = (
        (fingerprint << _FINGERPRINT_SHIFT) | (np.uint64(count) << _COUNT_SHIFT) | np.uint64(latest)
    )
    return False


@njit(cache=True, nogil=True)
def forget(filter_lines, line_changed, changed, state, keys):
    """Clear the counters of keys (n,) uint64."""
    for i in range(keys.shape[0]):
        h = mix(keys[i] ^ _SALT)
        line = _line_of(filter_lines, h)
        for way in range(_WAYS):
            word = filter_lines[line, way]
            counted = (word >> _COUNT_SHIFT) & _COUNT_MASK != np.uint64(0)
            if counted and word >> _FINGERPRINT_SHIFT == h >> _FINGERPRINT_SHIFT:
                filter_lines[line, way] = np.uint64(0)
                _note(line_changed, changed, state, line)

"""The gate: the share of a correction that is applied, computed from the recent gain of corrections.

    D ← decay · D + (1 - toll) logloss(z) - logloss(z + f)        g = σ(D - bias)        z' = z + g f

A Hedge (Freund and Schapire 1997) between two experts, the base and the corrected base: with learning
rate 1 the weight of the second is σ(its cumulative gain + prior log-odds), here with forgetting (`decay`),
with a price, a share of the base's log loss whatever that is (`toll`), and with the prior against it
(`bias`). On noise f earns nothing, every example costs the toll, and D falls towards
-toll · logloss / (1 - decay); |D| stays within GAIN_MAX so that it can turn round.

A correction that helps a base that is an hour old can harm one that is a second old. So there is one D for
each power of two of examples held. A memory that holds more examples averages over more: over half of the
examples held, if that is more than `decay` gives.

A base that is updated rarely reaches a level only from time to time, and an old D may no longer hold. So the
weight of a level's D falls with the number n_k of examples learned since D last moved. The rest comes from
the level below, which the memory has just passed:

    D̄_k = w_k D_k + (1 - w_k) D̄_(k-1)        w_k = exp(-n_k / max(IDLE, 2^(k-1))), 0 if it was never reached
"""

from math import exp, isnan, log1p, log2

import numpy as np
from numba import njit

GAIN_MAX = 10.0
"""Bound of |D|: a gate that was open for long must be able to close within some thousand examples."""
LEVELS = 40
IDLE = 5_000.0
"""Examples after which a D that did not move counts for 1/e; more where the level looks back further."""


@njit(cache=True, nogil=True, error_model="numpy")
def logloss(z, y):
    """-y ln σ(z) - (1 - y) ln(1 - σ(z))."""
    return max(z, 0.0) - y * z + log1p(exp(-abs(z)))


@njit(cache=True, nogil=True, error_model="numpy")
def level_of(gens):
    """⌊log₂(1 + examples held)⌋, within LEVELS."""
    return min(np.int64(log2(1.0 + gens.examples.sum())), LEVELS - 1)


@njit(cache=True, nogil=True, error_model="numpy")
def known_at(values, level):
    """The value of a level, or of the next lower level that was ever reached; 0 if there is none."""
    for k in range(level, -1, -1):
        if not isnan(values[k]):
            return values[k]
    return 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def gain_at(gains, moved_at, examples, level):
    """D̄ at a level, 0 if no level was ever reached.

    Args:
        gains: (LEVELS,), D; NaN for a level that was never reached.
        moved_at: (LEVELS,), how many examples had been learned when D last moved.
        examples: how many have been learned now.
        level: from `level_of`.
    """
    found = 0.0
    rest = 1.0
    for k in range(level, -1, -1):
        if isnan(gains[k]):
            continue
        w = rest * exp((moved_at[k] - examples) / max(IDLE, 2.0 ** (k - 1)))
        found += w * gains[k]
        rest -= w
        if rest <= 0.0:  # the case if the last example was learned at this level
            break
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def bounded(D):
    """D within ±GAIN_MAX."""
    return min(max(D, -GAIN_MAX), GAIN_MAX)


@njit(cache=True, nogil=True, error_model="numpy")
def moved(D, before, after, decay, toll, level):
    """D after one example that cost the base the log loss `before`, and the corrected base `after`."""
    decay = max(decay, 1.0 - 2.0 ** (1 - level))
    return bounded(decay * D + (before - after) - toll * before)

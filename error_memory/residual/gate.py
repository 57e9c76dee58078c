"""The gate: the share of a correction that is applied, from what corrections have lately been worth.

    D ← decay · D + (1 - toll) logloss(z) - logloss(z + f)        g = σ(D - bias)        z' = z + g f

A Hedge (Freund and Schapire 1997) between two experts, the base and the corrected base: with learning
rate 1 the weight of the second is σ(its cumulative gain + prior log-odds), here with forgetting (`decay`),
with a price, a share of the base's log loss whatever that is (`toll`), and with the prior against it
(`bias`). On noise f earns nothing, every example costs the toll, and D falls towards
-toll · logloss / (1 - decay); |D| stays within GAIN_MAX so that it can turn round.

What helps a base that is an hour old can harm one that is a second old: a handful of examples says much
of what nobody has learnt and little of what the base knows. So there is one D for each power of two of
examples held. A memory that holds much looks back further: over half as many examples as it holds, where
that is more than what `decay` says.

A base that stands still and jumps comes by a level now and then, and what was worth much when it was young
may be noise when it is old. So a level's D counts the less the more examples n_k have been learnt since it
last moved, and the rest comes from the level below, which the memory has passed through on its way up:

    D̄_k = w_k D_k + (1 - w_k) D̄_(k-1)        w_k = exp(-n_k / max(IDLE, 2^(k-1))), 0 if it was never met
"""

from math import exp, isnan, log1p, log2

import numpy as np
from numba import njit

GAIN_MAX = 10.0
"""Bound of |D|: a gate that has long been open must be able to close within some thousand examples."""
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
    """What is noted of a level, or of the next lower one that was ever met; 0 where there is none."""
    for k in range(level, -1, -1):
        if not isnan(values[k]):
            return values[k]
    return 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def gain_at(gains, moved_at, examples, level):
    """D̄ at a level, 0 where nothing was ever met.

    Args:
        gains: (LEVELS,), D; NaN where a level was never met.
        moved_at: (LEVELS,), how many examples had been learnt when D last moved.
        examples: how many have been learnt now.
        level: as `level_of` has it.
    """
    found = 0.0
    rest = 1.0
    for k in range(level, -1, -1):
        if isnan(gains[k]):
            continue
        w = rest * exp((moved_at[k] - examples) / max(IDLE, 2.0 ** (k - 1)))
        found += w * gains[k]
        rest -= w
        if rest <= 0.0:  # as it is wherever the last example was learnt at this level
            break
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def moved(D, before, after, decay, toll, level):
    """D after one example that cost the base the log loss `before`, and the corrected base `after`."""
    decay = max(decay, 1.0 - 2.0 ** (1 - level))
    return min(max(decay * D + (before - after) - toll * before, -GAIN_MAX), GAIN_MAX)

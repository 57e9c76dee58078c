"""An interval that stays honest when it is looked at again and again: a confidence sequence.

With probability 95 % the true value lies in the intervals of *all* moments, so one may look each hour and
stop as soon as one excludes 0. A usual interval promises that for one moment only: of two equal models, one
would be declared better with near certainty, if they are looked at often enough.

This is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2021),
"Time-uniform central limit theory and asymptotic confidence sequences", theorem 2.2: a normal mixture
boundary (Robbins 1970). It is widest, relative to the usual interval, far from the number of requests that it
is tuned for; at that number it is about 1.5 times as wide.
"""

import math
from typing import NamedTuple

LEVEL = 0.95
TUNED_FOR = 20_000
"""Requests at which the interval is narrowest relative to a usual one; chosen before the data are seen."""


class AnytimeInterval(NamedTuple):
    """An estimate, and the interval of a confidence sequence at this moment."""

    value: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether it excludes 0."""
        return self.low > 0.0 or self.high < 0.0


def anytime(
    value: float, variance: float, count: int, tuned_for: int = TUNED_FOR, level: float = LEVEL
) -> AnytimeInterval:
    """The interval of an estimate after `count` requests.

    >>> anytime(0.0, 1.0, 20_000).high > 1.96
    True

    Args:
        variance: of the estimate, that is of order 1 / count.
    """
    miss = 1.0 - level
    best = -2.0 * math.log(miss) + math.log(-2.0 * math.log(miss) + 1.0)
    eta = best * count / tuned_for
    half = math.sqrt(variance * 2.0 * (eta + 1.0) / eta * math.log(math.sqrt(eta + 1.0) / miss))
    return AnytimeInterval(value, value - half, value + half)

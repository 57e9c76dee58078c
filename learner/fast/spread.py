"""The units in which a target of kind value is learned: its labels' mean and deviation, and their noise.

A value is learned as (y - centre) / unit, so that the same priors suit minutes and prices. With n labels so
far, by weight, of mean m and sum of squared deviations M,

    centre = m        unit² = (M + m²) / (n + 1)

so that the first label already gives a scale, and later their standard deviation. The noise r is the variance
of a label around its prediction in these units, learned by one step of EM at each label: with the error ν of
a prediction of variance s²,

    r ← r + ρ [(ν r / (s² + r))² + r s² / (s² + r) - r]        ρ = max(1 / (n + 10), .0005)
"""

from math import isnan, sqrt

from numba import njit

IS_VALUE, LABELS, MEAN, SQUARES, NOISE, SCORED, LABEL_SUM, EXPECTED_SUM = range(8)
"""Columns of the numbers that are kept of a target, the first of which says whether it is a value. The last
three are of its calibration, see `learner.model.scales`."""
COLUMNS = 8

NOISE_MIN, NOISE_MAX = 1e-6, 1e3
UNIT_MIN = 1e-9
RATE_MIN, RATE_START = 0.0005, 10.0


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def spread_of(values, target):
    """(centre, unit, noise) of a target; (0, 1, 0) of one that is an event."""
    if values[target, IS_VALUE] == 0.0:
        return 0.0, 1.0, 0.0
    mean = values[target, MEAN]
    squares = values[target, SQUARES] + mean * mean
    unit = sqrt(squares / (values[target, LABELS] + 1.0))
    return mean, max(unit, UNIT_MIN) if squares > 0.0 else 1.0, values[target, NOISE]


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def learn_labels(values, target, y, before, weight):
    """Move centre and unit by one label.

    Args:
        values: (targets, COLUMNS) float64, moved.
        y, before: the label, and the one that this row was learned with before or NaN.
        weight: of the row, above 0.
    """
    mean, n = values[target, MEAN], values[target, LABELS]
    if isnan(before):
        n += weight
        values[target, LABELS] = n
        values[target, MEAN] += weight * (y - mean) / n
        values[target, SQUARES] += weight * (y - mean) * (y - values[target, MEAN])
    elif n > 0.0:
        values[target, MEAN] += weight * (y - before) / n
        change = weight * ((y - mean) ** 2 - (before - mean) ** 2)
        values[target, SQUARES] = max(values[target, SQUARES] + change, 0.0)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def learn_noise(values, target, error, s2, weight):
    """Move the noise by the error of one prediction of variance s², both in the target's units."""
    r = values[target, NOISE]
    rate = min(weight * max(1.0 / (values[target, LABELS] + RATE_START), RATE_MIN), 1.0)
    r += rate * ((error * r / (s2 + r)) ** 2 + r * s2 / (s2 + r) - r)
    values[target, NOISE] = min(max(r, NOISE_MIN), NOISE_MAX)

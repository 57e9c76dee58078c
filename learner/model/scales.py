"""The scales of the targets: logits of events, and values as numbers of their own units."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ground.kernels import bayes
from ground.kernels.logistic import sigmoids
from learner.fast.part import FastOutputs
from learner.fast.spread import EXPECTED_SUM, LABEL_SUM, SCORED
from learner.lessons import Lessons
from stream.records.targets import Targets

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int32] | npt.NDArray[np.int64]

CALIBRATED_FROM = 200.0
"""Labels of a value before its expectations are calibrated."""
CALIBRATION_KEEP = 0.9995
FACTOR_MAX = 3.0

LOG_MAX = 40.0
"""The largest logarithm of an expectation: far above any value, and far below what overflows."""


class Scales:
    """On which scale each target's labels are learned, and how predictions come back from it.

    Arguments `target` are the numbers (n,) of the rows' targets, in the order of `targets`.
    """

    def __init__(self, targets: Targets) -> None:
        self.is_value = np.array([target.kind == "value" for target in targets.values()])
        self._is_log = np.array([target.scale == "log1p" for target in targets.values()])

    def logits(self, outputs: FastOutputs, target: Numbers) -> Floats:
        """The fast part's honest logits, (n,); of values their means, in the targets' units."""
        z = bayes_logit(outputs)
        return np.where(self.is_value[target], outputs.logit, z) if self.is_value.any() else z

    def expectations(self, z: Floats, s2: Floats, spread: Floats, target: Numbers) -> Floats:
        """What is expected, (n,): of events the probabilities, of values the expectations, at least 0.

        A value's normal distribution on its scale has mean m = centre + unit z and variance
        v = unit² (s² + noise), at most unit²: units are the deviation of all labels, and what is predicted
        of one varies no more than all of them. On the scale log1p its expectation is exp(m + v / 2) - 1.

        Args:
            z: (n,), logits; of values the means, in the targets' units.
            s2: (n,), their variance.
            spread: (n, 3), see `FastOutputs`.
        """
        centre, unit, noise = spread.T
        mean = centre + unit * z
        exponent = np.minimum(mean + 0.5 * unit**2 * np.minimum(s2 + noise, 1.0), LOG_MAX)
        logarithmic = self._is_log[target]
        value = np.maximum(np.where(logarithmic, np.expm1(np.where(logarithmic, exponent, 0.0)), mean), 0.0)
        return np.where(self.is_value[target], value, sigmoids(z))

    def expected(self, z: Floats, outputs: FastOutputs, target: int, values: Floats) -> Floats:
        """`expectations` of rows of one target, times its `factors`; z is (n,), or (M, n) of M draws."""
        if not self.is_value[target]:
            return sigmoids(z)
        raw = self.expectations(z, outputs.variance, outputs.spread, np.full(z.shape[-1], target))
        return np.asarray(raw * self.factors(values)[target])

    def log_likelihoods(self, z: Floats, s2: Floats, spread: Floats, y: Floats, target: int) -> Floats:
        """Log density of the labels y (n,) of a value under its predicted distribution, (n,), in nats.

        On its scale that is a normal distribution around centre + unit z, of variance unit² (s² + noise).
        With z = 0, s² = 0 and a noise of 1 it is that of a constant: the mean and variance of all labels.

        Args:
            z, s2, spread: as for `expectations`.
        """
        centre, unit, noise = spread.T
        on_scale = np.log1p(y) if self._is_log[target] else y
        variance = unit**2 * (s2 + noise)
        error = on_scale - (centre + unit * z)
        stretch = on_scale if self._is_log[target] else 0.0  # d log1p(y) / dy = exp(-log1p(y))
        return np.asarray(-0.5 * (np.log(2.0 * np.pi * variance) + error**2 / variance) - stretch)

    def factors(self, values: Floats) -> Floats:
        """By what each target's expectations are multiplied, (targets,): the sum of the labels lately over
        that of the expectations. 1 of events, and while there are few labels.

        No distribution is exactly as assumed, and the deep part follows the median of a skewed one.

        Args:
            values: (targets, COLUMNS), see `learner.fast.spread`.
        """
        known = (values[:, EXPECTED_SUM] > 0.0) & (values[:, SCORED] >= CALIBRATED_FROM)
        ratio = values[known, LABEL_SUM] / values[known, EXPECTED_SUM]
        found = np.ones(len(values))
        found[known] = ratio.clip(1.0 / FACTOR_MAX, FACTOR_MAX)
        return found

    def calibrate(self, values: Floats, raw: Floats, lessons: Lessons) -> None:
        """Learn the factors from rows of any targets.

        Args:
            values: moved.
            raw: (n,), expectations without the factors.
            lessons: of the rows, with labels as they came.
        """
        for t in np.flatnonzero(self.is_value):
            mine = (lessons.target == t) & (lessons.weight > 0.0)
            y, before, weight = lessons.y[mine], lessons.before[mine], lessons.weight[mine]
            first = np.isnan(before)
            values[t, SCORED] += np.count_nonzero(first)
            if values[t, SCORED] < CALIBRATED_FROM / 2:
                continue  # the first ones are too far off
            values[t, [LABEL_SUM, EXPECTED_SUM]] *= CALIBRATION_KEEP ** np.count_nonzero(first)
            values[t, LABEL_SUM] += (weight * (y - np.where(first, 0.0, before))).sum()
            values[t, EXPECTED_SUM] += (weight * raw[mine])[first].sum()

    def on_scale(self, lessons: Lessons) -> Lessons:
        """The lessons with labels on the scales of their targets."""
        if not self._is_log.any():
            return lessons
        y, before = lessons.y.copy(), lessons.before.copy()
        logs = self._is_log[lessons.target]
        y[logs], before[logs] = np.log1p(y[logs]), np.log1p(before[logs])
        return lessons._replace(y=y, before=before)

    def in_units(self, lessons: Lessons, spread: Floats) -> Lessons:
        """Lessons of values as an error memory takes them: labels in the units of their predictions, weights
        over the noise.

        Args:
            lessons: of n rows, with labels as they came.
            spread: (n, 3), see `FastOutputs`.
        """
        centre, unit, noise = spread.T
        there = self.on_scale(lessons)
        return there._replace(
            y=(there.y - centre) / unit, before=(there.before - centre) / unit, weight=there.weight / noise
        )

    def off_scale(self, labels: Floats, target: Numbers) -> Floats:
        """Labels on the scales of their targets as they came, (n,)."""
        found, logs = labels.copy(), self._is_log[target]
        found[logs] = np.expm1(labels[logs])
        return found


def bayes_logit(outputs: FastOutputs) -> Floats:
    """The logit of the honest probability: shrunk by its own variance."""
    return outputs.logit / np.sqrt(1.0 + bayes.PROBIT * outputs.variance)


def joint(targets: Targets, given: Mapping[str, Floats]) -> dict[str, Floats]:
    """Predictions of all candidates from those given each target's `of`, by name; arrays of one shape."""
    found: dict[str, Floats] = {}
    for name in targets.ordered:
        of = targets[name].of
        found[name] = given[name] * found[of] if of else given[name]
    return {name: found[name] for name in targets}

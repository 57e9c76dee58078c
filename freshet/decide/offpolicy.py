"""Off-policy estimates: the clicks of another order, from logs of orders drawn at random.

A logged request showed each candidate at a place, with a known probability (its propensity: that of this
candidate at this place), and has the clicks at these places. Another policy would have put some candidates
elsewhere. If both agree on a candidate's place, its click counts with the weight

    w = P(the policy puts it there) / propensity

- IPS: the mean of the sum of w · y (Horvitz & Thompson 1952; per place: Li et al. 2018, "Offline evaluation
  of ranking policies with click models", the item-position estimator).
- SNIPS: the same with w divided by its mean at each place (Swaminathan & Joachims 2015): a little biased,
  much less noisy, and within the range of the clicks.
- Doubly robust (Dudík et al. 2011): a model's prediction q of every click, corrected by IPS of its error.
  Unbiased if either the propensities or the model are right; if both are, the narrowest.

All of them assume that a click on a candidate depends on the candidate and its place, not on where the
others are, and that every placement the policy would choose had a probability above 0. Intervals are for the
mean over requests, which are assumed independent; the candidates of a request are not.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freshet.decide.paired import LEVEL, Interval, normal_quantile

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Logged(NamedTuple):
    """n candidates of R requests, as they were shown."""

    request: Ints  # (n,), from 0, ascending
    place: Ints  # (n,), from 0
    propensity: Floats  # (n,), over 0
    y: Floats  # (n,), clicked or not, or what else was earned

    @property
    def requests(self) -> int:
        """R."""
        return int(self.request[-1]) + 1


class Estimate(NamedTuple):
    """An estimated value per request."""

    value: Interval
    per_request: Floats  # (R,): the mean is the value; the variance gives its interval


def per_request(logged: Logged, rows: Floats) -> Floats:
    """Sums of rows (n,) by request, (R,)."""
    return np.bincount(logged.request, rows, logged.requests).astype(np.float64)


def on_policy(logged: Logged) -> Estimate:
    """The value of the logged order."""
    return _of(per_request(logged, logged.y))


def ips(logged: Logged, weight: Floats) -> Estimate:
    """Inverse propensity scoring, with weights w (n,)."""
    return _of(per_request(logged, weight * logged.y))


def snips(logged: Logged, weight: Floats) -> Estimate:
    """Self-normalised inverse propensity scoring: the weights of each place have the mean 1.

    A place that the policy never uses where it was shown earns nothing.
    """
    places = int(logged.place.max(initial=0)) + 1
    count, total, clicked = (
        np.bincount(logged.place, part, places) for part in (np.ones_like(weight), weight, weight * logged.y)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(total > 0.0, total / count, 1.0)[logged.place]
        rate = np.where(total > 0.0, clicked / total, 0.0)[logged.place]
    value = float(per_request(logged, weight * logged.y / mean).mean())
    # The error of a ratio, by the delta method.
    left = per_request(logged, weight * (logged.y - rate) / mean)
    return _of(left + (value - left.mean()))


def doubly_robust(logged: Logged, weight: Floats, q: Floats, expected: Floats) -> Estimate:
    """Doubly robust: a model's prediction, corrected by IPS of its error.

    Args:
        weight: (n,).
        q: (n,), the predicted click probability of each candidate at the place where it was shown.
        expected: (n,), the same at the place where the policy puts it.
    """
    return _of(per_request(logged, expected + weight * (logged.y - q)))


def effective_requests(logged: Logged, weight: Floats) -> float:
    """The effective number of requests (Kish 1965): (sum W)^2 / sum W^2 of their sums."""
    sums = per_request(logged, weight)
    squares = float((sums * sums).sum())
    return float(sums.sum()) ** 2 / squares if squares else 0.0


def greedy_places(logged: Logged, score: Floats) -> Ints:
    """The place of each candidate, (n,), if the highest score gets the first of the places shown.

    Ties go to the candidate that comes first.
    """
    n = len(score)
    by_score = np.lexsort((np.arange(n), -score, logged.request))
    by_place = np.lexsort((logged.place, logged.request))
    target = np.empty(n, dtype=np.int64)
    target[by_score] = logged.place[by_place]
    return target


def greedy_weight(logged: Logged, target: Ints) -> Floats:
    """The weights (n,) of a policy that puts every candidate at its `target` (n,) for certain."""
    return np.where(target == logged.place, 1.0 / logged.propensity, 0.0)


def guesses(logged: Logged, p: Floats, target: Ints, most: float = 1.0) -> tuple[Floats, Floats]:
    """Predicted clicks at the places shown and at the target's places: (q, expected), (n,) each.

    The model's p (n,) does not depend on the place. The factor of each place is estimated from the log:
    clicks divided by predicted clicks at that place.

    Args:
        logged: what was shown, (n,) candidates.
        p: (n,).
        target: (n,), the places of another order.
        most: what a candidate earns at most.
    """
    places = int(logged.place.max(initial=0)) + 1
    # inverse propensities remove the bias of which candidates are shown further down
    inverse = 1.0 / logged.propensity
    clicks, said = (np.bincount(logged.place, part * inverse, places) for part in (logged.y, p))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(said > 0.0, clicks / said, 0.0)
    return np.minimum(p * share[logged.place], most), np.minimum(p * share[target], most)


def difference(first: Estimate, other: Estimate) -> Interval:
    """The value of `other` minus the value of the first, paired by request."""
    return _of(other.per_request - first.per_request).value


def _of(values: Floats) -> Estimate:
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(Interval(mean, -np.inf, np.inf), values)
    z = normal_quantile(0.5 + LEVEL / 2.0)
    half = z * float(values.std(ddof=1)) / float(np.sqrt(len(values)))
    return Estimate(Interval(mean, mean - half, mean + half), values)

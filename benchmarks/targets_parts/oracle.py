"""The best that can be predicted of conversions that come late, by who knows how the world was made.

The oracle knows all of the world but the draws: which deviations people, items and steps of the drift have,
and the law of the delays. It keeps the posterior of every person's and item's logit, and of each step (a
Gaussian at its mode, by Fisher scoring), given what has been seen at that time. A purchase that has not come
at age a has the likelihood 1 - p F(a), where F is the share of purchases that come within a. So no click has
to wait, and none is learned as what it is not. That is near the best that the same information allows; being
an approximation it is no strict bound.
"""

import numpy as np
import numpy.typing as npt

from targets_parts.conversions import Conversions, Floats, Ints

REFIT = 256
"""Clicks from one posterior to the next."""
ROUNDS, CLOSE = 30, 1e-3
"""Rounds of Fisher scoring at most, none of which moves a logit by more than 1; and the last step."""


def oracle(world: Conversions, how: str) -> Floats:
    """Predictions for the last half of the clicks, each made when it comes, (n - n // 2,).

    Args:
        how: `seen`: with what was seen until then; `wait`: with the labels of clicks whose window is over;
            `at once`: as if all labels were known when the click comes.
    """
    segments = world.n // world.SEGMENT + 1
    size = world.PEOPLE + segments * world.ITEMS
    step = np.arange(world.n) // world.SEGMENT
    place = world.PEOPLE + step * world.ITEMS + world.item  # of each click's item, at its step
    prior = _prior(world, segments)
    at = np.zeros(size)
    predicted = np.empty(world.n)
    for now in range(world.n // 2, world.n, REFIT):
        clicks = np.arange(now)
        age = now - clicks
        share = world.come(age) if how == "seen" else np.ones(now)
        if how == "wait":
            clicks, share = clicks[age >= world.WINDOW], share[age >= world.WINDOW]
        bought = world.label[clicks] > 0.0
        if how == "seen":
            bought &= world.delay[clicks] < age
        at, precision = _posterior(at, prior, world.offset, world.user[clicks], place[clicks], share, bought)
        asked = np.arange(now, min(now + REFIT, world.n))
        variance = np.linalg.inv(precision)
        user, item = world.user[asked], place[asked]
        spread = variance[user, user] + variance[item, item] + 2.0 * variance[user, item]
        logit = (at[user] + at[item] + world.offset) / np.sqrt(1.0 + np.pi / 8.0 * spread)
        predicted[asked] = 1.0 / (1.0 + np.exp(-logit))
    return predicted[world.n // 2 :]


def _prior(world: Conversions, segments: int) -> Floats:
    """The precision of people's logits, then of the items' at each step: a random walk."""
    size = world.PEOPLE + segments * world.ITEMS
    precision = np.zeros((size, size))
    people = np.arange(world.PEOPLE)
    precision[people, people] = world.TASTE**-2
    first = world.PEOPLE + np.arange(world.ITEMS)
    precision[first, first] = 1.0 / (world.TASTE**2 + world.STEP**2)
    old = world.PEOPLE + np.arange((segments - 1) * world.ITEMS)
    new = old + world.ITEMS
    step = world.STEP**-2
    precision[old, old] += step
    precision[new, new] += step
    precision[old, new] = precision[new, old] = -step
    return precision


def _posterior(
    at: Floats,
    prior: Floats,
    offset: float,
    user: Ints,
    item: Ints,
    share: Floats,
    bought: npt.NDArray[np.bool_],
) -> tuple[Floats, Floats]:
    """The mode and the precision there, beginning the search at `at`.

    Args:
        prior: (m, m), precision; the mean is 0.
        offset: of all logits.
        user, item: (k,), the two weights of each click.
        share: (k,), of the purchases that would have come.
        bought: (k,), whether one has.
    """
    for _ in range(ROUNDS):
        p = 1.0 / (1.0 + np.exp(-(at[user] + at[item] + offset)))
        missing = np.maximum(1.0 - share * p, 1e-9)
        error = np.where(bought, 1.0 - p, -share * p * (1.0 - p) / missing)
        curvature = share * p * (1.0 - p) ** 2 / missing
        precision = prior.copy()
        np.add.at(precision, (user, user), curvature)
        np.add.at(precision, (item, item), curvature)
        np.add.at(precision, (user, item), curvature)
        np.add.at(precision, (item, user), curvature)
        gradient = np.bincount(user, error, len(at)) + np.bincount(item, error, len(at)) - prior @ at
        moved = np.linalg.solve(precision, gradient)
        moved /= max(1.0, float(np.abs(moved).max()))
        at = at + moved
        if np.abs(moved).max() < CLOSE:
            break
    return at, precision

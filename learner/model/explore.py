"""Thompson sampling: ranks candidates by one draw from the posterior, to explore uncertain ones.

Every weight of the fast part is a Gaussian N(μ, P), of a value by its learned noise. A draw samples each
weight and sums the samples as a prediction sums the means. Ranking by draws shows a candidate with the
probability that it is the best (Thompson 1933; Chapelle & Li 2011). The deep part has no uncertainty and is
added unchanged.

Only features' weights that keep all their evidence are drawn. Pairs, weights that forget within ten sightings
and count buckets are uncertain too, but better knowledge of them does not last or does not matter. Drawing
them made regret 1.2 to 1.6 times as large on worlds with new items or people.

A weight's draw depends on the seed and on the weight's column, key and speed. So candidates of a request that
share a weight share its draw, and shared weights cannot reorder them.
"""

import copy
from collections.abc import Sequence
from math import cos, log, pi, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ground.kernels.mixing import mix
from learner.fast.part import FastInputs, FastOutputs
from learner.features.encoder import Batch, Requestlike
from learner.model.model import Model, Predicted
from learner.model.trust import blend

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_S11 = np.uint64(11)
_UNIT = 2.0**-53


class Slate(NamedTuple):
    """A drawn order of n candidates, and the probability of each candidate's position."""

    order: list[int]  # candidates, the first to be shown first
    propensity: list[float]  # (n,), by candidate; see `sample_slate`


def thompson(model: Model, requests: Sequence[Requestlike], seed: int) -> npt.NDArray[np.float64]:
    """One draw of each candidate's logit, (n,), before shrinking; changes nothing.

    Args:
        model: a learner's or a replica's.
        requests: as for `Model.score_requests`.
        seed: give each draw its own, for example a count of requests.

    Raises:
        FeatureError: a value does not fit its feature's kind.
    """
    batch = model.encoder.encode(requests)
    beliefs = beliefs_of(model, batch, model.predict(batch))
    return draw(beliefs, np.array([seed], dtype=np.uint64))[0]


class Beliefs(NamedTuple):
    """The posterior of n candidates, copied, since the model may change meanwhile."""

    mean: npt.NDArray[np.float64]  # (n,), logits; of a value means, in its units
    inputs: FastInputs
    key: npt.NDArray[np.uint64]  # (E,)
    first_tau: npt.NDArray[np.int32]  # (columns,), see `WeightColumns`; the rest is of one target
    column_speeds: npt.NDArray[np.int32]
    weight_at: npt.NDArray[np.int32]
    features: int
    tau: npt.NDArray[np.float64]
    keep: npt.NDArray[np.float64]
    trust: tuple[float, float]  # how predictions are drawn towards the running rate, see `Trust.parts`


def beliefs_of(model: Model, batch: Batch, predicted: Predicted, target: int = 0) -> Beliefs:
    """The posterior of a batch.

    Args:
        predicted: the model's prediction of the batch.
        target: the number of the target that was predicted.
    """
    fast, outputs = model.fast, predicted.outputs
    mine = slice(target * fast.width, (target + 1) * fast.width)
    mean = outputs.logit.copy()
    if model.network is not None:
        # The deep part corrects the mean, and is added to a draw in the same way.
        said = model.scales.logits(outputs, np.full(len(mean), target))
        mean = mean + model.trust.unblend(predicted.z, target) - said
    return Beliefs(
        mean=mean,
        inputs=copy.deepcopy(predicted.inputs),
        key=predicted.rows.key,
        first_tau=fast.columns.first_tau,
        column_speeds=fast.speeds_of(target),
        weight_at=fast.columns.weight_at.reshape(fast.targets, -1)[target],
        features=len(model.encoder.names),
        tau=fast.priors.tau[mine].copy(),
        keep=fast.priors.keep[mine].copy(),
        trust=model.trust.parts(target),
    )


def known_weights(outputs: FastOutputs) -> FastOutputs:
    """The outputs of a prediction as they are in a world whose weights are drawn: without uncertainty."""
    return outputs._replace(variance=np.zeros_like(outputs.variance))


def draw(beliefs: Beliefs, seeds: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """M draws of each candidate's logit, (M, n), one for each seed."""
    inputs = beliefs.inputs
    drawn = np.repeat(beliefs.mean[None], len(seeds), axis=0)
    _disturb(
        inputs.start, inputs.column, beliefs.key, inputs.x, inputs.place, inputs.weights,
        beliefs.first_tau, beliefs.column_speeds, beliefs.weight_at, beliefs.features, beliefs.tau,
        beliefs.keep, seeds, drawn,
    )  # fmt: skip
    return drawn


def sample_slate(beliefs: Beliefs, shift: npt.NDArray[np.float64], seed: int, draws: int) -> Slate:
    """One request's candidates in the order of one draw, with their propensities.

    A candidate's propensity is the probability that a draw puts it at the same position. It has no
    closed form, so it is estimated by counting: this draw and M further ones, of which c agree with it, give
    q = (c + 1) / (M + 1). For a probability P that estimate is too high by (1 - P) / (M + 1) and has a
    standard error of sqrt(P (1 - P) / M). An off-policy estimate that divides by it is nearly unbiased
    nevertheless: E[1/q] = (1 - (1 - P)^(M + 1)) / P, which is 1/P where P is well above 1/M, and never more.

    Args:
        beliefs: of the one request.
        shift: (n,), added to every draw's logits: an error memory's correction.
        seed: decides the order.
        draws: M.
    """
    return slate_of(blend(draw(beliefs, seeds_of(seed, draws + 1)), *beliefs.trust) + shift)


def slate_of(drawn: npt.NDArray[np.float64]) -> Slate:
    """The order of the first of M + 1 draws of n candidates' scores, (M + 1, n); see `sample_slate`."""
    order = np.argsort(-drawn, axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(order.shape[1])[None], axis=1)
    agreeing = (place == place[0]).sum(axis=0)
    return Slate(order[0].tolist(), (agreeing / len(drawn)).tolist())


def seeds_of(seed: int, count: int) -> npt.NDArray[np.uint64]:
    """The seeds of several draws, derived from one seed, which is the first of them."""
    numbers = np.full(count, seed, dtype=np.uint64)
    numbers[1:] = mix_all(numbers[1:] ^ (np.arange(1, count, dtype=np.uint64) * _GOLDEN))
    return numbers


@njit(cache=True, nogil=True)
def mix_all(numbers):
    """`mix` of each, (k,) uint64."""
    out = np.empty_like(numbers)
    for i in range(len(numbers)):
        out[i] = mix(numbers[i])
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _normal(seed, column, key, speed):
    """A standard normal number computed from the four arguments (Box & Muller 1958)."""
    a = mix(mix(mix(seed * _GOLDEN + np.uint64(column)) + key) * _GOLDEN + np.uint64(speed))
    b = mix(a + _GOLDEN)
    u = (np.float64(a >> _S11) + 0.5) * _UNIT
    return sqrt(-2.0 * log(u)) * cos(2.0 * pi * np.float64(b >> _S11) * _UNIT)


@njit(cache=True, nogil=True, error_model="numpy")
def _disturb(
    start, column, key, x, place, weights, first_tau, column_speeds, weight_at, features, tau, keep, seeds,
    drawn,
):  # fmt: skip
    """Add to the mean logits `drawn` (M, n) their lasting weights' draws; arguments as in
    `learner.fast.kernels`."""
    noise = np.zeros(len(column))
    for m in range(len(seeds)):
        for r in range(len(start) - 1):
            size = start[r + 1] - start[r]
            like = r > 0 and start[r] - start[r - 1] == size
            for e in range(start[r], start[r + 1]):
                c = column[e]
                if c >= features:
                    continue
                if like and column[e - size] == c and key[e - size] == key[e]:
                    noise[e] = noise[e - size]  # as the request's own features
                else:
                    noise[e] = 0.0
                    for k in range(column_speeds[c]):
                        t = first_tau[c] + k
                        if keep[t] == 1.0:
                            L = (
                                weights[place[e], weight_at[c] + 2 * k + 1]
                                if place[e] >= 0
                                else np.float32(0.0)
                            )
                            noise[e] += sqrt(1.0 / (1.0 / tau[t] + L)) * _normal(seeds[m], c, key[e], k)
                drawn[m, r] += x[e] * noise[e]

"""Thompson sampling: one draw from what the model believes, to try what it does not know.

Every weight of the fast part is a Gaussian N(μ, P). A draw takes one value of each weight and adds
them up as the mean prediction would; ranking by it shows a candidate as often as it may well be the
best one (Thompson 1933; Chapelle & Li 2011). The deep part, which knows no uncertainty, is added as
it is.

A weight's draw follows from the seed and the weight's own name (column, key, speed), so candidates
of one request that share a weight share its draw: what they have in common cannot reorder them.
"""

from collections.abc import Sequence
from math import cos, log, pi, sqrt

import numpy as np
import numpy.typing as npt
from numba import njit

from ground.mixing import mix
from learner.features import Requestlike
from learner.model import Model, bayes_logit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_S11 = np.uint64(11)
_UNIT = 2.0**-53


def thompson(model: Model, requests: Sequence[Requestlike], seed: int) -> npt.NDArray[np.float64]:
    """One draw of each candidate's logit, (n,); changes nothing.

    Args:
        model: a learner's or a replica's.
        requests: as for `Model.score_requests`.
        seed: another number gives another draw: a count of requests, say.

    Raises:
        FeatureError: a value does not fit its feature's kind.
    """
    batch = model.encoder.encode(requests)
    gathered = model.gather(batch, insert=False)
    fast, inputs = model.fast, gathered.inputs
    outputs = fast.run(inputs)
    drawn = np.empty(len(outputs.logit))
    _draw(
        inputs.start, inputs.column, batch.rows.key, inputs.x, inputs.place, inputs.weights,
        fast.first_tau, fast.column_speeds, fast.count_of, fast.counts_at, fast.count_weights,
        outputs.buckets, fast.bias, fast.priors.tau, np.uint64(seed), drawn,
    )  # fmt: skip
    if model.network is not None:
        # A draw is no mean of many: the deep part corrects the mean, so it is added to the draw.
        drawn += model.score(batch).z - bayes_logit(outputs)
    return drawn


@njit(cache=True, nogil=True, error_model="numpy")
def _normal(seed, column, key, speed):  # type: ignore[no-untyped-def]
    """A standard normal number that these four decide (Box & Muller 1958)."""
    a = mix(mix(mix(seed * _GOLDEN + np.uint64(column)) + key) * _GOLDEN + np.uint64(speed))
    b = mix(a + _GOLDEN)
    u = (np.float64(a >> _S11) + 0.5) * _UNIT
    return sqrt(-2.0 * log(u)) * cos(2.0 * pi * np.float64(b >> _S11) * _UNIT)


@njit(cache=True, nogil=True, error_model="numpy")
def _draw(  # type: ignore[no-untyped-def]
    start, column, key, x, place, weights,
    first_tau, column_speeds, count_of, counts_at, count_weights,
    buckets, bias, tau, seed, drawn,
):  # fmt: skip
    """Fill `drawn` (n,) with one draw of each row's fast logit; the arguments are as in `learner.fast`."""
    for r in range(len(start) - 1):
        f = bias[0] + sqrt(bias[1]) * _normal(seed, -1, np.uint64(0), 0)
        for e in range(start[r], start[r + 1]):
            c = column[e]
            for k in range(column_speeds[c]):
                b, L = 0.0, 0.0
                if place[e] >= 0:
                    b, L = weights[place[e], 2 * k], weights[place[e], 2 * k + 1]
                P = 1.0 / (1.0 / tau[first_tau[c] + k] + L)
                f += x[e] * (b * P + sqrt(P) * _normal(seed, c, key[e], k))
            q = count_of[c]
            if q >= 0:
                bucket = buckets[r, q]
                P = 1.0 / (1.0 / tau[counts_at + q] + count_weights[q, bucket, 1])
                mean = count_weights[q, bucket, 0] * P
                f += mean + sqrt(P) * _normal(seed, c, np.uint64(bucket), 99)
        drawn[r] = f

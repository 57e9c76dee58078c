"""Thompson sampling: one draw from what the model believes, to try what it does not know.

Every weight of the fast part is a Gaussian N(μ, P). A draw takes one value of each weight and adds
them up as the mean prediction would; ranking by it shows a candidate as often as it may well be the
best one (Thompson 1933; Chapelle & Li 2011). The deep part, which knows no uncertainty, is added as
it is.

Only what trying can teach is drawn: the features' weights that keep all their evidence. A pair met
once, a weight that forgets within ten sightings, or a count bucket is as uncertain as it says, but
knowing it better would not last or not matter, and drawing it cost more than it found: regret was
1.2 to 1.6 times as large on worlds with new items or people.

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
    """One draw of each candidate's logit, (n,), before shrinking; changes nothing.

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
    drawn = outputs.logit.copy()
    _disturb(
        inputs.start, inputs.column, batch.rows.key, inputs.x, inputs.place, inputs.weights,
        fast.first_tau, fast.column_speeds, len(model.encoder.names), fast.priors.tau, fast.priors.keep,
        np.uint64(seed), drawn,
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
def _disturb(  # type: ignore[no-untyped-def]
    start, column, key, x, place, weights, first_tau, column_speeds, features, tau, keep, seed, drawn
):
    """Add to each mean logit `drawn` (n,) its lasting weights' draws; arguments as in `learner.fast`."""
    for r in range(len(start) - 1):
        for e in range(start[r], start[r + 1]):
            c = column[e]
            if c >= features:
                continue
            for k in range(column_speeds[c]):
                t = first_tau[c] + k
                if keep[t] == 1.0:
                    L = weights[place[e], 2 * k + 1] if place[e] >= 0 else np.float32(0.0)
                    drawn[r] += x[e] * sqrt(1.0 / (1.0 / tau[t] + L)) * _normal(seed, c, key[e], k)

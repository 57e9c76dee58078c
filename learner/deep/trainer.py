"""Training the deep part: one Adam step per group of rows.

The deep part is a residual on the fast logit. `learner.deep.networks` has the networks and their prediction
in numpy. `learner.deep.dcn_train` trains the default network in one kernel, `learner.deep.autograd` the
others.
"""

from math import isnan
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ground.kernels.logistic import sigmoid_short
from learner.deep.networks import Array, Network
from learner.lessons import Lessons

Floats = npt.NDArray[np.float64]


# The numpy error model: a branch for division by zero would prevent vectorization of loops (10 times slower).
@njit(cache=True, nogil=True, error_model="numpy")
def take_step(weights, gradient, moments, steps, rows, rate, clip):
    """One step of Adam by the mean of a group's gradients, clipped to the norm `clip`.

    Embedding rows are trained on the sum of gradients, the network on the mean.

    Args:
        weights: (W,) float32, updated in place.
        gradient: (W,) float32, of the group's summed loss.
        moments: (2, W) float32, updated in place.
        steps: the number of this step, from 1.
        rows: of the group.
        rate: the step size.
        clip: the largest norm of the mean gradient.

    Returns:
        False if the gradient is not finite; nothing was changed then.
    """
    norm = np.sqrt(np.float64(_squares(gradient)))
    if not np.isfinite(norm):
        return False
    scale = 1.0 / rows
    if norm * scale > 0.999 * clip:  # rare; the exact norm takes ten times as long
        norm = _norm(gradient)
        if norm * scale > clip:
            scale = clip / norm
    _adam(weights, gradient, moments, steps, scale, rate)
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _adam(weights, gradient, moments, steps, scale, rate):
    """One step of Adam (Kingma & Ba 2015; betas .9 and .999) in one pass over the weights.

    Args:
        weights: (W,) float32, updated in place.
        gradient: (W,) float32.
        moments: (2, W) float32, updated in place.
        steps: the number of this step, from 1.
        scale: factor on the gradient.
        rate: the step size.
    """
    by = np.float32(scale)
    step = np.float32(rate / (1.0 - 0.9**steps))
    correct = np.float32((1.0 - 0.999**steps) ** -0.5)
    m, v = moments[0], moments[1]
    for i in range(len(weights)):
        g = gradient[i] * by
        m[i] += np.float32(0.1) * (g - m[i])
        v[i] += np.float32(0.001) * (g * g - v[i])
        weights[i] -= step * m[i] / (np.sqrt(v[i]) * correct + np.float32(1e-8))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc"})
def _squares(x):
    """The sum of squares, approximately: the order of the sum is not fixed."""
    total = np.float32(0.0)
    for i in range(len(x)):
        total += x[i] * x[i]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _norm(x):
    """The square root of the sum of squares, in float64 and in order: the same on every processor."""
    total = 0.0
    for i in range(len(x)):
        total += np.float64(x[i]) * np.float64(x[i])
    return np.sqrt(total)


class Step(NamedTuple):
    """The result of training on one group."""

    by_inputs: Array  # (n, embedding_width), gradient of the summed loss by the embeddings
    z: Floats  # (n,), logits before the step


class DeepTrainer:
    """Trains the weights of one network in place: one Adam step per group.

    Args:
        network: the network to train.
        flat: (weight_count,) the weights, shared with the model that predicts with them.
        moments: (2, weight_count) Adam's two moments, shared likewise.
        steps: how many steps have been taken already.
        rate: Adam's step size.
        clip: the largest norm of the gradient.
        threads: of the library, if one is used.
        correction: the share of ReLoop's self-correction loss, 0 to 1; see `by_logit`.
    """

    def __init__(
        self,
        network: Network,
        flat: Array,
        moments: Array,
        steps: int,
        rate: float,
        clip: float,
        threads: int,
        correction: float = 0.0,
    ) -> None:
        self.network = network
        self.flat = flat
        self.moments = moments
        self.steps = steps
        self.rate = rate
        self.clip = clip
        self.threads = threads
        self.correction = correction

    def step(
        self,
        inputs: Array,
        embedding_width: int,
        offset: Floats,
        lessons: Lessons,
        reference: Floats | None = None,
    ) -> Step | None:
        """Predict a group and train on it.

        Args:
            inputs: (n, width), of which the first `embedding_width` are embeddings.
            offset: (n,) the logit that the residual is added to.
            lessons: of the n rows.
            reference: (n,) reference logits for self-correction; None: the offsets.

        Returns:
            The gradient by the embeddings and the logits before the step; or None if the loss or a
            gradient was not finite; nothing was learned then.
        """
        raise NotImplementedError


@njit(cache=True, nogil=True, error_model="numpy")
def by_logit(z, y, weight, before, noise, reference, correction):
    """The gradient of one row's loss by its logit z, as float32.

    With p = σ(z), the reference prediction q = σ(reference), and α = `correction`, the loss is

        (1 - α) logloss(p, y) + α [y max(q - p, 0) + (1 - y) max(p - q, 0)]

    whose second part is ReLoop's self-correction loss (Cai et al. 2022, arXiv 2204.11165): it is
    zero if the prediction is already better than the reference. A row that was learned before with another
    label has the difference of the two log losses, which is a line by the logit. A value's loss is
    (z - y)² / (2 noise).

    Args:
        weight, before, noise: as in `Lessons`.
    """
    if not isnan(before):
        return np.float32(weight * (before - y) / (noise if noise > 0.0 else 1.0))
    if noise > 0.0:
        return np.float32(weight * (z - y) / noise)
    p = sigmoid_short(z)
    gradient = p - y
    if correction > 0.0:
        worse = z < reference if y > 0.5 else z > reference
        by_p = 0.0 if not worse else -1.0 if y > 0.5 else 1.0
        gradient = (1.0 - correction) * gradient + correction * by_p * p * (1.0 - p)
    return np.float32(weight * gradient)


@njit(cache=True, nogil=True, error_model="numpy")
def by_logits(z, lessons, reference, correction):
    """`by_logit` of each row of `Lessons`: z, reference (n,) float64; returns (n,) float32."""
    y, _, weight, before, _, noise = lessons
    gradient = np.empty(len(z), dtype=np.float32)
    for s in range(len(z)):
        gradient[s] = by_logit(z[s], y[s], weight[s], before[s], noise[s], reference[s], correction)
    return gradient

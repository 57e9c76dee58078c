"""The Bayesian linear model whose priors learn: one step of a diagonal extended Kalman filter.

Assumed-density filtering for logistic regression with automatic relevance determination. Every
weight is a Gaussian kept as natural parameters (b, L): the evidence, without the prior. The prior
variance τ belongs to the weight's column and is learnt by gradient, so a changed τ re-shrinks every
weight of its column at once and a useless column fades to nothing by itself.

Both users of the model (the learner's fast part and the error memory) gather one row's weights into
a small scratch block, call `predict` and `learn` on it, and scatter it back; where the weights live
is their affair.

Names follow the literature: μ mean, P variance, f logit, s² its variance, e error, h curvature.
"""

from math import exp, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ground.kernels.logistic import sigmoid

PROBIT = 0.3927
"""π/8: the logistic of a Gaussian logit is close to the logistic of f / sqrt(1 + π/8 s²) (MacKay 1992)."""

TAU_MIN, TAU_MAX = 1e-4, 20.0
THETA_MIN, THETA_MAX = -5.0, 3.0
TAU_RATE, TAU_SQUARES = 0.3, 0.1
"""Adagrad's rate, and where its sums begin: from 1 a prior takes long to move where clicks are rare."""
EVIDENCE_MAX = 1e12


class Priors(NamedTuple):
    """Prior variances of T weight columns and the state of their learning. All arrays have shape (T,)."""

    tau: npt.NDArray[np.float64]  # prior variance now
    tau0: npt.NDArray[np.float64]  # where it started
    theta: npt.NDArray[np.float64]  # ln(tau / tau0)
    grad2: npt.NDArray[np.float64]  # sum of squared gradients, from TAU_SQUARES (Adagrad)
    keep: npt.NDArray[np.float64]  # λ: the share of evidence kept at each sighting


def make_priors(tau0: npt.ArrayLike, keep: npt.ArrayLike) -> Priors:
    """Fresh priors for columns that start at variance `tau0` and keep `keep` of their evidence, both (T,)."""
    start = np.array(tau0, dtype=np.float64)
    return Priors(
        tau=start.copy(),
        tau0=start,
        theta=np.zeros_like(start),
        grad2=np.full_like(start, TAU_SQUARES),
        keep=np.array(keep, dtype=np.float64),
    )


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def posterior(b, L, tau):
    """Mean and variance of a weight with evidence (b, L), of prior variance `tau`."""
    P = tau / (1.0 + tau * L)
    return b * P, P


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def add_up(x, n, mean, P):
    """Logit and its variance, without any bias, of `n` weights' means and variances, in their order."""
    f = 0.0
    s2 = 0.0
    for i in range(n):
        f += x[i] * mean[i]
        s2 += x[i] * x[i] * P[i]
    return f, s2


@njit(cache=True, nogil=True, error_model="numpy")
def predict(w, column, x, n, tau, mean, P):
    """Logit and its variance from the first `n` weights of a scratch block.

    Args:
        w: (m, 2) float64, each row one weight's (b, L).
        column: (m,) int32, each weight's column, an index into `tau`.
        x: (m,) float64, each weight's input value.
        n: how many rows are in use.
        tau: (T,) float64, prior variances.
        mean, P: (m,) float64, out: each weight's mean and variance, for `learn`.

    Returns:
        (f, s²) without any bias.
    """
    for i in range(n):
        mean[i], P[i] = posterior(w[i, 0], w[i, 1], tau[column[i]])
    return add_up(x, n, mean, P)


@njit(cache=True, nogil=True, error_model="numpy")
def shrink(f, s2):
    """The logit whose logistic is the honest probability of a Gaussian logit N(f, s²)."""
    return f / sqrt(1.0 + PROBIT * s2)


@njit(cache=True, nogil=True, error_model="numpy")
def learn(w, column, x, n, mean, P, tau, tau0, theta, grad2, keep, f, s2, y):
    """Learn one label: move the first `n` weights of the block, in place, and their columns' priors.

    The filter's step μ' = μ + P x e d, P' = P - P² x² h d in natural parameters, where no difference of
    large numbers is left:

        q = 1 / (1 - x² P h d)     b ← λ (b + x e d) q     L ← λ (L + x² h d q)

    Args:
        w, column, x, n, mean, P: as `predict` left them.
        tau, tau0, theta, grad2, keep: the arrays of a `Priors`, moved in place.
        f, s2: the whole logit and its variance, bias and offsets included.
        y: the label, 0 or 1.

    Returns:
        (e, h, d): error, curvature and damping, for weights that the caller keeps itself (a bias).
    """
    e, h = error_of(f, s2, y)
    d = move(w, column, x, n, mean, P, tau, tau0, theta, grad2, keep, s2, e, h, True)
    return e, h, d


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def error_of(f, s2, y):
    """(e, h): the error of label y by the logit f of variance s², and the curvature of its log loss."""
    p = sigmoid(shrink(f, s2))
    return y - p, p * (1.0 - p)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def move(w, column, x, n, mean, P, tau, tau0, theta, grad2, keep, s2, e, h, sighted):
    """The step of `learn` for any log likelihood of gradient e and curvature -h by the logit.

    Args:
        sighted: False: older evidence is kept whole, since this corrects an example that was counted before.

    Returns:
        d, the damping 1 / (1 + h s²).
    """
    return move_apart(w, column, x, n, mean, P, tau, tau0, theta, grad2, keep, s2, e, h, sighted, e)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def move_apart(w, column, x, n, mean, P, tau, tau0, theta, grad2, keep, s2, e, h, sighted, e_prior):
    """`move`, with another error e_prior by which the columns' priors move.

    Returns:
        d, the damping 1 / (1 + h s²).
    """
    d = 1.0 / (1.0 + h * s2)
    ed = e * d
    hd = h * d
    for i in range(n):
        kept = keep[column[i]] if sighted else 1.0
        x2hd = x[i] * x[i] * hd
        q = kept / (1.0 - P[i] * x2hd)
        w[i, 0] = (w[i, 0] + x[i] * ed) * q
        w[i, 1] = min(kept * w[i, 1] + x2hd * q, EVIDENCE_MAX)
    for i in range(n):
        # A weight without evidence carries no information about its column.
        if mean[i] == 0.0:
            continue
        c = column[i]
        g = e_prior * x[i] * mean[i] * P[i] / tau[c]
        grad2[c] += g * g
        theta[c] = min(max(theta[c] + TAU_RATE * g / sqrt(grad2[c]), THETA_MIN), THETA_MAX)
        tau[c] = min(max(tau0[c] * exp(theta[c]), TAU_MIN), TAU_MAX)
    return d


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def correct(w, column, x, n, mean, P, tau, keep, p, e):
    """Learn the difference of the log losses of two labels, of an example that was learned with the first.

    It is a line by the logit: gradient e, curvature 0, however far the logit goes. So that many of them in a
    row do not overshoot,

    - evidence grows with the curvature p (1 - p) of what was learned before, which was measured at the old
      logit: a step of P x² e changes it by the factor 1 + (1 - 2p) P x² e. Where it falls it is left alone;
    - weights forget, as at a sighting: one that holds the last hundred lessons holds that many corrections;
    - priors do not move. The corrections of a burst agree with each other, so all that the first of them has
      moved would look useful to the next.

    Args:
        w, column, x, n, mean, P: as `predict` left them; `w` is moved.
        p: the honest probability.
        e: the new label minus the old one, times the example's weight.
    """
    growth = growth_of(p, e)
    for i in range(n):
        kept = keep[column[i]]
        L = w[i, 1] + growth * x[i] * x[i] * P[i] * w[i, 1]
        w[i, 0] = kept * (mean[i] + P[i] * x[i] * e) * (1.0 / tau[column[i]] + L)
        w[i, 1] = min(kept * L, EVIDENCE_MAX)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def growth_of(p, e):
    """By how much evidence grows at a correction of size e, per step of its logit and per evidence."""
    return max((1.0 - 2.0 * p) * e, 0.0)

"""The kernels of the fast part: weigh a row, predict rows, learn requests.

Their arguments are named tuples of arrays. A kernel takes them apart once, before its loops: taking an array
out of a tuple inside a loop changes reference counts there, and learning takes a third longer.
"""

from math import isnan, log2, sqrt

import numpy as np
from numba import njit

from ground.kernels import bayes
from learner.fast.late import LATE, note_correction, note_sighting
from learner.fast.spread import IS_VALUE, learn_labels, learn_noise, spread_of

BIAS_VARIANCE = 4.0
"""Variance of the bias before anything is learned, and its upper limit: a click rate of 2 % is two
deviations from even odds.

The bias must know less than the weights of new ids together. Otherwise those weights learn the mean click
rate of the stream, and every new id starts without its share of it."""

BIAS_KEEP = 0.9999
"""The share of its evidence that the bias keeps at each row."""


@njit(cache=True, nogil=True, error_model="numpy")
def write_scales(tau, tau0, tau_at, scale_at, scale_by, embedding_scale):
    """Write the factor by which the deep part scales each feature's embedding, `embedding_scale` (n, F).

    `tau_at` is where the weight columns of the rows' target begin.
    """
    for j in range(len(scale_at) - 1):
        most = 0.0 if scale_at[j] < scale_at[j + 1] else 1.0  # a sequence has no weights to go by
        for i in range(scale_at[j], scale_at[j + 1]):
            t = tau_at + scale_by[i]
            most = max(most, tau[t] / tau0[t])
        embedding_scale[:, j] = sqrt(min(most, 1.0))


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _weigh(
    r, follows, target, start, column, x, place, weights, counts,
    first_tau, column_speeds, weight_at, count_of, counts_at, width, count_weights, tau,
    buckets, left, counts_left, w, c, xs, mean, P,
):  # fmt: skip
    """Put row r's weights for a target, with their means and variances, into the scratch block; returns
    their number.

    `follows`: the scratch block holds row r - 1 and no weight has moved since. Entries that row r shares
    with that row are then kept and not computed again.
    """
    size = start[r + 1] - start[r]
    like = follows and start[r] - start[r - 1] == size  # equal to row r - 1, as far as compared
    m = 0
    tau_at = target * width
    columns_at = target * len(first_tau)
    for e in range(start[r], start[r + 1]):
        col = column[e]
        i = place[e]
        q = count_of[col]
        speeds = column_speeds[columns_at + col]
        at = weight_at[columns_at + col]
        like = like and column[e - size] == col
        if like and place[e - size] == i:
            left[e] = left[e - size]
            for _ in range(speeds):
                xs[m] = x[e]
                m += 1
            if q >= 0:
                buckets[r, q] = buckets[r - 1, q]
                counts_left[r, q] = counts_left[r - 1, q]
                m += 1
            continue
        for k in range(speeds):
            t = tau_at + first_tau[col] + k
            b = np.float64(weights[i, at + 2 * k]) if i >= 0 else 0.0
            L = np.float64(weights[i, at + 2 * k + 1]) if i >= 0 else 0.0
            mean[m], P[m] = bayes.posterior(b, L, tau[t])
            if k == 0:
                left[e] = 1.0 / sqrt(1.0 + tau[t] * L)
            w[m, 0] = b
            w[m, 1] = L
            c[m] = t
            xs[m] = x[e]
            m += 1
        if q >= 0:
            seen = counts[i] if i >= 0 else np.uint32(0)
            bucket = min(int(2.0 * log2(1.0 + seen)), 63)
            t = tau_at + counts_at + q
            b = np.float64(count_weights[target, q, bucket, 0])
            L = np.float64(count_weights[target, q, bucket, 1])
            mean[m], P[m] = bayes.posterior(b, L, tau[t])
            counts_left[r, q] = 1.0 / sqrt(1.0 + tau[t] * L)
            buckets[r, q] = bucket
            w[m, 0] = b
            w[m, 1] = L
            c[m] = t
            xs[m] = 1.0
            m += 1
    return m


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _predict(
    first, last, target, start, column, x, place, weights, counts,
    first_tau, column_speeds, weight_at, count_of, counts_at, width, count_weights, bias, tau,
    logit, variance, means, buckets, left, counts_left, w, c, xs, mean, P,
):  # fmt: skip
    """Predict rows first to last. Returns the number of weights of the last row, which are left in the
    scratch block, and its logit and variance without the bias."""
    m = 0
    f = 0.0
    s2 = 0.0
    for r in range(first, last):
        m = _weigh(
            r, r > first, target, start, column, x, place, weights, counts,
            first_tau, column_speeds, weight_at, count_of, counts_at, width, count_weights, tau,
            buckets, left, counts_left, w, c, xs, mean, P,
        )  # fmt: skip
        f, s2 = bayes.add_up(xs, m, mean, P)
        for i in range(m):
            means[r, c[i] - target * width] += xs[i] * mean[i]
        logit[r] = bias[target, 0] + f
        variance[r] = bias[target, 1] + s2
    return m, f, s2


# nogil=False on purpose: see `learner.fast.reading`.
@njit(cache=True, nogil=False, error_model="numpy")
def predict_rows(inputs, target, columns, dense, tau, outputs, scratch):
    """Predict all rows, as `learn_requests` does before it learns, by the same code.

    Args:
        target: its number.
        inputs: `FastInputs`.
        columns: `WeightColumns`.
        dense: `DenseWeights`.
        tau: (T,), prior variances.
        outputs: `FastOutputs`, written, but for `embedding_scale`.
        scratch: `Scratch` for one row.
    """
    _, start, column, x, place, weights, counts = inputs
    first_tau, column_speeds, weight_at, count_of, counts_at, width = columns
    count_weights, bias, values, _ = dense
    logit, variance, means, buckets, left, counts_left, _, spread, _ = outputs
    w, c, xs, mean, P = scratch
    _predict(
        0, len(start) - 1, target, start, column, x, place, weights, counts,
        first_tau, column_speeds, weight_at, count_of, counts_at, width, count_weights, bias, tau,
        logit, variance, means, buckets, left, counts_left, w, c, xs, mean, P,
    )  # fmt: skip
    if spread.shape[1] > 0:
        for r in range(len(start) - 1):
            spread[r, 0], spread[r, 1], spread[r, 2] = spread_of(values, target)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _put_back(
    r, target, start, column, place, weights, column_speeds, weight_at, count_of, count_weights, tau,
    buckets, left, counts_left, w, c,
):  # fmt: skip
    """Copy the learned weights of row r from the scratch block to their places, and write what they have
    left of their prior deviation."""
    m = 0
    columns_at = target * len(count_of)
    for e in range(start[r], start[r + 1]):
        col = column[e]
        i = place[e]
        speeds = column_speeds[columns_at + col]
        at = weight_at[columns_at + col]
        if speeds > 0:
            left[e] = 1.0 / sqrt(1.0 + tau[c[m]] * w[m, 1])
        for k in range(speeds):
            if i >= 0:
                weights[i, at + 2 * k] = w[m, 0]
                weights[i, at + 2 * k + 1] = w[m, 1]
            m += 1
        q = count_of[col]
        if q >= 0:
            count_weights[target, q, buckets[r, q], 0] = w[m, 0]
            count_weights[target, q, buckets[r, q], 1] = w[m, 1]
            counts_left[r, q] = 1.0 / sqrt(1.0 + tau[c[m]] * w[m, 1])
            m += 1


@njit(cache=True, nogil=True, error_model="numpy")
def learn_requests(inputs, lessons, columns, dense, priors, scale_columns, outputs, scratch):
    """Predict each request whole, then learn it, request by request.

    Args:
        inputs: `FastInputs`; its weights and counts are moved.
        lessons: `Lessons`, of n rows; those of a request have one target.
        columns: `WeightColumns`.
        dense: `DenseWeights`, moved.
        priors: `bayes.Priors`, moved.
        scale_columns: `ScaleColumns`.
        outputs: `FastOutputs`, written.
        scratch: `Scratch` for one row.
    """
    requests, start, column, x, place, weights, counts = inputs
    labels, offsets, shares, before, target_of, _ = lessons
    first_tau, column_speeds, weight_at, count_of, counts_at, width = columns
    count_weights, bias, values, came = dense
    tau, tau0, theta, grad2, keep = priors
    scale_at, scale_by = scale_columns
    logit, variance, means, buckets, left, counts_left, embedding_scale, spread, credit = outputs
    w, c, xs, mean, P = scratch
    for q in range(len(requests) - 1):
        first = requests[q]
        last = requests[q + 1]
        if first == last:
            continue
        target = target_of[first]
        write_scales(tau, tau0, target * width, scale_at, scale_by, embedding_scale[first:last])
        m, f, s2 = _predict(
            first, last, target, start, column, x, place, weights, counts,
            first_tau, column_speeds, weight_at, count_of, counts_at, width, count_weights, bias, tau,
            logit, variance, means, buckets, left, counts_left, w, c, xs, mean, P,
        )  # fmt: skip
        is_value = values[target, IS_VALUE] > 0.0
        centre, unit, noise = 0.0, 1.0, 1.0
        if is_value:
            centre, unit, noise = spread_of(values, target)
        if spread.shape[1] > 0:
            for r in range(first, last):
                spread[r, 0], spread[r, 1], spread[r, 2] = centre, unit, noise if is_value else 0.0
        for r in range(first, last):
            if last - first > 1:  # the candidates before this one have moved weights since
                m = _weigh(
                    r, False, target, start, column, x, place, weights, counts,
                    first_tau, column_speeds, weight_at, count_of, counts_at, width, count_weights, tau,
                    buckets, left, counts_left, w, c, xs, mean, P,
                )  # fmt: skip
                f, s2 = bayes.add_up(xs, m, mean, P)
            if shares[r] == 0.0:
                continue
            s2_all = bias[target, 1] + s2
            if is_value:  # first, so that the weights do not learn what the centre takes
                learn_labels(values, target, labels[r], before[r], shares[r])
                centre, unit, _ = spread_of(values, target)
            share = shares[r]
            sighted = isnan(before[r])
            if not sighted:  # the difference of two losses: a line by the logit
                e, h = (labels[r] - before[r]) / (unit * noise), 0.0
            elif is_value:
                e, h = ((labels[r] - centre) / unit - bias[target, 0] - f) / noise, 1.0 / noise
                learn_noise(values, target, e * noise, s2_all, share)
            else:
                e, h = bayes.error_of(bias[target, 0] + f + offsets[r], s2_all, labels[r])
                if came[target, LATE] > 0.0:
                    credit[r] = note_sighting(came, target, labels[r], e, share)
            e_prior = (e + credit[r]) * share
            e *= share
            h *= share
            if not sighted and not is_value:
                credit[r] = note_correction(came, target, e)
            P0 = bias[target, 1]
            if not sighted and credit[r] > 0.0:
                p = labels[r] - bayes.error_of(bias[target, 0] + f + offsets[r], s2_all, labels[r])[0]
                bayes.correct(w, c, xs, m, mean, P, tau, keep, p, e)
                bias[target, 0] += P0 * e
                bias[target, 1] = P0 / (1.0 + P0 * bayes.growth_of(p, e) * (1.0 - P0 / BIAS_VARIANCE))
            else:
                d = bayes.move_apart(
                    w, c, xs, m, mean, P, tau, tau0, theta, grad2, keep, s2_all, e, h, sighted, e_prior
                )
                bias[target, 0] += P0 * e * d
                if sighted:
                    bias[target, 1] = min((P0 - P0 * P0 * h * d) / BIAS_KEEP, BIAS_VARIANCE)
            _put_back(
                r, target, start, column, place, weights, column_speeds, weight_at, count_of, count_weights,
                tau, buckets, left, counts_left, w, c,
            )  # fmt: skip
        # Counters move after the whole request, so that no candidate sees its neighbours.
        for r in range(first, last):
            if shares[r] == 0.0 or not isnan(before[r]):
                continue
            for entry in range(start[r], start[r + 1]):
                if place[entry] >= 0:
                    counts[place[entry]] += np.uint32(1)

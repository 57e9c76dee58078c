"""The kernels of the fast part: weigh a row, predict rows, learn requests.

Their arguments are named tuples of arrays. A kernel takes them apart once, before its loops: taking an array
out of a tuple inside a loop changes reference counts there, and learning takes a third longer.
"""

from math import isnan, log2, sqrt

import numpy as np
from numba import njit

from ground.kernels import bayes

BIAS_VARIANCE = 4.0
"""Variance of the bias before anything is learned, and its upper limit: a click rate of 2 % is two
deviations from even odds.

The bias must know less than the weights of new ids together. Otherwise those weights learn the mean click
rate of the stream, and every new id starts without its share of it."""


@njit(cache=True, nogil=True, error_model="numpy")
def write_scales(tau, tau0, scale_at, scale_by, embedding_scale):
    """Write the factor by which the deep part scales each feature's embedding, `embedding_scale` (n, F)."""
    for j in range(len(scale_at) - 1):
        most = 0.0 if scale_at[j] < scale_at[j + 1] else 1.0  # a sequence has no weights to go by
        for i in range(scale_at[j], scale_at[j + 1]):
            t = scale_by[i]
            most = max(most, tau[t] / tau0[t])
        embedding_scale[:, j] = sqrt(min(most, 1.0))


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _weigh(
    r, follows, start, column, x, place, weights, counts,
    first_tau, column_speeds, count_of, counts_at, count_weights, tau,
    buckets, left, counts_left, w, c, xs, mean, P,
):  # fmt: skip
    """Put row r's weights, with their means and variances, into the scratch block; returns their number.

    `follows`: the scratch block holds row r - 1 and no weight has moved since. Entries that row r shares
    with that row are then kept and not computed again.
    """
    size = start[r + 1] - start[r]
    like = follows and start[r] - start[r - 1] == size  # equal to row r - 1, as far as compared
    m = 0
    for e in range(start[r], start[r + 1]):
        col = column[e]
        i = place[e]
        q = count_of[col]
        like = like and column[e - size] == col
        if like and place[e - size] == i:
            left[e] = left[e - size]
            for _ in range(column_speeds[col]):
                xs[m] = x[e]
                m += 1
            if q >= 0:
                buckets[r, q] = buckets[r - 1, q]
                counts_left[r, q] = counts_left[r - 1, q]
                m += 1
            continue
        for k in range(column_speeds[col]):
            t = first_tau[col] + k
            b = np.float64(weights[i, 2 * k]) if i >= 0 else 0.0
            L = np.float64(weights[i, 2 * k + 1]) if i >= 0 else 0.0
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
            t = counts_at + q
            b = np.float64(count_weights[q, bucket, 0])
            L = np.float64(count_weights[q, bucket, 1])
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
    first, last, start, column, x, place, weights, counts,
    first_tau, column_speeds, count_of, counts_at, count_weights, bias, tau,
    logit, variance, means, buckets, left, counts_left, w, c, xs, mean, P,
):  # fmt: skip
    """Predict rows first to last. Returns the number of weights of the last row, which are left in the
    scratch block, and its logit and variance without the bias."""
    m = 0
    f = 0.0
    s2 = 0.0
    for r in range(first, last):
        m = _weigh(
            r, r > first, start, column, x, place, weights, counts,
            first_tau, column_speeds, count_of, counts_at, count_weights, tau,
            buckets, left, counts_left, w, c, xs, mean, P,
        )  # fmt: skip
        f, s2 = bayes.add_up(xs, m, mean, P)
        for i in range(m):
            means[r, c[i]] += xs[i] * mean[i]
        logit[r] = bias[0] + f
        variance[r] = bias[1] + s2
    return m, f, s2


# nogil=False on purpose: see `learner.fast.reading`.
@njit(cache=True, nogil=False, error_model="numpy")
def predict_rows(inputs, columns, dense, tau, outputs, scratch):
    """Predict all rows, as `learn_requests` does before it learns, by the same code.

    Args:
        inputs: `FastInputs`.
        columns: `WeightColumns`.
        dense: `DenseWeights`.
        tau: (T,), prior variances.
        outputs: `FastOutputs`, written, but for `embedding_scale`.
        scratch: `Scratch` for one row.
    """
    _, start, column, x, place, weights, counts = inputs
    first_tau, column_speeds, count_of, counts_at = columns
    count_weights, bias = dense
    logit, variance, means, buckets, left, counts_left, _ = outputs
    w, c, xs, mean, P = scratch
    _predict(
        0, len(start) - 1, start, column, x, place, weights, counts,
        first_tau, column_speeds, count_of, counts_at, count_weights, bias, tau,
        logit, variance, means, buckets, left, counts_left, w, c, xs, mean, P,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _put_back(
    r, start, column, place, weights, column_speeds, count_of, count_weights, tau,
    buckets, left, counts_left, w, c,
):  # fmt: skip
    """Copy the learned weights of row r from the scratch block to their places, and write what they have
    left of their prior deviation."""
    m = 0
    for e in range(start[r], start[r + 1]):
        col = column[e]
        i = place[e]
        if column_speeds[col] > 0:
            left[e] = 1.0 / sqrt(1.0 + tau[c[m]] * w[m, 1])
        for k in range(column_speeds[col]):
            if i >= 0:
                weights[i, 2 * k] = w[m, 0]
                weights[i, 2 * k + 1] = w[m, 1]
            m += 1
        q = count_of[col]
        if q >= 0:
            count_weights[q, buckets[r, q], 0] = w[m, 0]
            count_weights[q, buckets[r, q], 1] = w[m, 1]
            counts_left[r, q] = 1.0 / sqrt(1.0 + tau[c[m]] * w[m, 1])
            m += 1


@njit(cache=True, nogil=True, error_model="numpy")
def learn_requests(inputs, lessons, columns, dense, priors, scale_columns, outputs, scratch):
    """Predict each request whole, then learn it, request by request.

    Args:
        inputs: `FastInputs`; its weights and counts are moved.
        lessons: `Lessons`, of n rows.
        columns: `WeightColumns`.
        dense: `DenseWeights`, moved.
        priors: `bayes.Priors`, moved.
        scale_columns: `ScaleColumns`.
        outputs: `FastOutputs`, written.
        scratch: `Scratch` for one row.
    """
    requests, start, column, x, place, weights, counts = inputs
    labels, offsets, shares, before = lessons
    first_tau, column_speeds, count_of, counts_at = columns
    count_weights, bias = dense
    tau, tau0, theta, grad2, keep = priors
    scale_at, scale_by = scale_columns
    logit, variance, means, buckets, left, counts_left, embedding_scale = outputs
    w, c, xs, mean, P = scratch
    for q in range(len(requests) - 1):
        first = requests[q]
        last = requests[q + 1]
        write_scales(tau, tau0, scale_at, scale_by, embedding_scale[first:last])
        m, f, s2 = _predict(
            first, last, start, column, x, place, weights, counts,
            first_tau, column_speeds, count_of, counts_at, count_weights, bias, tau,
            logit, variance, means, buckets, left, counts_left, w, c, xs, mean, P,
        )  # fmt: skip
        for r in range(first, last):
            if last - first > 1:  # the candidates before this one have moved weights since
                m = _weigh(
                    r, False, start, column, x, place, weights, counts,
                    first_tau, column_speeds, count_of, counts_at, count_weights, tau,
                    buckets, left, counts_left, w, c, xs, mean, P,
                )  # fmt: skip
                f, s2 = bayes.add_up(xs, m, mean, P)
            if shares[r] == 0.0:
                continue
            sighted = isnan(before[r])
            if sighted:
                e, h = bayes.error_of(bias[0] + f + offsets[r], bias[1] + s2, labels[r])
            else:  # the difference of two log losses: a line by the logit
                e, h = labels[r] - before[r], 0.0
            e *= shares[r]
            h *= shares[r]
            d = bayes.move(
                w, c, xs, m, mean, P, tau, tau0, theta, grad2, keep, bias[1] + s2, e, h, sighted
            )  # fmt: skip
            _put_back(
                r, start, column, place, weights, column_speeds, count_of, count_weights, tau,
                buckets, left, counts_left, w, c,
            )  # fmt: skip
            bias[0] += bias[1] * e * d
            if sighted:
                bias[1] = min((bias[1] - bias[1] * bias[1] * h * d) / 0.9999, BIAS_VARIANCE)
        # Counters move after the whole request, so that no candidate sees its neighbours.
        for r in range(first, last):
            if shares[r] == 0.0 or not isnan(before[r]):
                continue
            for entry in range(start[r], start[r + 1]):
                if place[entry] >= 0:
                    counts[place[entry]] += np.uint32(1)

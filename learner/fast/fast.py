"""The fast part: a Bayesian linear model that learns event by event, in order.

Columns of weights (index t into the priors): each feature at every speed, the count columns, then
each pair at every speed of pairs. Features' and pairs' weights live in table rows and come here as a
compact block of the distinct rows of a batch; the weights of count columns are a small array of this class.

What the fast part has found of no use the deep part is to learn little from, or it learns noise by heart
where features are many. So it hears the embedding of feature j by a share g_j, with τ/τ0 what is left of
the prior variance of the feature's slowest weights and of those of the pairs that it is in:

    g_j = min(1, sqrt(max_c τ_c / τ0_c))
"""

from math import log2, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ground.kernels import bayes
from learner.features.encoder import Encoder
from learner.settings import LearnerSettings

COUNT_BUCKETS = 64
"""⌊2·log₂(1 + n)⌋ of a 32-bit count is at most 63."""
BIAS_VARIANCE = 4.0
"""Of the bias before anything is learnt, and at most: a click rate of 2 % is two deviations from even odds.

It has to know less than the weights of new ids together, or they learn the stream's level in its place,
and whatever is new begins without their share of it."""


class FastInputs(NamedTuple):
    """A batch's rows with their weights gathered. R requests, n rows, E entries, D distinct weights rows."""

    requests: npt.NDArray[np.int64]  # (R + 1,)
    start: npt.NDArray[np.int64]  # (n + 1,)
    column: npt.NDArray[np.int32]  # (E,)
    x: npt.NDArray[np.float32]  # (E,)
    place: npt.NDArray[np.int64]  # (E,), into the D weights rows; -1: no row, prior only
    weights: npt.NDArray[np.float32]  # (D, 2 * speeds), (b, L) per speed, then zeros; moved by learning
    counts: npt.NDArray[np.uint32]  # (D,), sightings before; moved in place by learning


class FastOutputs(NamedTuple):
    """What the fast part said of each row before it learnt any of the row's request."""

    logit: npt.NDArray[np.float64]  # (n,), f
    variance: npt.NDArray[np.float64]  # (n,), s² of f
    means: npt.NDArray[np.float32]  # (n, T), Σ x μ of each weight column
    buckets: npt.NDArray[np.int32]  # (n, C), count bucket of each counted feature, -1 if it is absent
    # What each weight, the slowest of an entry's, has left of its prior deviation when the row has been
    # learnt, if it is: sqrt(P / τ) = 1 / sqrt(1 + τ L).
    left: npt.NDArray[np.float32]  # (E,), of entries
    counts_left: npt.NDArray[np.float32]  # (n, C), of count columns
    heard: npt.NDArray[np.float32]  # (n, F), g: how loud the deep part hears each feature


class WeightColumns(NamedTuple):
    """Which of T weights an entry has: of each feature one a speed, one a count, of each pair one a speed."""

    first_tau: npt.NDArray[np.int32]  # (columns,), the first weight column of each feature and pair
    column_speeds: npt.NDArray[np.int32]  # (columns,), how many it has; 0 for sequences
    count_of: npt.NDArray[np.int32]  # (columns,), its number among those counted, -1 if it is not
    counts_at: int  # the weight column of the first count


class FastPart:
    """State of the fast part beside the tables: priors, bias, count columns.

    Args:
        encoder: its schema says which columns there are.
        settings: speeds and where the prior variances start.
    """

    def __init__(self, encoder: Encoder, settings: LearnerSettings) -> None:
        speeds, pair_speeds = len(settings.speeds), len(settings.pair_speeds)
        fields, pairs = len(encoder.names), len(encoder.pairs)
        counted = [i for i, spec in enumerate(encoder.specs) if spec.counted]
        # Sequences have no weights here: they are no columns of the fast part.
        linear = [i for i in range(fields) if i not in encoder.sequences]
        counts_at = len(linear) * speeds
        first_tau = np.zeros(encoder.columns, dtype=np.int32)
        first_tau[linear] = np.arange(len(linear)) * speeds
        first_tau[fields:] = counts_at + len(counted) + np.arange(pairs) * pair_speeds
        column_speeds = np.zeros(encoder.columns, dtype=np.int32)
        column_speeds[linear] = speeds
        column_speeds[fields:] = pair_speeds
        count_of = np.full(encoder.columns, -1, dtype=np.int32)
        count_of[counted] = np.arange(len(counted))
        decide = [[c for c in (i, *encoder.pair_columns(i)) if column_speeds[c]] for i in range(fields)]
        # The weight columns heard_by[heard_at[j] : heard_at[j + 1]] decide how loud feature j is heard.
        self.heard_at = np.cumsum([0, *(len(columns) for columns in decide)])
        self.heard_by = np.array([first_tau[c] for columns in decide for c in columns], dtype=np.int64)
        # The weight that each column of an error memory goes on learning: the slowest of a feature or pair,
        # those of counts, then the next faster one of each feature and pair, where there is one.
        faster = first_tau + (column_speeds > 1)
        self.remembered = np.concatenate([first_tau, counts_at + np.arange(len(counted)), faster])
        self.speeds = max(speeds, pair_speeds)  # of an entry, at most
        self.counted = len(counted)
        self.columns = WeightColumns(first_tau, column_speeds, count_of, counts_at)
        self.priors = bayes.make_priors(
            list(settings.speed_tau) * len(linear)
            + [settings.count_tau] * len(counted)
            + list(settings.pair_tau) * pairs,
            list(settings.speeds) * len(linear) + [1.0] * len(counted) + list(settings.pair_speeds) * pairs,
        )
        self.bias = np.array([0.0, BIAS_VARIANCE])  # mean, variance
        self.count_weights = np.zeros((max(self.counted, 1), COUNT_BUCKETS, 2), dtype=np.float32)

    @property
    def width(self) -> int:
        """How many weight columns (T) there are."""
        return len(self.priors.tau)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Everything this part must save; the arrays themselves, not copies."""
        return {
            "tau": self.priors.tau,
            "theta": self.priors.theta,
            "grad2": self.priors.grad2,
            "bias": self.bias,
            "count_weights": self.count_weights,
        }

    def memory_priors(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(prior variance, share of evidence kept at each sighting) of an error memory's columns."""
        return self.priors.tau[self.remembered], self.priors.keep[self.remembered]

    def run(
        self,
        inputs: FastInputs,
        labels: npt.NDArray[np.float64] | None = None,
        offsets: npt.NDArray[np.float64] | None = None,
    ) -> FastOutputs:
        """Predict each request whole and, if labels are given, then learn it, request by request.

        Args:
            inputs: the batch; its weights and counts are moved in place by learning.
            labels: (n,), 0 or 1; None predicts only and changes nothing.
            offsets: (n,), added to the logit while learning (minus the log-odds of thinned negatives).
        """
        n = len(inputs.start) - 1
        outputs = FastOutputs(
            logit=np.empty(n),
            variance=np.empty(n),
            means=np.zeros((n, self.width), dtype=np.float32),
            buckets=np.full((n, self.counted), -1, dtype=np.int32),
            left=np.ones(len(inputs.column), dtype=np.float32),
            counts_left=np.ones((n, self.counted), dtype=np.float32),
            heard=np.empty((n, len(self.heard_at) - 1), dtype=np.float32),
        )
        if n == 0:
            return outputs
        weights_max = int(np.diff(inputs.start).max()) * self.speeds + self.counted  # of one row
        scratch = (np.empty(weights_max, dtype=np.int32), *np.empty((3, weights_max)))
        # Array by array: taken out of named tuples inside, they would make learning a third slower.
        fixed = (*self.columns, self.count_weights, self.bias)
        if labels is None:
            predict_rows(*inputs[1:], *fixed, self.priors.tau, *outputs[:-1], *scratch)
            hear(self.priors.tau, self.priors.tau0, self.heard_at, self.heard_by, outputs.heard)
            return outputs
        if offsets is None:
            offsets = np.zeros(n)
        w = np.empty((weights_max, 2))
        hearing = self.heard_at, self.heard_by
        _run(*inputs, labels, offsets, *fixed, *self.priors, *hearing, *outputs, w, *scratch)
        return outputs


@njit(cache=True, nogil=True, error_model="numpy")
def hear(tau, tau0, heard_at, heard_by, heard):
    """Write down how loud the deep part hears each feature of rows predicted with these priors, (n, F)."""
    for j in range(len(heard_at) - 1):
        most = 0.0 if heard_at[j] < heard_at[j + 1] else 1.0  # a sequence has no weights to go by
        for i in range(heard_at[j], heard_at[j + 1]):
            t = heard_by[i]
            most = max(most, tau[t] / tau0[t])
        heard[:, j] = sqrt(min(most, 1.0))


@njit(cache=True, nogil=True, error_model="numpy")
def _gather(
    r, start, column, x, index, weights, counts,
    first_tau, column_speeds, count_of, counts_at, count_weights, buckets,
    use_buckets, w, c, xs,
):  # fmt: skip
    """Copy row r's weights into the scratch block; returns how many there are."""
    m = 0
    for e in range(start[r], start[r + 1]):
        col = column[e]
        i = index[e]
        for k in range(column_speeds[col]):
            if i >= 0:
                w[m, 0] = weights[i, 2 * k]
                w[m, 1] = weights[i, 2 * k + 1]
            else:
                w[m, 0] = 0.0
                w[m, 1] = 0.0
            c[m] = first_tau[col] + k
            xs[m] = x[e]
            m += 1
        q = count_of[col]
        if q >= 0:
            if not use_buckets:
                seen = counts[i] if i >= 0 else np.uint32(0)
                buckets[r, q] = min(int(2.0 * log2(1.0 + seen)), 63)
            w[m, 0] = count_weights[q, buckets[r, q], 0]
            w[m, 1] = count_weights[q, buckets[r, q], 1]
            c[m] = counts_at + q
            xs[m] = 1.0
            m += 1
    return m


@njit(cache=True, nogil=True, error_model="numpy")
def _scatter(r, start, column, index, weights, column_speeds, count_of, count_weights, buckets, w):
    """Copy the scratch block back to where row r's weights live."""
    m = 0
    for e in range(start[r], start[r + 1]):
        col = column[e]
        i = index[e]
        for k in range(column_speeds[col]):
            if i >= 0:
                weights[i, 2 * k] = w[m, 0]
                weights[i, 2 * k + 1] = w[m, 1]
            m += 1
        q = count_of[col]
        if q >= 0:
            count_weights[q, buckets[r, q], 0] = w[m, 0]
            count_weights[q, buckets[r, q], 1] = w[m, 1]
            m += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _tell_left(r, start, column, column_speeds, count_of, w, c, tau, left, counts_left):
    """Write down what row r's weights, in the scratch block, have left of their prior deviation."""
    m = 0
    for e in range(start[r], start[r + 1]):
        col = column[e]
        if column_speeds[col] > 0:
            left[e] = 1.0 / sqrt(1.0 + tau[c[m]] * w[m, 1])
            m += column_speeds[col]
        q = count_of[col]
        if q >= 0:
            counts_left[r, q] = 1.0 / sqrt(1.0 + tau[c[m]] * w[m, 1])
            m += 1


# Keeps the interpreter: see `learner.model.reading`.
@njit(cache=True, nogil=False, error_model="numpy")
def predict_rows(
    start, column, x, index, weights, counts,
    first_tau, column_speeds, count_of, counts_at, count_weights, bias, tau,
    logit, variance, means, buckets, left, counts_left,
    c, xs, mean, P,
):  # fmt: skip
    """What `_run` says before it learns, to the bit; what a row has as the one before is not computed again.

    c, xs, mean, P are scratch for one row; what a row leaves there serves the next.
    """
    for r in range(len(start) - 1):
        size = start[r + 1] - start[r]
        like = r > 0 and start[r] - start[r - 1] == size  # as the row before, as far as it was compared
        m = 0
        for e in range(start[r], start[r + 1]):
            col = column[e]
            i = index[e]
            q = count_of[col]
            like = like and column[e - size] == col
            if like and index[e - size] == i:
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
                c[m] = t
                xs[m] = x[e]
                m += 1
            if q >= 0:
                seen = counts[i] if i >= 0 else np.uint32(0)
                bucket = min(int(2.0 * log2(1.0 + seen)), 63)
                t = counts_at + q
                L = np.float64(count_weights[q, bucket, 1])
                mean[m], P[m] = bayes.posterior(np.float64(count_weights[q, bucket, 0]), L, tau[t])
                counts_left[r, q] = 1.0 / sqrt(1.0 + tau[t] * L)
                buckets[r, q] = bucket
                c[m] = t
                xs[m] = 1.0
                m += 1
        f, s2 = bayes.add_up(xs, m, mean, P)
        for i in range(m):
            means[r, c[i]] += xs[i] * mean[i]
        logit[r] = bias[0] + f
        variance[r] = bias[1] + s2


@njit(cache=True, nogil=True, error_model="numpy")
def _run(
    requests, start, column, x, index, weights, counts,
    labels, offsets,
    first_tau, column_speeds, count_of, counts_at, count_weights, bias,
    tau, tau0, theta, grad2, keep, heard_at, heard_by,
    logit, variance, means, buckets, left, counts_left, heard,
    w, c, xs, mean, P,
):  # fmt: skip
    """Predict each request whole, then learn it, request by request."""
    for q in range(len(requests) - 1):
        alone = requests[q + 1] - requests[q] == 1
        m = 0
        f = 0.0
        s2 = 0.0
        hear(tau, tau0, heard_at, heard_by, heard[requests[q] : requests[q + 1]])
        for r in range(requests[q], requests[q + 1]):
            m = _gather(
                r, start, column, x, index, weights, counts, first_tau, column_speeds,
                count_of, counts_at, count_weights, buckets, False, w, c, xs,
            )  # fmt: skip
            f, s2 = bayes.predict(w, c, xs, m, tau, mean, P)
            for i in range(m):
                means[r, c[i]] += xs[i] * mean[i]
            logit[r] = bias[0] + f
            variance[r] = bias[1] + s2
        for r in range(requests[q], requests[q + 1]):
            if not alone:  # what other candidates have learnt since counts
                m = _gather(
                    r, start, column, x, index, weights, counts, first_tau, column_speeds,
                    count_of, counts_at, count_weights, buckets, True, w, c, xs,
                )  # fmt: skip
                f, s2 = bayes.predict(w, c, xs, m, tau, mean, P)
            e, h, d = bayes.learn(
                w, c, xs, m, mean, P, tau, tau0, theta, grad2, keep,
                bias[0] + f + offsets[r], bias[1] + s2, labels[r],
            )  # fmt: skip
            _scatter(r, start, column, index, weights, column_speeds, count_of, count_weights, buckets, w)
            _tell_left(r, start, column, column_speeds, count_of, w, c, tau, left, counts_left)
            bias[0] += bias[1] * e * d
            bias[1] = min((bias[1] - bias[1] * bias[1] * h * d) / 0.9999, BIAS_VARIANCE)
        # Counters move after the whole request, so that no candidate sees its neighbours.
        for r in range(requests[q], requests[q + 1]):
            for e_ in range(start[r], start[r + 1]):
                if index[e_] >= 0:
                    counts[index[e_]] += np.uint32(1)

"""What the base predicts, but for the deep part's network, in one call.

In pieces it is a dozen calls, whose arguments and results cost more than what most of them do.
"""

import numpy as np
from numba import njit

from ground.kernels import bayes
from learner.fast.fast import hear, predict_rows
from learner.model.reading import read


# Keeps the interpreter: see `learner.model.reading`.
@njit(cache=True, nogil=False)
def predict(
    readers, requests, times, start, column, key, x, numbers, table_of, first_column, deep_width,
    embedding_width, speeds, counted, first_tau, column_speeds, count_of, counts_at, count_weights, bias, tau,
    tau0, heard_at, heard_by,
):  # fmt: skip
    """What the fast part says of n rows, and the deep part's inputs.

    Args:
        readers: of the tables.
        requests, times, start, column, key, x, numbers: the arrays of a `Batch`.
        table_of, first_column: as for `read`.
        deep_width, embedding_width: of the deep part's inputs, and how many of them are embeddings; 0 and 0
            without one.
        speeds, ...: of the `FastPart`.

    Returns:
        (z (n,): the fast part's honest logit, inputs (n, deep_width), then what is left to make
        `FastInputs` and `FastOutputs` of).
    """
    n = len(start) - 1
    weight_columns = len(tau)
    inputs = np.zeros((n, deep_width), dtype=np.float32)
    heard = np.empty((n, len(heard_at) - 1), dtype=np.float32)
    hear(tau, tau0, heard_at, heard_by, heard)
    loud = x.copy()
    if n > 0 and deep_width > 0:
        for e in range(len(column)):
            if column[e] < heard.shape[1]:
                loud[e] *= heard[0, column[e]]
    place, weights, counts = read(
        readers, requests, times, start, column, key, loud, table_of, 2 * speeds, first_column, inputs
    )
    logit = np.empty(n)
    variance = np.empty(n)
    means = np.zeros((n, weight_columns), dtype=np.float32)
    buckets = np.full((n, counted), -1, dtype=np.int32)
    left = np.ones(len(column), dtype=np.float32)
    counts_left = np.ones((n, counted), dtype=np.float32)
    longest = 0
    for r in range(n):
        longest = max(longest, start[r + 1] - start[r])
    scratch = longest * speeds + counted
    predict_rows(
        start, column, x, place, weights, counts,
        first_tau, column_speeds, count_of, counts_at, count_weights, bias, tau,
        logit, variance, means, buckets, left, counts_left,
        np.empty(scratch, dtype=np.int32), np.empty(scratch), np.empty(scratch), np.empty(scratch),
    )  # fmt: skip
    z = np.empty(n)
    for r in range(n):
        z[r] = bayes.shrink(logit[r], variance[r])
    if deep_width > 0:
        fill_dense(inputs, embedding_width, means, buckets, numbers, logit)
    return z, inputs, place, weights, counts, logit, variance, means, buckets, left, counts_left, heard


@njit(cache=True, nogil=True)
def fill_dense(inputs, at, means, buckets, numbers, logit):
    """Write the deep part's inputs beside the embeddings, from column `at` on: means (n, T), count buckets
    (n, C) as sixteenths, squashed numbers (n, d), and the fast logit (n,)."""
    for r in range(len(logit)):
        k = at
        for j in range(means.shape[1]):
            inputs[r, k] = means[r, j]
            k += 1
        for j in range(buckets.shape[1]):
            inputs[r, k] = (buckets[r, j] + 1) / 16.0
            k += 1
        for j in range(numbers.shape[1]):
            inputs[r, k] = numbers[r, j]
            k += 1
        inputs[r, k] = logit[r]

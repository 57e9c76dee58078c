"""The base's prediction except for the deep part's network, in one call.

In pieces it is a dozen calls, whose arguments and results cost more than most of the work in them.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ground.kernels import bayes
from learner.fast.kernels import predict_rows, write_scales
from learner.fast.part import FastInputs, FastOutputs, Scratch
from learner.fast.reading import read
from learner.fast.spread import IS_VALUE


class Inputs(NamedTuple):
    """How the inputs of both parts are laid out."""

    table_of: npt.NDArray[np.int32]  # (columns,), the table of each column; T for those without one
    first_column: npt.NDArray[np.int64]  # (T,), see `embeddings.views.fetching.fetch`
    weights_width: int  # of the longest row's fast weights
    any_value: bool  # whether any target is a value
    deep_width: int  # of the deep part's inputs; 0 without one
    embedding_width: int  # how many of them are embeddings
    speeds: int  # weights of an entry, at most
    counted: int  # C, features with a count column


# nogil=False on purpose: see `learner.fast.reading`.
@njit(cache=True, nogil=False)
def predict(readers, batch, target, layout, columns, dense, priors, scale_columns):
    """Read the rows of a batch and predict them with the fast part.

    Args:
        target: its number.
        readers: of the tables.
        batch: a `Batch` of n rows.
        layout: `Inputs`.
        columns, dense, priors, scale_columns: of the `FastPart`.

    Returns:
        (z (n,): the fast part's honest logit, of a value its mean in the target's units; the deep part's
        inputs (n, deep_width); `FastInputs`; `FastOutputs`).
    """
    requests, times, rows, numbers, _ = batch
    start, column, key, x = rows
    table_of, first_column, weights_width, any_value, deep_width, embedding_width, speeds, counted = layout
    scale_at, scale_by = scale_columns
    n = len(start) - 1
    deep_inputs = np.zeros((n, deep_width), dtype=np.float32)
    embedding_scale = np.empty((n, len(scale_at) - 1), dtype=np.float32)
    width = columns.width
    write_scales(priors.tau, priors.tau0, target * width, scale_at, scale_by, embedding_scale)
    scaled = x.copy()
    if n > 0 and deep_width > 0:
        for e in range(len(column)):
            if column[e] < embedding_scale.shape[1]:
                scaled[e] *= embedding_scale[0, column[e]]
    place, weights, counts = read(
        readers, requests, times, start, column, key, scaled, table_of, weights_width, first_column,
        deep_inputs,
    )  # fmt: skip
    inputs = FastInputs(requests, start, column, x, place, weights, counts)
    outputs = FastOutputs(
        np.empty(n),
        np.empty(n),
        np.zeros((n, width), dtype=np.float32),
        np.full((n, counted), -1, dtype=np.int32),
        np.ones(len(column), dtype=np.float32),
        np.ones((n, counted), dtype=np.float32),
        embedding_scale,
        np.empty((n, 3 if any_value else 0)),
        np.empty(0),
    )
    longest = 0
    for r in range(n):
        longest = max(longest, start[r + 1] - start[r])
    m = longest * speeds + counted
    scratch = Scratch(np.empty((m, 2)), np.empty(m, dtype=np.int32), np.empty(m), np.empty(m), np.empty(m))
    predict_rows(inputs, target, columns, dense, priors.tau, outputs, scratch)
    logit = outputs.logit
    variance = outputs.variance
    z = np.empty(n)
    is_value = dense.values[target, IS_VALUE] > 0.0
    for r in range(n):
        z[r] = logit[r] if is_value else bayes.shrink(logit[r], variance[r])
    if deep_width > 0:
        fill_dense(deep_inputs, embedding_width, outputs.means, outputs.buckets, numbers, logit)
    return z, deep_inputs, inputs, outputs


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

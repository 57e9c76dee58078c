"""DCN-v2 for prediction: one matrix product instead of the three of training.

With x1 = x0 ⊙ (W0 x0 + b0) + x0 and x2 = x0 ⊙ (W1 x1 + b1) + x1, and only w·x2 needed, the second cross
layer can be rearranged:

    w·x2 = x1·(W1ᵀ(w ⊙ x0) + w) + x0·(w ⊙ b1)

so that W0 x0, (W1ᵀ diag w) x0 and the MLP's first layer are one product with x0. Columns of
x0 that all rows of a request share (its context) enter that product once, and columns of zeros never.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from learner.deep.networks import CROSS_LAYERS, DCN, HIDDEN, Array, Network, Tensors, out_name
from learner.deep.products import add_product, padded, whole_tiles

assert CROSS_LAYERS == 2 and len(HIDDEN) == 2

ROWS_AT_ONCE = 64
"""Rows per block: their intermediate results fit into the L2 cache."""


class Packed(NamedTuple):
    """The weights, laid out for `add_residual`. W is the inputs' width."""

    first: Array  # (W, 2 W + 64 and more), what x0 is multiplied by: W0, W1ᵀ diag w, MLP
    first_bias: Array  # (2 W + 64 and more,): b0 + 1, w, MLP
    direct: Array  # (W,): w ⊙ b1
    second: Array  # (64, 32 and more), of the MLP
    second_bias: Array  # (32 and more,)
    out: Array  # (32,), of the MLP


def pack(network: Network, w: Tensors, target: int) -> Packed:
    """A DCN's weights, by name, rearranged for predicting one target."""
    width = network.layout.width
    out = w[out_name(target)]
    cross, hidden = out[:width], out[width:]
    first = np.concatenate([w["cross0.w"].T, cross[:, None] * w["cross1.w"], w["mlp0.w"].T], axis=1)
    bias = np.concatenate([w["cross0.b"] + np.float32(1.0), cross, w["mlp0.b"]])
    return Packed(
        first=padded(first),
        first_bias=padded(bias[None])[0],
        direct=cross * w["cross1.b"],
        second=padded(w["mlp1.w"].T),
        second_bias=padded(w["mlp1.b"][None])[0],
        out=hidden.copy(),
    )


@njit(cache=True, nogil=True)
def _columns_that_differ(x, which):
    """The columns of x (n, W) that differ between rows: `which` (W,) int64, out. Returns how many."""
    n, width = x.shape
    differs = np.zeros(width, dtype=np.bool_)
    for r in range(1, n):
        for j in range(width):
            differs[j] |= x[r, j] != x[0, j]
    count = 0
    for j in range(width):
        if differs[j]:
            which[count] = j
            count += 1
    return count


# The order of a row's sums is free, but fixed for a given row on one machine.
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _cross(x, first, bias, direct):
    """w·x2 of one row: x (W,), and its row of the first product (2 W and more,), without its bias."""
    width = len(x)
    z = np.float32(0.0)
    for j in range(width):
        z += x[j] * ((bias[j] + first[j]) * (bias[width + j] + first[width + j]) + direct[j])
    return z


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _top(hidden, bias, out):
    """The MLP's last layer, of one row of the second product, without its bias."""
    z = np.float32(0.0)
    for j in range(len(out)):
        z += max(bias[j] + hidden[j], np.float32(0.0)) * out[j]
    return z


# nogil=False on purpose: see `learner.fast.reading`.
@njit(cache=True, nogil=False)
def add_residual(packed, x, z):
    """Add to z (n,) float64 the residual logits of inputs x (n, W) float32.

    A row's result does not depend on the other rows, except for rounding: which columns all rows share
    changes the order of sums.
    """
    n, width = x.shape
    columns = packed.first.shape[1]
    hidden, top = packed.second.shape
    which = np.empty(width, dtype=np.int64)
    all_hidden = np.arange(hidden)
    count = _columns_that_differ(x, which)
    shared = packed.first_bias.copy()
    differs = 0
    for j in range(width):
        if differs < count and which[differs] == j:
            differs += 1
        elif x[0, j] != 0.0:
            for c in range(columns):
                shared[c] += x[0, j] * packed.first[j, c]
    rows_max = whole_tiles(min(ROWS_AT_ONCE, n))
    apart = np.zeros(rows_max * count, dtype=np.float32)
    lower = np.empty((rows_max, columns), dtype=np.float32)
    inner = np.empty((rows_max, hidden), dtype=np.float32)
    upper = np.empty((rows_max, top), dtype=np.float32)
    first, second = packed.first.ravel(), packed.second.ravel()
    flat_lower, flat_inner, flat_upper = lower.ravel(), inner.ravel(), upper.ravel()  # views
    for at in range(0, n, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, n - at)
        tall = whole_tiles(rows)  # nobody reads the rows beyond `rows`
        for r in range(rows):
            for j in range(count):
                apart[r * count + j] = x[at + r, which[j]]
        add_product(
            flat_lower, 0, columns, apart, 0, count, 1, first, 0, columns, which, tall, columns, count, False
        )
        for r in range(tall):
            for j in range(hidden):
                inner[r, j] = max(shared[2 * width + j] + lower[r, 2 * width + j], np.float32(0.0))
        add_product(
            flat_upper, 0, top, flat_inner, 0, hidden, 1, second, 0, top, all_hidden, tall, top, hidden, False
        )
        for r in range(rows):
            cross = _cross(x[at + r], lower[r], shared, packed.direct)
            z[at + r] += cross + _top(upper[r], packed.second_bias, packed.out)


Prediction = Callable[[Array, npt.NDArray[np.float64]], None]
"""Adds to logits z (n,) the residual logits of inputs (n, width)."""


def prediction_of(network: Network, w: Tensors, target: int = 0) -> Prediction:
    """The network's prediction of a target with the present weights; make a new one after they changed."""
    if isinstance(network, DCN):
        return partial(add_residual, pack(network, w, target))
    return partial(network.add_residual, w, target=target)

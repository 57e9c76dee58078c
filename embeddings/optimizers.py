"""Optimizers: each is one fused kernel over rows, and the columns of state that it keeps in them.

Every kernel has the signature (store, slots, gradients, dim, learning_rate): `slots` (m,) int64 are
distinct or -1, `gradients` (m, dim) float32 are the whole gradient of each. To add one, write its
kernel here, and its name and state width in `spec.py`.
"""

from collections.abc import Callable

import numpy as np
from numba import njit

from embeddings.intrinsics import borrow, prefetch
from embeddings.slots import mark
from embeddings.store import AHEAD

_EPSILON = np.float32(1e-10)  # torch's, so that the two agree


@njit(cache=True, nogil=True, error_model="numpy")
def step_adagrad(store, slots, gradients, dim, learning_rate):  # type: ignore[no-untyped-def]
    """Adagrad (Duchi et al. 2011): a += g², w -= lr g / (√a + ε), with a beside w in the row."""
    rows, flags = borrow(store.rows), borrow(store.flags)
    touched, state = borrow(store.touched), borrow(store.state)
    n = slots.shape[0]
    rate = np.float32(learning_rate)
    for i in range(n):
        if i + AHEAD < n and slots[i + AHEAD] >= 0:
            for column in range(0, 2 * dim, 16):
                prefetch(rows, slots[i + AHEAD], column)
            prefetch(rows, slots[i + AHEAD], 2 * dim - 1)
        slot = slots[i]
        if slot < 0:
            continue
        for j in range(dim):
            g = gradients[i, j]
            a = rows[slot, dim + j] + g * g
            rows[slot, dim + j] = a
            rows[slot, j] -= rate * g / (np.sqrt(a) + _EPSILON)
        mark(flags, touched, state, slot)


@njit(cache=True, nogil=True)
def step_sgd(store, slots, gradients, dim, learning_rate):  # type: ignore[no-untyped-def]
    """Gradient descent: w -= lr g."""
    rows, flags = borrow(store.rows), borrow(store.flags)
    touched, state = borrow(store.touched), borrow(store.state)
    n = slots.shape[0]
    rate = np.float32(learning_rate)
    for i in range(n):
        if i + AHEAD < n and slots[i + AHEAD] >= 0:
            for column in range(0, dim, 16):
                prefetch(rows, slots[i + AHEAD], column)
        slot = slots[i]
        if slot < 0:
            continue
        for j in range(dim):
            rows[slot, j] -= rate * gradients[i, j]
        mark(flags, touched, state, slot)


STEPS: dict[str, Callable[..., None]] = {"adagrad": step_adagrad, "sgd": step_sgd}

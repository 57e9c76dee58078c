"""Optimizers: each is one fused kernel over rows, with its state in columns of the row.

Every kernel has the signature (store, slots, gradients, dim, constants): `slots` (m,) int64 are
distinct or -1, `gradients` (m, dim) float32 are the whole gradient of each, `constants` (c,) float64
are what `constants_of` made of the spec. State lies behind the vector in the row, so that a step
touches the lines of one row and no other. To add one, write its kernel here, and its name and state
in `spec.py`.

What they compute, with g the gradient, lr the learning rate, and all products by component:

    sgd                w -= lr g
    adagrad            a += g²;  w -= lr g / (√a + ε)                             Duchi et al. 2011
    rowwise_adagrad    a += mean(g²), one a a row;  w -= lr g / (√a + ε)          as in FBGEMM
    adam               m, v: decaying means of g and g²;
                       w -= lr m/(1-β₁ᵗ) / (√(v/(1-β₂ᵗ)) + ε)                     Kingma and Ba 2015
    ftrl               n += g²;  z += g - (√n - √n_before)/lr · w;
                       w = -(z - sign(z) l1) / ((β + √n)/lr + l2), 0 if |z| ≤ l1  McMahan et al. 2013

Adam's t counts the steps of each row. With one count for the whole table, the first steps of an id that
comes late would not be corrected (they would be ten times too small), and a row would depend on more than
itself, but a snapshot or a delta holds only the row. The count costs one column.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba import njit

from embeddings.core.slots import mark
from embeddings.core.store import AHEAD
from embeddings.core.versions import begin_write, end_write
from embeddings.spec import TableSpec
from ground.kernels.intrinsics import borrow, prefetch, prefetch_element
from ground.kernels.simd import WIDE, load, put, root, splat, sum_of

_ADAGRAD_EPSILON = 1e-10  # the same value as in torch, so that results agree
_ADAM_EPSILON = 1e-8  # the same value as in torch
_ADAM_CORRECTIONS = 5  # position of the first correction in Adam's constants
_ADAM_STEPS_MAX = 1 << 18
"""Maximum size of the table of Adam's corrections: with β₂ up to 0.9999 they have reached 1 by then."""


def constants_of(spec: TableSpec) -> npt.NDArray[np.float64]:
    """The constants of the spec's optimizer, (c,) float64, as its kernel expects them."""
    rate = spec.learning_rate
    if spec.optimizer == "adam":
        # Tabulated: computing a power for each row would cost more than the rest of its step.
        decay = max(spec.beta1, spec.beta2)
        steps = int(np.log(2.0**-25) / np.log(decay)) + 2 if decay > 0.0 else 2
        t = np.arange(min(steps, _ADAM_STEPS_MAX))
        first, second = 1.0 - spec.beta1**t, 1.0 - spec.beta2**t
        first[0] = second[0] = 1.0  # not used: a row's first step is 1
        corrections = np.stack([rate / first, 1.0 / np.sqrt(second)], axis=1).reshape(-1)
        head = [1.0 - spec.beta1, 1.0 - spec.beta2, _ADAM_EPSILON, float(len(t) - 1), 0.0]
        return np.concatenate([head, corrections])
    if spec.optimizer == "ftrl":
        return np.array([1.0 / rate, spec.ftrl_beta, spec.l1, spec.l2, spec.initial_accumulator])
    return np.array([rate, _ADAGRAD_EPSILON])


@njit(cache=True, nogil=True, forceinline=True)
def _ask(rows, listed, slots, i, columns):
    """Prefetch the first columns of a later row of the batch, and its bit for `mark`."""
    slot = max(slots[min(i + AHEAD, slots.shape[0] - 1)], 0)
    for column in range(0, columns - 1, WIDE):
        prefetch(rows, slot, column)
    prefetch(rows, slot, columns - 1)
    prefetch_element(listed, slot >> 3)


@njit(cache=True, nogil=True)
def step_sgd(store, slots, gradients, dim, constants):
    """Gradient descent."""
    rows, listed = borrow(store.rows), borrow(store.listed)
    touched, state = borrow(store.touched), borrow(store.state)
    versions = borrow(store.versions)
    rate = splat(np.float32(constants[0]))
    for i in range(slots.shape[0]):
        _ask(rows, listed, slots, i, dim)
        slot = slots[i]
        if slot < 0:
            continue
        begin_write(versions, slot)
        for j in range(0, dim, WIDE):
            w = load(rows, slot, j, dim)
            put(rows, slot, j, dim, w - rate * load(gradients, i, j, dim))
        end_write(versions, slot)
        mark(listed, touched, state, slot)


@njit(cache=True, nogil=True, error_model="numpy")
def step_adagrad(store, slots, gradients, dim, constants):
    """Adagrad, with a sum of squares for each weight."""
    rows, listed = borrow(store.rows), borrow(store.listed)
    touched, state = borrow(store.touched), borrow(store.state)
    versions = borrow(store.versions)
    rate, epsilon = splat(np.float32(constants[0])), splat(np.float32(constants[1]))
    for i in range(slots.shape[0]):
        _ask(rows, listed, slots, i, 2 * dim)
        slot = slots[i]
        if slot < 0:
            continue
        begin_write(versions, slot)
        for j in range(0, dim, WIDE):
            g = load(gradients, i, j, dim)
            w = load(rows, slot, j, dim)
            a = load(rows, slot, dim + j, 2 * dim) + g * g
            put(rows, slot, dim + j, 2 * dim, a)
            put(rows, slot, j, dim, w - rate * g / (root(a) + epsilon))
        end_write(versions, slot)
        mark(listed, touched, state, slot)


@njit(cache=True, nogil=True, error_model="numpy")
def step_rowwise_adagrad(store, slots, gradients, dim, constants):
    """Adagrad with one sum per row: each step adds the mean square of the gradient."""
    rows, listed = borrow(store.rows), borrow(store.listed)
    touched, state = borrow(store.touched), borrow(store.state)
    versions = borrow(store.versions)
    rate, epsilon = np.float32(constants[0]), np.float32(constants[1])
    share = np.float32(1.0 / dim)
    for i in range(slots.shape[0]):
        _ask(rows, listed, slots, i, dim + 1)
        slot = slots[i]
        if slot < 0:
            continue
        begin_write(versions, slot)
        squares = splat(np.float32(0.0))
        for j in range(0, dim, WIDE):
            g = load(gradients, i, j, dim)
            squares = squares + g * g
        a = rows[slot, dim] + sum_of(squares) * share
        rows[slot, dim] = a
        by = splat(rate / (np.sqrt(a) + epsilon))
        for j in range(0, dim, WIDE):
            w = load(rows, slot, j, dim)
            put(rows, slot, j, dim, w - by * load(gradients, i, j, dim))
        end_write(versions, slot)
        mark(listed, touched, state, slot)


@njit(cache=True, nogil=True, error_model="numpy")
def step_adam(store, slots, gradients, dim, constants):
    """Adam; state is m (dim), v (dim) and the number of steps of the row."""
    rows, listed = borrow(store.rows), borrow(store.listed)
    touched, state = borrow(store.touched), borrow(store.state)
    versions = borrow(store.versions)
    new1, new2 = splat(np.float32(constants[0])), splat(np.float32(constants[1]))
    epsilon, last = splat(np.float32(constants[2])), np.float32(constants[3])
    for i in range(slots.shape[0]):
        _ask(rows, listed, slots, i, 3 * dim + 1)
        slot = slots[i]
        if slot < 0:
            continue
        begin_write(versions, slot)
        t = min(rows[slot, 3 * dim] + np.float32(1.0), last)
        rows[slot, 3 * dim] = t
        at = _ADAM_CORRECTIONS + 2 * np.int64(t)
        rate, correct = splat(np.float32(constants[at])), splat(np.float32(constants[at + 1]))
        for j in range(0, dim, WIDE):
            g = load(gradients, i, j, dim)
            w = load(rows, slot, j, dim)
            m = load(rows, slot, dim + j, 2 * dim)
            v = load(rows, slot, 2 * dim + j, 3 * dim)
            m = m + new1 * (g - m)
            v = v + new2 * (g * g - v)
            put(rows, slot, dim + j, 2 * dim, m)
            put(rows, slot, 2 * dim + j, 3 * dim, v)
            put(rows, slot, j, dim, w - rate * m / (root(v) * correct + epsilon))
        end_write(versions, slot)
        mark(listed, touched, state, slot)


@njit(cache=True, nogil=True, error_model="numpy")
def step_ftrl(store, slots, gradients, dim, constants):
    """FTRL-proximal; state is z (dim) and n (dim).

    In FTRL a weight is a function of z and n. A new row has z = 0; at its first step, z is set to the value
    that gives its initial weight, so that learning starts from the initializer.
    """
    rows, listed = borrow(store.rows), borrow(store.listed)
    touched, state = borrow(store.touched), borrow(store.state)
    versions = borrow(store.versions)
    per_rate, beta = np.float32(constants[0]), np.float32(constants[1])
    l1, l2, first = np.float32(constants[2]), np.float32(constants[3]), np.float32(constants[4])
    zero = np.float32(0.0)
    for i in range(slots.shape[0]):
        _ask(rows, listed, slots, i, 3 * dim)
        slot = slots[i]
        if slot < 0:
            continue
        begin_write(versions, slot)
        for j in range(dim):  # not vectorised: the branches differ by column
            g = gradients[i, j]
            w = rows[slot, j]
            z = rows[slot, dim + j]
            n = rows[slot, 2 * dim + j]
            root = np.sqrt(n)
            if z == zero and n == first and w != zero:
                z = -w * ((beta + root) * per_rate + l2) - np.copysign(l1, w)
            n += g * g
            root_new = np.sqrt(n)
            z += g - (root_new - root) * per_rate * w
            w = zero
            if abs(z) > l1:
                w = -(z - np.copysign(l1, z)) / ((beta + root_new) * per_rate + l2)
            rows[slot, j] = w
            rows[slot, dim + j] = z
            rows[slot, 2 * dim + j] = n
        end_write(versions, slot)
        mark(listed, touched, state, slot)


STEPS: dict[str, Callable[..., None]] = {
    "sgd": step_sgd,
    "adagrad": step_adagrad,
    "rowwise_adagrad": step_rowwise_adagrad,
    "adam": step_adam,
    "ftrl": step_ftrl,
}

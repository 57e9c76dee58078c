"""One step of DCN-v2 as one kernel: forward, backward, and Adam, for a group of a few dozen rows.

For such small matrices the overhead of a library exceeds the arithmetic, so all of it is written out here. A
test compares the gradients with autograd's. Sums are computed in the order of the summed index, or in
parallel over columns, so they are the same on every processor.

Activations are stored as (width, columns), with the group's rows side by side and padded with zeros to whole
vectors, so that weights are read in memory order. For the weights' gradients they are transposed.
"""

import numpy as np
from numba import njit

from learner.deep.networks import CROSS_LAYERS, HIDDEN, Array
from learner.deep.products import LANES, add_product
from learner.deep.trainer import DeepTrainer, Floats, Step, by_logit, take_step
from learner.lessons import Lessons

_FIRST, _SECOND = HIDDEN
_ZERO = np.float32(0.0)


class DCNTrainer(DeepTrainer):
    """Trains the weights of a `DCN`."""

    def step(
        self,
        inputs: Array,
        embedding_width: int,
        offset: Floats,
        lessons: Lessons,
        reference: Floats | None = None,
    ) -> Step | None:
        """See `DeepTrainer.step`."""
        z = np.empty(len(offset))
        by_inputs = np.empty((len(offset), embedding_width), dtype=np.float32)
        gradient = np.empty_like(self.flat)
        finite = _learn(
            self.flat, gradient, self.moments, self.steps + 1, inputs, offset, lessons,
            offset if reference is None else reference, self.correction, self.rate, self.clip, z, by_inputs,
        )  # fmt: skip
        if not finite:
            return None
        self.steps += 1
        return Step(by_inputs, z)


@njit(cache=True, nogil=True, error_model="numpy")
def _learn(
    flat, gradient, moments, steps, inputs, offset, lessons, reference, correction, rate, clip, z, by_inputs
):
    """Learn one group; arguments as of `DeepTrainer.step`. False: a value was not finite, and nothing
    changed."""
    _gradients(flat, gradient, inputs, offset, lessons, reference, correction, z, by_inputs)
    return take_step(flat, gradient, moments, steps, len(offset), rate, clip)


@njit(cache=True, nogil=True, error_model="numpy")
def _gradients(flat, gradient, inputs, offset, lessons, reference, correction, z, by_inputs):
    """Predict a group, and write the gradients of its summed loss.

    Args:
        flat, gradient: (W,) float32, weights and, out, their gradients, in the order of `DCN.shapes`.
        inputs: (n, width) float32.
        offset, reference: (n,) float64.
        lessons: `Lessons` of the n rows.
        z: (n,) float64, out: the logits.
        by_inputs: (n, wanted) float32, out: the gradient by the first inputs.
    """
    n, width = inputs.shape
    y, _, weight, before, target, noise = lessons
    columns = (n + LANES - 1) // LANES * LANES
    padded = (width + LANES - 1) // LANES * LANES
    wanted = by_inputs.shape[1]
    cross = width * width + width  # weights of a cross layer
    first_at = CROSS_LAYERS * cross
    second_at = first_at + _FIRST * width + _FIRST
    out_at = second_at + _SECOND * _FIRST + _SECOND

    which = np.arange(max(width, _FIRST, n))  # all rows

    # x[l] is what cross layer l sees, c[l] by what it multiplies the inputs; h, g the hidden layers.
    x = np.zeros((CROSS_LAYERS + 1, width * columns), dtype=np.float32)
    c = np.empty((CROSS_LAYERS, width * columns), dtype=np.float32)
    for s in range(n):
        for j in range(width):
            x[0, j * columns + s] = inputs[s, j]
    for i in range(CROSS_LAYERS):
        _layer(c[i], flat, i * cross, width, width, x[i], which, columns)
        for k in range(width * columns):
            x[i + 1, k] = x[0, k] * c[i, k] + x[i, k]
    h = np.empty(_FIRST * columns, dtype=np.float32)
    g = np.empty(_SECOND * columns, dtype=np.float32)
    _layer(h, flat, first_at, _FIRST, width, x[0], which, columns)
    _rectify(h)
    _layer(g, flat, second_at, _SECOND, _FIRST, h, which, columns)
    _rectify(g)
    residual = np.zeros(columns, dtype=np.float32)
    outs = _outputs(flat, out_at, width + _SECOND, target, columns)  # each row's output vector
    _add_dot(residual, x[CROSS_LAYERS], outs, 0, width, columns)
    _add_dot(residual, g, outs, width, _SECOND, columns)

    error = np.zeros(columns, dtype=np.float32)
    for s in range(n):
        z[s] = residual[s] + offset[s]
        error[s] = by_logit(z[s], y[s], weight[s], before[s], noise[s], reference[s], correction)

    rows = np.zeros(n * padded, dtype=np.float32)
    narrow = np.empty(n * _FIRST, dtype=np.float32)
    _turn(x[CROSS_LAYERS], width, columns, n, padded, rows)
    gradient[out_at:] = _ZERO
    _by_output(gradient, out_at, width + _SECOND, target, rows, width, padded, error, n)
    _turn(g, _SECOND, columns, n, _FIRST, narrow)
    _by_output(gradient, out_at + width, width + _SECOND, target, narrow, _SECOND, _FIRST, error, n)

    by_g = np.empty(_SECOND * columns, dtype=np.float32)
    by_h = np.empty(_FIRST * columns, dtype=np.float32)
    by_x0 = np.empty(wanted * columns, dtype=np.float32)
    _outer(by_g, outs, width, _SECOND, error, columns)
    _mask(by_g, g)
    _turn(h, _FIRST, columns, n, _FIRST, narrow)
    _by_weights(gradient, second_at, by_g, _SECOND, narrow, _FIRST, _FIRST, which, n, columns)
    add_product(
        by_h, 0, columns, flat, second_at, 1, _FIRST, by_g, 0, columns, which, _FIRST, columns, _SECOND, False
    )
    _mask(by_h, h)
    _turn(x[0], width, columns, n, padded, rows)
    _by_weights(gradient, first_at, by_h, _FIRST, rows, width, padded, which, n, columns)
    add_product(
        by_x0, 0, columns, flat, first_at, 1, width, by_h, 0, columns, which, wanted, columns, _FIRST, False
    )

    by_x = np.empty(width * columns, dtype=np.float32)
    by_c = np.empty(width * columns, dtype=np.float32)
    _outer(by_x, outs, 0, width, error, columns)
    for i in range(CROSS_LAYERS - 1, -1, -1):
        for k in range(wanted * columns):
            by_x0[k] += by_x[k] * c[i, k]
        for k in range(width * columns):
            by_c[k] = by_x[k] * x[0, k]
        _turn(x[i], width, columns, n, padded, rows)
        _by_weights(gradient, i * cross, by_c, width, rows, width, padded, which, n, columns)
        # Before the first layer only the wanted gradients are computed.
        needed = width if i > 0 else wanted
        add_product(
            by_x, 0, columns, flat, i * cross, 1, width, by_c, 0, columns, which, needed, columns, width, True
        )
    for j in range(wanted):
        for s in range(n):
            by_inputs[s, j] = by_x0[j * columns + s] + by_x[j * columns + s]


@njit(cache=True, nogil=True, error_model="numpy")
def _layer(out, flat, at, outside, inside, x, which, columns):
    """out = W x + b, with W (outside, inside) at flat[at:] and b behind it."""
    bias = at + outside * inside
    for j in range(outside):
        out[j * columns : (j + 1) * columns] = flat[bias + j]
    add_product(out, 0, columns, flat, at, inside, 1, x, 0, columns, which, outside, columns, inside, True)


@njit(cache=True, nogil=True, error_model="numpy")
def _rectify(x):
    for k in range(len(x)):
        x[k] = x[k] if not x[k] <= _ZERO else _ZERO  # NaN stays NaN


@njit(cache=True, nogil=True, error_model="numpy")
def _mask(by_x, x):
    for k in range(len(x)):
        by_x[k] = by_x[k] if x[k] > _ZERO else _ZERO


@njit(cache=True, nogil=True, error_model="numpy")
def _outputs(flat, at, size, target, columns):
    """The output vector of each row's target, (size, columns); zeros behind the rows."""
    outs = np.zeros(size * columns, dtype=np.float32)
    for s in range(len(target)):
        first = at + target[s] * size
        for j in range(size):
            outs[j * columns + s] = flat[first + j]
    return outs


@njit(cache=True, nogil=True, error_model="numpy")
def _outer(out, outs, first, count, error, columns):
    """out[j] = outs[first + j] times the errors."""
    for j in range(count):
        for s in range(columns):
            out[j * columns + s] = outs[(first + j) * columns + s] * error[s]


@njit(cache=True, nogil=True, error_model="numpy")
def _turn(x, width, columns, n, padded, out):
    """x (width, columns) row by row: out (n, padded); numbers behind the width are not written."""
    for s in range(n):
        for j in range(width):
            out[s * padded + j] = x[j * columns + s]


@njit(cache=True, nogil=True, error_model="numpy")
def _add_dot(total, x, outs, first, count, columns):
    """total += Σ_j outs[first + j] x[j]."""
    for j in range(count):
        for s in range(columns):
            total[s] += x[j * columns + s] * outs[(first + j) * columns + s]


@njit(cache=True, nogil=True, error_model="numpy")
def _by_output(gradient, at, size, target, rows, width, padded, error, n):
    """gradient[at + t size + j] += Σ_s rows[s, j] error[s] over the rows s of each target t."""
    for s in range(n):
        first = at + target[s] * size
        for j in range(width):
            gradient[first + j] += rows[s * padded + j] * error[s]


@njit(cache=True, nogil=True, error_model="numpy")
def _by_weights(gradient, at, by_out, outside, rows, inside, padded, which, n, columns):
    """The gradients of a layer, W (outside, inside) at gradient[at:] and b behind it."""
    add_product(
        gradient, at, inside, by_out, 0, columns, 1, rows, 0, padded, which, outside, inside, n, False
    )
    bias = at + outside * inside
    for j in range(outside):
        total = _ZERO
        for s in range(n):
            total += by_out[j * columns + s]
        gradient[bias + j] = total

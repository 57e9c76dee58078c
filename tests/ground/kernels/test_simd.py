"""Sixteen at once: the same as numpy, bit for bit, at every width, and not a column beyond."""

import numpy as np
import pytest
from numba import njit

from ground.kernels.simd import WIDE, copy, load, put, root, splat, sum_of


@njit
def _compute(left, right, out, width, number):
    """Out of columns 1 to 1 + width; returns the sum of `left`'s."""
    total = splat(np.float32(0.0))
    for i in range(left.shape[0]):
        for j in range(1, 1 + width, WIDE):
            a, b = load(left, i, j, 1 + width), load(right, i, j, 1 + width)
            put(out, i, j, 1 + width, root(a * a) / (b + splat(number)) - b)
            total = total + a
    return sum_of(total)


@njit
def _copied(source, target, width):
    for i in range(source.shape[0]):
        copy(source, i, 2, target, source.shape[0] - 1 - i, 1, width)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 5, 15, 16, 17, 32, 40])
def test_lanes_compute_what_numpy_does_within_the_columns(width):
    rng = np.random.default_rng(width)
    shape = (3, width + 2)
    left = rng.integers(-8, 9, shape).astype(np.float32)  # their sums are exact in any order
    right, out = rng.random(shape, dtype=np.float32), np.full(shape, 7.0, dtype=np.float32)
    number = np.float32(0.3)
    assert _compute(left, right, out, width, number) == left[:, 1:-1].sum()
    a, b = left[:, 1:-1], right[:, 1:-1]
    assert (out[:, 1:-1] == np.sqrt(a * a) / (b + number) - b).all()
    assert (out[:, [0, -1]] == 7.0).all()


def test_copies_keep_every_bit():
    source = np.random.default_rng(1).integers(0, 1 << 32, (4, 40), dtype=np.uint32)  # NaNs among them
    for width in (1, 16, 37):
        target = np.zeros((4, 41), dtype=np.uint32)
        _copied(source, target, width)
        assert (target[::-1, 1 : 1 + width] == source[:, 2 : 2 + width]).all()
        assert (target[:, 0] == 0).all()
        assert (target[:, 1 + width :] == 0).all()

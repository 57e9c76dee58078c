"""Repeated ids in a batch: number the distinct ids, and sum the gradients of each.

A batch of a click stream has far fewer distinct ids than ids. Rows are read once per distinct id into a
compact block that stays in the cache; all work per example uses the block.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from embeddings.types import Keys
from ground.kernels.intrinsics import prefetch
from ground.kernels.mixing import mix
from ground.kernels.simd import WIDE, copy, load, put

_ONE = np.uint64(1)
_NEAR = 16  # prefetch distance in ids, for arrays that fit into the L2 or L3 cache


def number(keys: Keys, salt: np.uint64) -> tuple[Keys, npt.NDArray[np.int64]]:
    """The distinct keys (m,) in the order of their first appearance, and the number of each key, (n,)."""
    n = len(keys)
    size = 1 << max(10, int(1.5 * n).bit_length())
    scratch = np.empty(size, dtype=np.uint32)
    hashes = np.empty(n, dtype=np.uint64)
    unique = np.empty(n + 1, dtype=np.uint64)
    inverse = np.empty(n, dtype=np.int64)
    count = distinct(keys, salt, scratch, hashes, unique, inverse)
    return unique[:count], inverse


@njit(cache=True, nogil=True)
def distinct(keys, salt, scratch, hashes, unique, inverse):
    """Number the distinct keys of a batch in the order of their first appearance.

    The processor cannot predict whether a key is new, so the loop does not branch on it: it writes to the
    same addresses in both cases. Only a collision, which is rare, repeats the inner loop.

    Args:
        keys: (n,) uint64.
        salt: salt of the hash, uint64, so that nobody can prepare keys that collide.
        scratch: (S,) uint32, S a power of two above n: an open-addressing hash table.
        hashes: (n,) uint64, also scratch.
        unique: (n + 1,) uint64, out: the distinct keys.
        inverse: (n,) int64, out: the number of each key.

    Returns:
        How many distinct keys.
    """
    scratch[:] = 0
    mask = np.uint64(scratch.shape[0] - 1)
    n = keys.shape[0]
    for i in range(n):
        hashes[i] = mix(keys[i] ^ salt) & mask
    count = np.uint64(0)
    for i in range(n):
        key = keys[i]
        position = hashes[i]
        entry = np.uint64(scratch[position])
        number = count if entry == np.uint64(0) else entry - _ONE
        unique[count] = key
        while unique[number] != key:
            position = (position + _ONE) & mask
            entry = np.uint64(scratch[position])
            number = count if entry == np.uint64(0) else entry - _ONE
        scratch[position] = np.uint32(number + _ONE)
        inverse[i] = np.int64(number)
        count += np.uint64(entry == np.uint64(0))
    return np.int64(count)


@njit(cache=True, nogil=True)
def newest(inverse, times, out):
    """The latest of the times (n,) uint32 of each number: out (m,), initially no later than any time."""
    for i in range(inverse.shape[0]):
        number = inverse[i]
        out[number] = max(out[number], times[i])


@njit(cache=True, nogil=True)
def total(inverse, values, out):
    """Sum values (n, d) float32 by number, in the order of the batch: out (m, d), zeros before."""
    width = values.shape[1]
    n = inverse.shape[0]
    for i in range(n):
        prefetch(out, inverse[min(i + _NEAR, n - 1)], 0)
        number = np.uint64(inverse[i])
        for j in range(0, width, WIDE):
            put(out, number, j, width, load(out, number, j, width) + load(values, i, j, width))


@njit(cache=True, nogil=True)
def spread(vectors, inverse, out):
    """Copy the vectors (m, d) of the distinct ids to every example: out (n, d)."""
    n = inverse.shape[0]
    for i in range(n):
        prefetch(vectors, inverse[min(i + _NEAR, n - 1)], 0)
        copy(vectors, np.uint64(inverse[i]), 0, out, i, 0, out.shape[1])


@njit(cache=True, nogil=True)
def tally(inverse, out):
    """The number of sightings of each distinct key: out (m,) uint32, zeros before."""
    for i in range(inverse.shape[0]):
        out[inverse[i]] += np.uint32(1)

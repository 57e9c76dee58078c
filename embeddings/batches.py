"""Repeats within a batch: find the distinct ids once, and sum what belongs to each.

In click streams a batch holds a fraction as many distinct ids as ids. Rows are fetched once per
distinct id into a compact block that stays in the cache; everything per example works on the block.
"""

import numpy as np
from numba import njit

from embeddings.intrinsics import prefetch
from ground.mixing import mix


@njit(cache=True, nogil=True)
def distinct(keys, scratch, unique, first, inverse):  # type: ignore[no-untyped-def]
    """Number the distinct keys of a batch in the order of their first appearance.

    Args:
        keys: (n,) uint64.
        scratch: (S,) uint32 of zeros, S a power of two above n: an open-addressing hash table.
        unique, first, inverse: (n,) uint64, int64, int64, out: the distinct keys, where each appeared
            first, and the number of each key.

    Returns:
        How many distinct keys.
    """
    mask = np.uint64(scratch.shape[0] - 1)
    one = np.uint64(1)
    count = 0
    for i in range(keys.shape[0]):
        key = keys[i]
        position = mix(key) & mask
        while True:
            number = np.int64(scratch[position]) - 1
            if number < 0:
                scratch[position] = np.uint32(count + 1)
                unique[count] = key
                first[count] = i
                inverse[i] = count
                count += 1
                break
            if unique[number] == key:
                inverse[i] = number
                break
            position = (position + one) & mask
    return count


@njit(cache=True, nogil=True)
def total(inverse, values, out):  # type: ignore[no-untyped-def]
    """Add values (n, d) float32 up by number: out (m, d), zeros before, in the order of the batch."""
    # Flat, and by unsigned positions: numba would ask of each signed one whether it is negative.
    flat_values, flat_out = values.ravel(), out.ravel()
    d = np.uint64(values.shape[1])
    for i in range(inverse.shape[0]):
        source, target = np.uint64(i) * d, np.uint64(inverse[i]) * d
        for j in range(d):
            flat_out[target + j] += flat_values[source + j]


@njit(cache=True, nogil=True)
def spread(vectors, inverse, out):  # type: ignore[no-untyped-def]
    """Copy the vectors (m, d) of the distinct ids to every example: out (n, d)."""
    n = inverse.shape[0]
    for i in range(n):
        if i + 8 < n:
            prefetch(vectors, inverse[i + 8], 0)
        number = inverse[i]
        for j in range(vectors.shape[1]):
            out[i, j] = vectors[number, j]


@njit(cache=True, nogil=True)
def newest(inverse, times, out):  # type: ignore[no-untyped-def]
    """The latest of the times (n,) uint32 of each number's sightings: out (m,) uint32, zeros before."""
    for i in range(inverse.shape[0]):
        out[inverse[i]] = max(out[inverse[i]], times[i])

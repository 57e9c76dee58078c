"""Bit mixing for kernels: spreads 64-bit keys, and joins two of them into the key of a pair."""

import numpy as np
from numba import njit

_M1 = np.uint64(0xFF51AFD7ED558CCD)
_M2 = np.uint64(0xC4CEB9FE1A85EC53)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_S33 = np.uint64(33)


@njit(cache=True, nogil=True)
def mix(key: np.uint64) -> np.uint64:
    """A bijection on 64 bits whose every output bit depends on every input bit (Murmur3's finaliser)."""
    key ^= key >> _S33
    key *= _M1
    key ^= key >> _S33
    key *= _M2
    key ^= key >> _S33
    return key


@njit(cache=True, nogil=True)
def join_keys(salt: np.uint64, left: np.uint64, right: np.uint64) -> np.uint64:
    """The key of (salt, left, right); like a hashed string, two pairs meet with odds n²/2⁶⁵."""
    return mix(mix(mix(salt + _GOLDEN) ^ left) * _GOLDEN + right)


_U1 = np.uint64(pow(int(_M1), -1, 1 << 64))
_U2 = np.uint64(pow(int(_M2), -1, 1 << 64))


@njit(cache=True, nogil=True)
def unmix(mixed: np.uint64) -> np.uint64:
    """The key that `mix` has made this of.

    >>> int(unmix(mix(np.uint64(42))))
    42
    """
    mixed ^= mixed >> _S33
    mixed *= _U2
    mixed ^= mixed >> _S33
    mixed *= _U1
    mixed ^= mixed >> _S33
    return mixed

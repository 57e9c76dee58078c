"""Keys: how an id becomes 64 bits.

Integer ids are signed and keep all 64 bits; send larger ids as text. Strings are hashed to 64 bits with
xxh3; among n distinct strings of one feature the probability of any collision is about n²/2⁶⁵ (a million ids:
3 in 100 million).
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import xxhash

_MASK = (1 << 64) - 1


def hash_string(text: str) -> int:
    """The unsigned 64-bit key of a string id (xxh3)."""
    return xxhash.xxh3_64_intdigest(text.encode())


def key_of(value: int | str) -> int:
    """The unsigned 64-bit key of one id: two's complement of a signed integer, xxh3 of a string.

    Only signed integers are accepted: otherwise -1 and 2^64 - 1 would be the same id.

    Raises:
        OverflowError: the integer does not fit in 64 bits with its sign.
    """
    if isinstance(value, str):
        return xxhash.xxh3_64_intdigest(value.encode())
    if -(1 << 63) <= value < 1 << 63:
        return value & _MASK
    raise OverflowError(f"{value} is no signed integer of 64 bits; give larger ids as text")


def string_keys(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """`hash_string` of many strings, as one array of shape (n,)."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, map(str.encode, texts)), dtype=np.uint64)

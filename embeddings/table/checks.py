"""Convert arguments of callers to the arrays that kernels expect, or refuse them with a message.

Numba compiles a kernel again for a read-only or a strided array, so every array is made writable and
contiguous here. Most already are, and are not copied.
"""

from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from embeddings.errors import TableInputError
from embeddings.kernels.columns import within
from embeddings.types import Floats, Keys, Slots

KERNEL: Final = ("C", "W")
"""NumPy requirements of every array that is passed to a kernel."""

Scalar = TypeVar("Scalar", bound=np.generic)

_UINT64: Final = np.dtype(np.uint64)
_INT64: Final = np.dtype(np.int64)
_UINT32: Final = np.dtype(np.uint32)
_FLOAT32: Final = np.dtype(np.float32)

_UINT32_MAX: Final = (1 << 32) - 1


def _kernel_array(values: npt.ArrayLike, dtype: np.dtype[Scalar]) -> npt.NDArray[Scalar]:
    """An array that meets KERNEL. Nearly all do, and `np.require` costs more than a small kernel."""
    if type(values) is np.ndarray and values.dtype == dtype and values.flags.carray:
        return values
    return np.require(values, dtype=dtype, requirements=KERNEL)


def as_keys(table: str, keys: npt.ArrayLike) -> Keys:
    """Convert keys to (n,) uint64; negative integers become their two's complement.

    Raises:
        TableInputError: the keys are not integers, or not one-dimensional.
    """
    array = np.asarray(keys)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TableInputError(
            f"table {table!r}: keys must be integers of shape (n,), not {array.dtype} of shape {array.shape}"
        )
    return _kernel_array(array, _UINT64)


def as_slots(table: str, slots: Slots, high: int) -> Slots:
    """Convert slots to (n,) int64; each must be -1 or from 0 to high - 1.

    Raises:
        TableInputError: the slots do not come from this table.
    """
    array = _kernel_array(slots, _INT64)
    if array.ndim != 1:
        raise TableInputError(f"table {table!r}: slots must be (n,), not {array.shape}")
    if not within(array, high):
        raise TableInputError(f"table {table!r}: slots must come from this table")
    return array


def as_floats(table: str, values: npt.ArrayLike, shape: tuple[int, int], what: str) -> Floats:
    """Convert values of `shape` to float32.

    Raises:
        TableInputError: the values have another shape.
    """
    array = _kernel_array(values, _FLOAT32)
    if array.shape != shape:
        raise TableInputError(f"table {table!r}: {what} must have shape {shape}, not {array.shape}")
    return array


def as_uint32(table: str, values: npt.ArrayLike, n: int, what: str) -> npt.NDArray[np.uint32]:
    """Convert whole numbers, one for all or (n,), to (n,) uint32.

    Raises:
        TableInputError: the shape is wrong, or a number does not fit into 32 bits.
    """
    array = np.asarray(values)
    if array.shape not in ((), (n,)):
        raise TableInputError(f"table {table!r}: {what} must be one or {n}, not {array.shape}")
    if array.dtype != np.uint32:
        if array.size and not (array.min() >= 0 and array.max() <= _UINT32_MAX):
            raise TableInputError(
                f"table {table!r}: {what} must be from 0 to {_UINT32_MAX} "
                "(whole seconds since 1970, not milliseconds)"
            )
        array = array.astype(np.uint32)
    if array.ndim == 0:
        return np.full(n, array, dtype=np.uint32)
    return _kernel_array(array, _UINT32)

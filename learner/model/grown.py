"""Filling a learner's arrays from a state, which may be of fewer targets: theirs come first."""

import numpy as np
import numpy.typing as npt


def fill(array: npt.NDArray[np.generic], data: bytes, rows: int = 1) -> None:
    """Write saved numbers into an array of at least as many; the others keep their values.

    Args:
        rows: of how many equal parts each begins with the saved ones.
    """
    saved = np.frombuffer(data, dtype=array.dtype).reshape(rows, -1)
    array.reshape(rows, -1)[:, : saved.shape[1]] = saved

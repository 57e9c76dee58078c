"""Keys from ids, for programs that use an error memory with a model of their own."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from error_memory.errors import MemoryInputError
from ground.keys import key_of


def keys_of(*columns: Iterable[object]) -> npt.NDArray[np.uint64]:
    """A table of keys, (n, fields), from one column of n ids for each field.

    A column is any iterable: a list, an array, a column of a data frame. An id is text or an integer
    (Python's or numpy's). The same id gives the same key in every process.

    >>> keys_of(["ann", "bob"], [7, 8]).shape
    (2, 2)
    >>> bool((keys_of(["ann"]) == keys_of(np.array(["ann"]))).all())
    True

    Raises:
        MemoryInputError: columns differ in length, or a value is neither text nor an integer.
    """
    fields = [_column(number, values) for number, values in enumerate(columns)]
    if len({len(field) for field in fields}) > 1:
        lengths = ", ".join(str(len(field)) for field in fields)
        raise MemoryInputError(f"all columns must have one id per row; their lengths are {lengths}")
    return np.stack(fields, axis=1) if fields else np.empty((0, 0), dtype=np.uint64)


def _column(number: int, values: Iterable[object]) -> npt.NDArray[np.uint64]:
    keys = []
    for row, value in enumerate(values):
        try:
            if isinstance(value, str):
                keys.append(key_of(value))
            elif isinstance(value, int | np.integer) and not isinstance(value, bool):
                keys.append(key_of(int(value)))
            else:
                raise MemoryInputError(
                    f"column {number}, row {row}: {value!r} is not an id; an id is text or an integer "
                    "(turn a number with a fraction into a bucket first)"
                )
        except OverflowError as error:
            raise MemoryInputError(f"column {number}, row {row}: {error}") from None
    return np.array(keys, dtype=np.uint64)

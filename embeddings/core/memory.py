"""Memory that grows without a copy: address space is reserved once, pages are mapped when first written."""

import contextlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from embeddings.errors import TableError

_NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE; only newer Pythons have it in module mmap
_HUGE_FROM = 4 << 20  # bytes; a small table should not use whole huge pages


def reserve(shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """An array of zeros. A page takes memory at its first write; the operating system fills it with zeros.

    Large arrays request huge pages after their first megabytes: with small pages, random reads of a
    table miss the translation buffer at nearly every row.

    Raises:
        TableError: the system does not grant that much address space.
    """
    count = 1
    for n in shape:
        count *= n
    size = max(count * np.dtype(dtype).itemsize, 1)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    except (OSError, OverflowError) as error:
        raise TableError(
            f"cannot reserve {size / 2**30:.1f} GiB of address space ({error}): "
            "lower rows_max or raise `ulimit -v`"
        ) from error
    if size > 2 * _HUGE_FROM and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # without huge pages the table is slower, but works
            memory.madvise(mmap.MADV_HUGEPAGE, _HUGE_FROM, size - _HUGE_FROM)
    return np.frombuffer(memory, dtype=dtype, count=count).reshape(shape)

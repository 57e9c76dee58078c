"""Memory that grows without being copied: address space is reserved once, pages come when first touched."""

import contextlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from embeddings.errors import TableError

_NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE, which the mmap module names only in newer Pythons
_HUGE_FROM = 4 << 20  # bytes; a small table should not pay for whole huge pages


def reserve(shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """An array of zeros whose pages take real memory only once written; the kernel fills them with zeros.

    Large arrays ask for huge pages beyond their first megabytes: random reads of a table miss the
    translation buffer at nearly every row without them.

    Raises:
        TableError: the system refuses so much address space.
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
        with contextlib.suppress(OSError):  # a system without huge pages: slower, not wrong
            memory.madvise(mmap.MADV_HUGEPAGE, _HUGE_FROM, size - _HUGE_FROM)
    return np.frombuffer(memory, dtype=dtype, count=count).reshape(shape)

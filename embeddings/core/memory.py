"""Memory that grows without a copy: address space is reserved once, pages are mapped when first written."""

import contextlib
import math
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from embeddings.errors import TableError

_NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE; only newer Pythons have it in module mmap
_HUGE_FROM = 4 << 20  # bytes; a small table should not use whole huge pages
_SMALL = 1 << 17  # bytes; the allocator has memory for them, and a mapping would cost more
_LINE, _PAGE = 64, mmap.PAGESIZE


def reserve(shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """An array of zeros that begins with a cache line. One that is large takes memory as it is written.

    Raises:
        TableError: the system does not grant that much address space.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > _SMALL:
        return reserve_all((shape, dtype))[0]
    memory = np.zeros(size + _LINE, dtype=np.uint8)
    first = -memory.ctypes.data % _LINE
    return memory[first : first + size].view(dtype).reshape(shape)


def reserve_all(*arrays: tuple[tuple[int, ...], type[np.generic]]) -> list[npt.NDArray[Any]]:
    """Arrays of zeros of these shapes and types, in one mapping. A page takes memory at its first write; the
    operating system fills it with zeros.

    Large arrays request huge pages after their first megabytes: with small pages, random reads of a
    table miss the translation buffer at nearly every row.

    Raises:
        TableError: the system does not grant that much address space.
    """
    counts = [math.prod(shape) for shape, _ in arrays]
    sizes = [count * np.dtype(dtype).itemsize for count, (_, dtype) in zip(counts, arrays, strict=True)]
    pages = [-(-size // _PAGE) * _PAGE for size in sizes]
    size = max(sum(pages), 1)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    except (OSError, OverflowError) as error:
        raise TableError(
            f"cannot reserve {size / 2**30:.1f} GiB of address space ({error}): "
            "lower rows_max or raise `ulimit -v`"
        ) from error
    found, first = [], 0
    for (shape, dtype), count, size, whole in zip(arrays, counts, sizes, pages, strict=True):
        if size > 2 * _HUGE_FROM and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # without huge pages the table is slower, but works
                memory.madvise(mmap.MADV_HUGEPAGE, first + _HUGE_FROM, size - _HUGE_FROM)
        found.append(np.frombuffer(memory, dtype=dtype, count=count, offset=first).reshape(shape))
        first += whole
    return found

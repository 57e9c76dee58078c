"""What bounds a step: the cache lines that it must touch, at the rate at which the machine fetches them."""

import time

import numpy as np
import numpy.typing as npt
from numba import njit

from embeddings import Table
from embeddings.core.memory import reserve
from ground.kernels.intrinsics import prefetch

LINE = 64
AHEAD = 64


@njit(cache=True, nogil=True)
def _rewrite(words, at, columns):
    """Add 1 to every 16th of the first columns of rows `at`: each of their lines is read and written."""
    for i in range(at.shape[0]):
        if i + AHEAD < at.shape[0]:
            for column in range(0, columns, 16):
                prefetch(words, at[i + AHEAD], column)
        for column in range(0, columns, 16):
            words[at[i], column] += 1


def nanoseconds_per_line(size: int, lines: int, batch: int, repeats: int = 15) -> float:
    """Median time for a line, of groups of `lines` neighbours at random places in `size` bytes.

    Prefetched far ahead, read and written: nothing that a table does can be faster.
    """
    words = reserve((size // (LINE * lines), 16 * lines), np.uint32)
    words += np.uint32(1)
    rng = np.random.default_rng(0)
    times = []
    for _ in range(repeats):
        at: npt.NDArray[np.int64] = rng.integers(0, len(words), batch)
        start = time.perf_counter()
        _rewrite(words, at, 16 * lines)
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:])) / (batch * lines) * 1e9


def limit_ms(table: Table, distinct: int) -> dict[str, float]:
    """The least time of a step with this many distinct ids in this table.

    Of each distinct id: one line of the index, and the row's lines. A row begins at any multiple of 4
    bytes, so its B bytes lie on (B + 60) / 64 lines on average. What the table touches beyond that (a
    second bucket for some, the key beside the row, flags, the batch itself) is its own affair.
    """
    row_bytes = 4 * table.width
    row_lines = (row_bytes + LINE - 4) / LINE
    index_bytes = int(len(table) / 0.8 / 8 + 1) * LINE
    index_ns = nanoseconds_per_line(index_bytes, 1, distinct)
    row_ns = nanoseconds_per_line(len(table) * row_bytes, max(round(row_lines), 1), distinct)
    return {
        "index_lines": 1.0,
        "row_lines": row_lines,
        "index_line_ns": index_ns,
        "row_line_ns": row_ns,
        "limit_ms": distinct * (index_ns + row_lines * row_ns) / 1e6,
    }

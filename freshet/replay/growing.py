"""A column of numbers that grows with a replay: in memory up to a limit, then in a temporary file.

So a replay of any length needs a bounded amount of memory. The file has no name, so it is gone when the
process is, however that ends.
"""

import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from freshet.errors import ReplayError

Number = TypeVar("Number", bound=np.generic)

ROWS_MAX = 1 << 22
"""Rows of a column in memory. A replay of at most so many candidates writes no temporary files."""
WRITTEN_ROWS = 1 << 15
"""Rows that are written to a file together."""


class Growing(Generic[Number]):
    """Numbers of one type, appended and read as one array.

    Args:
        kind: the type.
        rows_max: how many are kept in memory before all of them go to a file.
    """

    def __init__(self, kind: type[Number], rows_max: int = ROWS_MAX) -> None:
        self._kind = np.dtype(kind)
        self._rows_max = rows_max
        self._parts: list[npt.NDArray[Number]] = []
        self._held = 0  # rows in the parts
        self._file: IO[bytes] | None = None
        self.rows = 0

    def add(self, values: npt.NDArray[Number]) -> None:
        """Append numbers (n,).

        Raises:
            ReplayError: the temporary file cannot be written.
        """
        self._parts.append(values)
        self.rows += len(values)
        self._held += len(values)
        if self._held > (self._rows_max if self._file is None else WRITTEN_ROWS):
            self._write()

    def array(self) -> npt.NDArray[Number]:
        """All numbers (rows,), to be read only; a map of the file if there is one.

        Raises:
            ReplayError: the temporary file cannot be written.
        """
        if self._file is None:
            return np.concatenate(self._parts) if self._parts else np.zeros(0, self._kind)
        self._write()
        return np.memmap(self._file, self._kind, "r", shape=(self.rows,)).view(np.ndarray)

    def _write(self) -> None:
        with _telling():
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the column
                weakref.finalize(self, self._file.close)
            for part in self._parts:
                self._file.write(np.ascontiguousarray(part, self._kind).data)
            self._file.flush()
        self._parts.clear()
        self._held = 0


def scratch(kind: type[Number], rows: int) -> npt.NDArray[Number]:
    """An array (rows,) in a temporary file, to be filled in any order.

    Raises:
        ReplayError: there is no room for it.
    """
    size = rows * np.dtype(kind).itemsize
    with _telling(), tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full later would end the process
        return np.memmap(file, kind, "r+", shape=(rows,)).view(np.ndarray)


def partition(keys: npt.NDArray[np.uint64], parts: int) -> list[npt.NDArray[np.int64]]:
    """The rows of each part of the keys, ascending; all rows of a key are in one part."""
    found = [Growing(np.int64, 0) for _ in range(parts)]
    for first in range(0, len(keys), WRITTEN_ROWS):
        hashed = keys[first : first + WRITTEN_ROWS] * np.uint64(0x9E3779B97F4A7C15)
        part = (hashed >> np.uint64(32)) % np.uint64(parts)
        for k, column in enumerate(found):
            column.add(first + np.flatnonzero(part == k))
    return [column.array() for column in found if column.rows]


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReplayError(
            f"{tempfile.gettempdir()}: {error.strerror}; a replay of more than {ROWS_MAX:,} candidates keeps "
            "its predictions there until the report, about 100 bytes a candidate: make room, or name another "
            "folder by the environment variable TMPDIR"
        ) from None

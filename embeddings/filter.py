"""The admission filter as a caller sees it: saved and restored, whole or by the lines that changed."""

import numpy as np
import numpy.typing as npt

from embeddings.errors import TableInputError
from embeddings.results import Keys
from embeddings.spec import TableSpec
from embeddings.store import CHANGED_LINES, Store


class Filter:
    """The counters of ids that have no row yet (`admission.py` counts); part of a table."""

    def __init__(self, spec: TableSpec, store: Store) -> None:
        self._spec = spec
        self._store = store

    @property
    def in_use(self) -> bool:
        """Whether sightings are counted at all: not where the first of an id makes its row."""
        return self._spec.admit_after > 1

    def state(self) -> bytes:
        """The filter, whole; empty where it is not in use."""
        return self._store.sightings.tobytes() if self.in_use else b""

    def restore(self, state: bytes) -> None:
        """Put a `state` back.

        Raises:
            TableInputError: it comes from a filter of another size.
        """
        lines = self._store.sightings
        expected = lines.nbytes if self.in_use else 0
        if len(state) != expected:
            raise TableInputError(
                f"table {self._spec.name!r}: the admission filter's state has {len(state)} bytes, not "
                f"{expected}; admission_capacity or admit_after has changed since it was saved"
            )
        if expected:
            lines[:] = np.frombuffer(state, dtype=np.uint64).reshape(lines.shape)

    def drain(self) -> tuple[npt.NDArray[np.uint32], Keys]:
        """The lines written since the last drain: their numbers (m,) and words (m, 8)."""
        state = self._store.state
        numbers = self._store.changed[: int(state[CHANGED_LINES])].copy()
        self._store.line_changed[numbers] = 0
        state[CHANGED_LINES] = 0
        return numbers, self._store.sightings[numbers]

    @property
    def lines(self) -> int:
        """How many lines it has; 0 where it is not in use."""
        return len(self._store.sightings) if self.in_use else 0

    def read_lines(self, first: int, count: int) -> tuple[npt.NDArray[np.uint32], Keys]:
        """Lines first to first + count as they are: their numbers (m,) and words (m, 8)."""
        last = min(first + count, self.lines)
        return np.arange(first, last, dtype=np.uint32), self._store.sightings[first:last].copy()

    def restore_lines(self, numbers: npt.NDArray[np.uint32], words: Keys) -> None:
        """Put lines from `drain` or `read_lines` back; they count as written, as rows that are loaded do.

        Raises:
            TableInputError: they do not fit the filter's size.
        """
        lines = self._store.sightings
        if words.shape != (len(numbers), 8) or (len(numbers) and int(numbers.max()) >= len(lines)):
            raise TableInputError(
                f"table {self._spec.name!r}: these lines do not fit the admission filter of "
                f"{len(lines)} lines; admission_capacity has changed since they were saved"
            )
        lines[numbers] = words
        state, noted = self._store.state, self._store.line_changed
        fresh = np.unique(numbers[noted[numbers] == 0])
        first = int(state[CHANGED_LINES])
        self._store.changed[first : first + len(fresh)] = fresh
        noted[fresh] = 1
        state[CHANGED_LINES] = first + len(fresh)

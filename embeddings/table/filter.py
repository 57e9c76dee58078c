"""A table's state besides its rows: admission counters and eviction's clock, whole or by changed lines."""

import numpy as np

from embeddings.core.eviction import aim
from embeddings.core.positions import State
from embeddings.core.store import Store
from embeddings.errors import TableInputError
from embeddings.kernels.admission import forget
from embeddings.spec import TableSpec
from embeddings.types import Keys, Lines
from ground.distinct import distinct


class AdmissionFilter:
    """The state that decides which ids have a row (`admission.py`, `eviction.py`), in lines of 8 words."""

    def __init__(self, spec: TableSpec, store: Store) -> None:
        self._spec = spec
        self._store = store
        self._admits = len(store.filter_lines)  # the lines of admission come first
        self._drained = self._clock.copy()

    @property
    def in_use(self) -> bool:
        """Whether the table has such state. Without admission and eviction it has none."""
        spec = self._spec
        return spec.admit_after > 1 or spec.admit_share < 1.0 or spec.evict != "none"

    @property
    def lines(self) -> int:
        """Number of lines; 0 if not in use."""
        return len(self._store.book) if self.in_use else 0

    def words(self) -> Keys:
        """The whole filter (lines, 8), as it is: a view, to look at."""
        return self._store.book[: self.lines]

    def state(self) -> bytes:
        """The whole filter as bytes; empty if not in use."""
        return self.words().tobytes()

    def restore(self, state: bytes) -> None:
        """Restore a `state`. The rows that belong to it must be restored first.

        Raises:
            TableInputError: the state comes from a filter of another size.
        """
        if len(state) != self.lines * 64:
            raise TableInputError(
                f"table {self._spec.name!r}: the admission filter's state has {len(state)} bytes, not "
                f"{self.lines * 64}; admission_capacity, admit_after or evict has changed since it was saved"
            )
        words = np.frombuffer(state, dtype=np.uint64).reshape(-1, 8)
        self.restore_lines(np.arange(self.lines, dtype=np.uint32), words)

    def forget(self, keys: Keys) -> None:
        """Clear the admission counters of keys (n,)."""
        store = self._store
        if self._spec.admit_after > 1:
            forget(store.filter_lines, store.line_changed, store.changed, store.state, keys)

    def take_changed(self) -> Lines:
        """The numbers (m,) of the lines written since the last call. Only for `Table.take_changes`."""
        state = self._store.state
        numbers = self._store.changed[: int(state[State.CHANGED_LINES])].copy()
        self._store.line_changed[numbers] = 0
        state[State.CHANGED_LINES] = 0
        # The clock has few lines, which nearly always change: compare them instead of listing them.
        clock, drained = self._clock, self._drained
        moved = distinct(np.flatnonzero(clock != drained) // clock.shape[1])
        drained[moved] = clock[moved]
        return np.concatenate([numbers, (self._admits + moved).astype(np.uint32)])

    def words_of(self, numbers: Lines) -> Keys:
        """The current words (m, 8) of lines (m,)."""
        return self._store.book[numbers]

    def read_lines(self, first: int, count: int) -> tuple[Lines, Keys]:
        """Lines first to first + count: their numbers (m,) and current words (m, 8)."""
        last = min(first + count, self.lines)
        return np.arange(first, last, dtype=np.uint32), self._store.book[first:last].copy()

    def restore_lines(self, numbers: Lines, words: Keys) -> None:
        """Restore lines from `words_of` or `read_lines`. Like loaded rows, they count as written.

        Raises:
            TableInputError: the lines do not fit the size of the filter.
        """
        store = self._store
        if words.shape != (len(numbers), 8) or (len(numbers) and int(numbers.max()) >= self.lines):
            raise TableInputError(
                f"table {self._spec.name!r}: these lines do not fit the admission filter of {self.lines} "
                "lines; admission_capacity, admit_after or evict has changed since they were saved"
            )
        store.book[numbers] = words
        if self._spec.evict != "none":
            aim(store.state, self._spec.rows_max)
        mine = numbers[numbers < self._admits]
        fresh = distinct(mine[store.line_changed[mine] == 0])
        first = int(store.state[State.CHANGED_LINES])
        store.changed[first : first + len(fresh)] = fresh
        store.line_changed[fresh] = 1
        store.state[State.CHANGED_LINES] = first + len(fresh)

    @property
    def _clock(self) -> Keys:
        return self._store.book[self._admits :]

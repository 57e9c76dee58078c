"""What every error memory does, and how its arguments are brought into one form."""

from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

from error_memory.errors import MemoryInputError
from ground.kernels.logistic import logits
from ground.rows import Rows, rows_from_keys

_P_MIN = 1.2e-7  # whose logit is about -16

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_Scalar = TypeVar("_Scalar", bound=np.generic)

Keys = Rows | npt.NDArray[np.uint64]
"""What says which examples are alike: sparse rows, or a plain (n, fields) table of 64-bit keys."""


class Explained(NamedTuple):
    """How n corrected probabilities came about.

    With F the sum of a row's parts, in their order and without NaN, `p` = σ(`z` + `gate` · F); without a
    part it is the base probability. Kinds that do not correct key by key have no parts at all.
    """

    p: Floats  # (n,), corrected
    z: Floats  # (n,), the base's logit, within ±16
    gate: float
    part: Floats  # (E,), what the evidence on each entry of the rows says, a logit; NaN: there is none
    evidence: Floats  # (E,), precision L of that evidence: Σ x² p (1 - p) of its examples


class ErrorMemory(Protocol):
    """Holds the errors of a base model that it has not learnt from yet, and corrects it by them.

    Several threads may use one memory; calls take turns.
    """

    @property
    def columns(self) -> int:
        """How many columns its rows may have."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays; fixed when it is made."""
        ...

    @property
    def gate(self) -> float:
        """The share of its correction that is applied, 0 to 1."""
        ...

    @property
    def evidence(self) -> int:
        """How many observed examples it stands on; 0 when the base has learnt everything."""
        ...

    def correct(self, keys: Keys, p: npt.ArrayLike) -> Floats:
        """Corrected probabilities (n,) for base probabilities `p` (n,). Changes nothing.

        Where nothing is known of a row, its probability comes back bit for bit.

        Raises:
            MemoryInputError: lengths differ, or a value is out of range.
        """
        ...

    def explain(self, keys: Keys, p: npt.ArrayLike) -> Explained:
        """What `correct` gives, and how. Changes nothing.

        Raises:
            MemoryInputError: lengths differ, or a value is out of range.
        """
        ...

    def observe(
        self,
        keys: Keys,
        p: npt.ArrayLike,
        y: npt.ArrayLike,
        position: int | npt.ArrayLike,
        requests: npt.ArrayLike | None = None,
        times: float | npt.ArrayLike | None = None,
    ) -> Floats:
        """Learn from labels, request by request: a request is corrected whole before it is learnt.

        Args:
            keys: n rows.
            p: (n,) base probabilities, of the labels as they come: where negatives are subsampled,
                with the log-odds of the sampling added.
            y: (n,) labels, 0 or 1.
            position: stream position of each request, (R,), or one for all.
            requests: (R + 1,) offsets of the requests within the rows; without it all rows are one.
            times: event time of each request, (R,) Unix seconds, or one for all; only decay needs it.

        Returns:
            (n,) corrected probabilities as they stood before their request was learnt. A request
            at or below the position given to `advance` is corrected and not learnt.

        Raises:
            MemoryInputError: lengths differ, or a value is out of range; nothing was learnt.
        """
        ...

    def forget(self, columns: npt.ArrayLike, keys: npt.ArrayLike) -> None:
        """Take keys out with all evidence about them; a kind that cannot tell whose is what drops all of it.

        Args:
            columns: (n,), or one for all.
            keys: (n,) uint64.
        """
        ...

    def candidates(self, column: int) -> npt.NDArray[np.uint64]:
        """Keys among which are all with evidence in a column, and others; none where none can be told."""
        ...

    def advance(self, position: int) -> None:
        """The base now served has learnt every example at positions up to and including this one."""
        ...

    def set_priors(self, tau: npt.ArrayLike, keep: npt.ArrayLike | None = None) -> None:
        """Learn as the base does. Kinds without priors ignore it.

        Args:
            tau: (columns,), the base's prior variances.
            keep: (columns,), the share of evidence that its weights keep at each sighting; None: all.
        """
        ...

    def save(self) -> bytes:
        """All of its state, as bytes that `load` of a memory with the same settings takes."""
        ...

    def load(self, saved: bytes) -> None:
        """Take over a saved state, bit for bit.

        Raises:
            MemoryStateError: damaged, or saved under other settings; this memory is unchanged.
        """
        ...


class Observed(NamedTuple):
    """The arguments of one `observe` in one form: n rows in R requests."""

    rows: Rows
    p: Floats  # (n,)
    y: Floats  # (n,)
    position: Ints  # (R,)
    requests: Ints  # (R + 1,)
    times: Floats  # (R,)


def explain_whole(memory: ErrorMemory, keys: Keys, p: npt.ArrayLike) -> Explained:
    """`ErrorMemory.explain` of a kind whose correction has no parts."""
    rows = as_rows(keys, memory.columns)
    entries = len(rows.key)
    z = logits(as_probabilities(p, rows.n), _P_MIN)
    return Explained(memory.correct(rows, p), z, memory.gate, np.full(entries, np.nan), np.zeros(entries))


def as_rows(keys: Keys, columns: int) -> Rows:
    """Rows whose arrays have the one type and layout that the kernels are compiled for.

    Raises:
        MemoryInputError: the arrays do not describe rows of at most `columns` columns.
    """
    if not isinstance(keys, Rows):
        table = np.asarray(keys)
        if table.ndim != 2 or table.dtype.kind not in "ui":
            raise MemoryInputError(
                f"keys must be Rows or an integer array of shape (rows, fields), "
                f"not {table.dtype} of shape {table.shape}"
            )
        keys = rows_from_keys(table.astype(np.uint64, copy=False))
    rows = Rows(
        _plain(keys.start, np.int64),
        _plain(keys.column, np.int32),
        _plain(keys.key, np.uint64),
        _plain(keys.x, np.float32),
    )
    if not _are_rows(*rows, columns):
        _refuse(rows, columns)
    return rows


# Keeps the interpreter: it is a part of every answer, and getting the interpreter back takes longer.
@njit(cache=True, nogil=False)
def _are_rows(start, column, key, x, columns):
    """Whether the arrays describe rows: one pass, as this is asked before every answer."""
    entries = len(key)
    if len(column) != entries or len(x) != entries or not _rises(start, entries):
        return False
    for c in column:  # noqa: SIM110 (numba)
        if c < 0 or c >= columns:
            return False
    return True


@njit(cache=True, nogil=True)
def _rises(offsets, end):
    """Whether offsets rise from 0 to `end`."""
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != end:
        return False
    for i in range(1, len(offsets)):  # noqa: SIM110 (numba)
        if offsets[i] < offsets[i - 1]:
            return False
    return True


# Keeps the interpreter: it is a part of every answer, and getting the interpreter back takes longer.
@njit(cache=True, nogil=False)
def _all_within_unit(values):
    """Whether all lie in 0 to 1; NaN does not."""
    for v in values:  # noqa: SIM110 (numba)
        if not (v >= 0.0 and v <= 1.0):
            return False
    return True


def _refuse(rows: Rows, columns: int) -> None:
    """Say what is wrong with rows that `_are_rows` does not take."""
    entries = len(rows.key)
    if len(rows.column) != entries or len(rows.x) != entries:
        raise MemoryInputError(
            f"rows have {entries} keys, {len(rows.column)} columns and {len(rows.x)} values: must be equal"
        )
    _check_offsets("rows.start", rows.start, entries)
    raise MemoryInputError(
        f"rows name columns {rows.column.min()} to {rows.column.max()}, "
        f"this memory was made for 0 to {columns - 1}"
    )


def as_probabilities(p: npt.ArrayLike, n: int) -> Floats:
    """`p` as a fresh (n,) float64 array.

    Raises:
        MemoryInputError: another length, or a value outside 0 to 1.
    """
    return _unit("p", p, n)


def as_observed(
    keys: Keys,
    p: npt.ArrayLike,
    y: npt.ArrayLike,
    position: int | npt.ArrayLike,
    requests: npt.ArrayLike | None,
    times: float | npt.ArrayLike | None,
    columns: int,
) -> Observed:
    """The arguments of `observe` in one form.

    Raises:
        MemoryInputError: they do not fit together.
    """
    rows = as_rows(keys, columns)
    n = rows.n
    if requests is None:
        offsets = np.array([0, n], dtype=np.int64)
    else:
        offsets = np.array(requests, dtype=np.int64)
        _check_offsets("requests", offsets, n)
    R = len(offsets) - 1
    when = _each("times", 0.0 if times is None else times, R, np.float64)
    if not np.isfinite(when).all():
        raise MemoryInputError("times must be finite Unix seconds")
    return Observed(
        rows=rows,
        p=_unit("p", p, n),
        y=_unit("y", y, n),
        position=_each("position", position, R, np.int64),
        requests=offsets,
        times=when,
    )


def as_entries(
    columns: npt.ArrayLike, keys: npt.ArrayLike
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    """The arguments of `forget` in one form, each (n,).

    Raises:
        MemoryInputError: their lengths differ.
    """
    key = _plain(np.asarray(keys, dtype=np.uint64), np.uint64)
    return _each("columns", columns, len(key), np.int32), key


def _plain(array: npt.NDArray[np.generic], dtype: type[_Scalar]) -> npt.NDArray[_Scalar]:
    """The array itself, or a copy where layout or read-only memory would compile a second kernel."""
    if array.ndim == 1 and array.dtype == dtype and array.flags.carray:
        return array  # type: ignore[return-value]
    plain = np.ascontiguousarray(array, dtype=dtype).reshape(-1)
    return plain if plain.flags.writeable else plain.copy()


def _check_offsets(name: str, offsets: Ints, end: int) -> None:
    if not _rises(offsets, end):
        raise MemoryInputError(f"{name} must rise from 0 to {end}")


def _unit(name: str, values: npt.ArrayLike, n: int) -> Floats:
    array = np.array(values, dtype=np.float64)
    if array.shape != (n,):
        raise MemoryInputError(f"{name} has shape {array.shape}, the rows ask for ({n},)")
    if not _all_within_unit(array):
        raise MemoryInputError(f"{name} must lie in 0 to 1, not {array.min()} to {array.max()}")
    return array


def _each(name: str, values: npt.ArrayLike, n: int, dtype: type[_Scalar]) -> npt.NDArray[_Scalar]:
    """Values (n,), of which one may have been given for all."""
    array = np.array(values, dtype=dtype)
    if array.ndim == 0:
        return np.full(n, array, dtype=dtype)
    if array.shape != (n,):
        raise MemoryInputError(f"{name} has shape {array.shape}; expected ({n},), or one for all")
    return array

"""The interface of every error memory, and the conversion of its arguments to one form."""

from __future__ import annotations

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
"""The keys of n examples: sparse rows, or a plain (n, fields) table of 64-bit keys."""


class Explained(NamedTuple):
    """The parts of n corrected probabilities.

    With F the sum of a row's parts, in their order and without NaN, `p` = σ(`z` + `gate` · F); without a
    part it is the base probability. Kinds that do not correct by key have no parts.
    """

    p: Floats  # (n,), corrected
    z: Floats  # (n,), the base's logit, within ±16
    gate: float
    part: Floats  # (E,), the correction by each entry of the rows, a logit; NaN: no evidence
    evidence: Floats  # (E,), precision L of that evidence: Σ x² p (1 - p) of its examples


class ErrorMemory(Protocol):
    """Holds the errors of a base model that the model has not learned from yet, and corrects the model by
    them.

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
        """How many observed examples it holds; 0 when the base has learned everything."""
        ...

    def correct(self, keys: Keys, p: npt.ArrayLike) -> Floats:
        """Corrected probabilities (n,) for base probabilities `p` (n,). Changes nothing.

        A row without evidence keeps its probability, bit for bit.

        Raises:
            MemoryInputError: lengths differ, or a value is out of range.
        """
        ...

    def explain(self, keys: Keys, p: npt.ArrayLike) -> Explained:
        """The result of `correct` with its parts. Changes nothing.

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
        weight: npt.ArrayLike | None = None,
        before: npt.ArrayLike | None = None,
    ) -> Floats:
        """Learn from labels, request by request: a request is corrected whole before it is learned.

        Args:
            keys: n rows.
            p: (n,) base probabilities for the labels as observed: if negatives are subsampled, add the
                log-odds of the sampling.
            y: (n,) labels, 0 or 1.
            position: stream position of each request, (R,), or one for all.
            requests: (R + 1,) offsets of the requests within the rows; without it all rows are one.
            times: event time of each request, (R,) Unix seconds, or one for all; only decay needs it.
            weight: (n,), a factor on each row's log likelihood; 0: corrected and not learned. None: all 1.
            before: (n,), the label that the row was observed with before, whose loss is taken back; NaN: it
                was not. None: none was. Kinds that do not learn by gradient leave such rows out.

        Returns:
            (n,) corrected probabilities from before their request was learned. A request at or
            below the position given to `advance` is corrected and not learned.

        Raises:
            MemoryInputError: lengths differ, or a value is out of range; nothing was learned.
        """
        ...

    def forget(self, columns: npt.ArrayLike, keys: npt.ArrayLike) -> None:
        """Remove keys with all their evidence. A kind that cannot separate evidence by key drops all of it.

        Args:
            columns: (n,), or one for all.
            keys: (n,) uint64.
        """
        ...

    def candidates(self, column: int) -> npt.NDArray[np.uint64]:
        """A superset of the keys with evidence in a column; empty for a kind that stores no keys."""
        ...

    def advance(self, position: int) -> None:
        """The served base has learned every example at positions up to and including this one."""
        ...

    def set_priors(self, tau: npt.ArrayLike, keep: npt.ArrayLike | None = None) -> None:
        """Use the priors of the base. Kinds without priors ignore them.

        Args:
            tau: (columns,), the base's prior variances.
            keep: (columns,), the share of evidence that the base's weights keep at each sighting; None: all.
        """
        ...

    def save(self) -> bytes:
        """The whole state as bytes, for `load` of a memory with the same settings."""
        ...

    def load(self, saved: bytes) -> None:
        """Replace the state by a saved one, bit for bit.

        Raises:
            MemoryStateError: damaged, or saved under other settings; this memory is unchanged.
        """
        ...


def shown(memory: ErrorMemory) -> str:
    """The repr of a memory."""
    return (
        f"<{type(memory).__name__}: {memory.columns} columns, {memory.evidence:,} examples held, "
        f"gate {memory.gate:.2f}>"
    )


class Observed(NamedTuple):
    """The arguments of one `observe` in one form: n rows in R requests."""

    rows: Rows
    p: Floats  # (n,)
    y: Floats  # (n,)
    position: Ints  # (R,)
    requests: Ints  # (R + 1,)
    times: Floats  # (R,)
    weight: Floats  # (n,)
    before: Floats  # (n,)

    @property
    def plain(self) -> npt.NDArray[np.bool_]:
        """Rows to be learned as examples of their own, (n,)."""
        return (self.weight > 0.0) & np.isnan(self.before)


def explain_whole(memory: ErrorMemory, keys: Keys, p: npt.ArrayLike) -> Explained:
    """`ErrorMemory.explain` for kinds whose corrections have no parts."""
    rows = as_rows(keys, memory.columns)
    entries = len(rows.key)
    z = logits(as_probabilities(p, rows.n), _P_MIN)
    return Explained(memory.correct(rows, p), z, memory.gate, np.full(entries, np.nan), np.zeros(entries))


def as_rows(keys: Keys, columns: int) -> Rows:
    """The keys as rows whose arrays have the types and layout that the kernels are compiled for.

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


# nogil=False on purpose: every answer calls this, and getting the GIL back would take longer than the call.
@njit(cache=True, nogil=False)
def _are_rows(start, column, key, x, columns):
    """Whether the arrays describe rows, in one pass, since every answer calls it."""
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


# nogil=False on purpose: every answer calls this, and getting the GIL back would take longer than the call.
@njit(cache=True, nogil=False)
def _all_within_unit(values):
    """Whether all values lie in 0 to 1; NaN counts as outside."""
    for v in values:  # noqa: SIM110 (numba)
        if not (v >= 0.0 and v <= 1.0):
            return False
    return True


def _refuse(rows: Rows, columns: int) -> None:
    """Raise an error that says why `_are_rows` refuses rows."""
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
    weight: npt.ArrayLike | None = None,
    before: npt.ArrayLike | None = None,
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
    weights = _each("weight", 1.0 if weight is None else weight, n, np.float64)
    if not (np.isfinite(weights) & (weights >= 0.0)).all():
        raise MemoryInputError("weight must be finite and not negative")
    return Observed(
        rows=rows,
        p=_unit("p", p, n),
        y=_unit("y", y, n),
        position=_each("position", position, R, np.int64),
        requests=offsets,
        times=when,
        weight=weights,
        before=_each("before", np.nan if before is None else before, n, np.float64),
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
    """The array itself, or a copy if its layout or read-only memory would compile a second kernel."""
    if array.ndim == 1 and array.dtype == dtype and array.flags.carray:
        return array  # type: ignore[return-value]
    plain = np.ascontiguousarray(array, dtype=dtype).reshape(-1)
    return plain if plain.flags.writeable else plain.copy()


def _check_offsets(name: str, offsets: Ints, end: int) -> None:
    if not _rises(offsets, end):
        raise MemoryInputError(f"{name} must rise from 0 to {end}")


def one_each(name: str, values: npt.ArrayLike, n: int) -> Floats:
    """One value for each row as a fresh (n,) float64 array.

    Raises:
        MemoryInputError: another length.
    """
    array = np.array(values, dtype=np.float64)
    if array.shape != (n,):
        raise MemoryInputError(f"{name} has shape {array.shape}, the rows need ({n},)")
    return array


def _unit(name: str, values: npt.ArrayLike, n: int) -> Floats:
    array = one_each(name, values, n)
    if not _all_within_unit(array):
        raise MemoryInputError(f"{name} must lie in 0 to 1, not {array.min()} to {array.max()}")
    return array


def _each(name: str, values: npt.ArrayLike, n: int, dtype: type[_Scalar]) -> npt.NDArray[_Scalar]:
    """The values as (n,); one value may be given for all."""
    array = np.array(values, dtype=dtype)
    if array.ndim == 0:
        return np.full(n, array, dtype=dtype)
    if array.shape != (n,):
        raise MemoryInputError(f"{name} has shape {array.shape}; expected ({n},), or one for all")
    return array

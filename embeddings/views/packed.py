"""Packed rows for serving: float16, or int8 with a scale per row, instead of float32.

    row = | vector, packed | caller's columns, packed | last seen | count |

How each part is packed (`benchmarks/rows.py` measures the error):

- The vector: float16, or int8 with one float32 scale per row. Its entries are of similar size.
- The caller's columns (a learner's evidence: precision-weighted means and precisions, at several speeds):
  their sizes differ by decades within one row and grow without limit. They are float16 with one power of
  two per row as scale. This keeps 11 bits of each number within nine decades of the largest, and never
  overflows. With int8 they would be a few bytes smaller, and single logits would change by 0.1.
- Last seen and count are not packed: expiry is exact.

A packed table has the same interface (`find`, `vectors`, `extras`, `counts`): loading packs rows, reading
unpacks them. It cannot be trained.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from embeddings.errors import TableError
from embeddings.rest.table import RestingTable
from embeddings.spec import TableSpec
from embeddings.table.checks import as_floats, as_keys
from embeddings.table.table import Table
from embeddings.types import Floats, Keys, Slots

Words = npt.NDArray[np.uint32]

_HALF_MAX = 65504.0
_EXPONENT_MIN = -100  # the scale of a row of zeros
_HALF_EXPONENT = 15  # after scaling, the largest entry is below 2¹⁵


class Packing(Protocol):
    """Converts some float32 columns to 32-bit words and back."""

    words: int

    def pack(self, values: Floats) -> Words:
        """Pack values (n, columns) into words (n, words)."""

    def unpack(self, words: Words) -> Floats:
        """Unpack words to approximate values (n, columns)."""


class Float32Packing:
    """No packing."""

    def __init__(self, columns: int) -> None:
        self.words = columns

    def pack(self, values: Floats) -> Words:
        return values.view(np.uint32)

    def unpack(self, words: Words) -> Floats:
        return np.ascontiguousarray(words).view(np.float32)


class Float16Packing:
    """IEEE half precision; larger values are clipped to ±65504."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self.words = -(-columns // 2)

    def pack(self, values: Floats) -> Words:
        halves = np.zeros((len(values), 2 * self.words), dtype=np.float16)
        halves[:, : self._columns] = np.clip(values, -_HALF_MAX, _HALF_MAX)
        return halves.view(np.uint32)

    def unpack(self, words: Words) -> Floats:
        return np.ascontiguousarray(words).view(np.float16)[:, : self._columns].astype(np.float32)


class ScaledFloat16Packing:
    """Half precision with one power of two per row as scale, for numbers of any size."""

    def __init__(self, columns: int) -> None:
        self._halves = Float16Packing(columns)
        self.words = 1 + self._halves.words

    def pack(self, values: Floats) -> Words:
        largest = np.abs(values).max(axis=1, initial=0.0)
        exponent = np.maximum(np.frexp(largest)[1] - _HALF_EXPONENT, _EXPONENT_MIN)
        scale = np.ldexp(np.float32(1.0), exponent).astype(np.float32)
        halves = self._halves.pack(values / scale[:, None])
        return np.concatenate([scale.view(np.uint32)[:, None], halves], axis=1)

    def unpack(self, words: Words) -> Floats:
        scale = np.ascontiguousarray(words[:, :1]).view(np.float32)
        return self._halves.unpack(words[:, 1:]) * scale


class Int8Packing:
    """Eight bits per entry, from -127 to 127 times the scale of the row, which is its largest entry / 127."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self.words = 1 + -(-columns // 4)

    def pack(self, values: Floats) -> Words:
        scale = (np.abs(values).max(axis=1, initial=0.0) / 127.0).astype(np.float32)
        steps = np.zeros((len(values), 4 * (self.words - 1)), dtype=np.int8)
        safe = np.where(scale > 0.0, scale, np.float32(1.0))
        steps[:, : self._columns] = np.rint(np.clip(values / safe[:, None], -127.0, 127.0))
        return np.concatenate([scale.view(np.uint32)[:, None], steps.view(np.uint32)], axis=1)

    def unpack(self, words: Words) -> Floats:
        scale = np.ascontiguousarray(words[:, :1]).view(np.float32)
        steps = np.ascontiguousarray(words[:, 1:]).view(np.int8)[:, : self._columns]
        return steps.astype(np.float32) * scale


PACKINGS: dict[str, tuple[Callable[[int], Packing], Callable[[int], Packing]]] = {
    "float32": (Float32Packing, Float32Packing),
    "float16": (Float16Packing, ScaledFloat16Packing),
    "int8": (Int8Packing, ScaledFloat16Packing),
}
"""The packing of the vector and of the caller's columns, for each kind of rows."""


class RowPacking:
    """Packs and unpacks rows of a spec, without optimizer state.

    Args:
        spec: the spec of the unpacked rows; its optimizer state is ignored.
        rows: the kind of packed rows; see PACKINGS.
    """

    def __init__(self, spec: TableSpec, rows: str) -> None:
        vector, extra = PACKINGS[rows]
        self.spec = spec.serving()
        self.vector = _pack_or_not(vector, spec.dim)
        self.extra = _pack_or_not(extra, spec.extra)
        self.width = self.vector.words + self.extra.words + 2

    def pack(self, rows: Floats) -> Floats:
        """Pack rows (n, spec.width) into words (n, width), typed as float32 only for storage."""
        spec = self.spec
        first, last = spec.extra_column, spec.seen_column
        parts = [
            self.vector.pack(np.ascontiguousarray(rows[:, : spec.dim])),
            self.extra.pack(np.ascontiguousarray(rows[:, first : first + spec.extra])),
            np.ascontiguousarray(rows[:, last:]).view(np.uint32),
        ]
        return np.concatenate(parts, axis=1).view(np.float32)

    def unpack(self, held: Floats) -> Floats:
        """Unpack to approximate rows, (n, spec.width)."""
        words = held.view(np.uint32)
        at, end = self.vector.words, self.vector.words + self.extra.words
        vectors, extras = self.vector.unpack(words[:, :at]), self.extra.unpack(words[:, at:end])
        return np.concatenate([vectors, extras, held[:, end:]], axis=1)


class PackedTable(Table):
    """A table that serves from packed rows. Its interface uses unpacked rows of `spec.serving()`.

    Args:
        spec: the spec of the unpacked rows.
        rows: the kind of packed rows; see PACKINGS.
        memory_rows: see `PackedRestingTable`.
    """

    def __init__(self, spec: TableSpec, rows: str, memory_rows: int | None = None) -> None:
        self._packing = RowPacking(spec, rows)
        self.unpacked = self._packing.spec
        self._vector, self._extra = self._packing.vector, self._packing.extra
        held = self._vector.words + self._extra.words
        super().__init__(
            msgspec.structs.replace(self.unpacked, dim=0, extra=held),
            track_delta=False,
            memory_rows=memory_rows,
        )

    @property
    def width(self) -> int:
        """Number of columns of an unpacked row."""
        return self.unpacked.width

    def vectors(self, slots: Slots) -> Floats:
        """The vectors at slots, (n, dim); zeros for -1."""
        return self._vector.unpack(self._gather(slots, 0, self._vector.words).view(np.uint32))

    def extras(self, slots: Slots) -> Floats:
        """The caller's columns at slots, (n, extra); zeros for -1."""
        words = self._gather(slots, self._vector.words, self._extra.words)
        return self._extra.unpack(words.view(np.uint32))

    def load(self, keys: npt.ArrayLike, rows: Floats) -> None:
        """Pack and write rows (n, width); existing rows are overwritten.

        Raises:
            TableError: the table is full.
        """
        array = as_keys(self.spec.name, keys)
        values = as_floats(self.spec.name, rows, (len(array), self.width), "rows")
        self._load(array, self._packing.pack(values))

    def export(self, keys: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Unpacked rows (n, width) with metadata, and which keys have a row."""
        slots = self.find(keys)
        metadata = self._gather(slots, self.spec.seen_column, 2)
        return np.concatenate([self.vectors(slots), self.extras(slots), metadata], axis=1), slots >= 0

    def set_extras(self, slots: Slots, values: npt.ArrayLike) -> None:
        """Not supported by a packed table."""
        raise self._serves_only()

    def set_vectors(self, slots: Slots, values: npt.ArrayLike) -> None:
        """Not supported by a packed table."""
        raise self._serves_only()

    def page(self, first: int, count: int) -> tuple[Keys, Floats]:
        """Not in a packed table: save the table that is trained."""
        raise self._serves_only()

    def _serves_only(self) -> TableError:
        return TableError(
            f"table {self.spec.name!r} holds packed rows, which only serve; train and save the original table"
        )


def _pack_or_not(make: Callable[[int], Packing], columns: int) -> Packing:
    """The packing of some columns; none if it would not save memory."""
    packing = make(columns)
    return packing if columns and packing.words < columns else Float32Packing(columns)


class PackedRestingTable(PackedTable, RestingTable):
    """A table that serves from packed rows, of which `memory_rows` are in memory and the others at rest."""

    def __init__(self, spec: TableSpec, rows: str, memory_rows: int) -> None:
        super().__init__(spec, rows, memory_rows)


def serving_table(spec: TableSpec, rows: str = "float32", memory_rows: int | None = None) -> Table:
    """A table for serving, with float32, float16 or int8 rows, of which `memory_rows` are in memory."""
    if memory_rows is not None and rows == "float32":
        return RestingTable(spec.serving(), memory_rows, track_delta=False)
    if memory_rows is not None:
        return PackedRestingTable(spec, rows, memory_rows)
    if rows == "float32":
        return Table(spec.serving(), track_delta=False)
    return PackedTable(spec, rows)

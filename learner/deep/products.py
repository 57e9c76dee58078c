"""Products of small matrices, which are strided parts of flat arrays, transposed or not.

A product of 32 rows takes some microseconds, about as long as a call into a library. Here a tile of the
result stays in registers while it is summed. Each number is a chain of fused multiply-adds in the order of
the summed index. So it is the same on every processor, and does not depend on the other rows. Training and
prediction both use it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

from ground.kernels.simd import WIDE, in_all_lanes

LANES = WIDE
"""Numbers per vector; columns are padded to a multiple of it."""

TILE_ROWS = 8
"""Rows per tile. Rows that do not fill one cost nearly as much each as a whole tile: see `whole_tiles`."""

_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_INTEGER = ir.IntType(64)


def _tile(rows: int, vectors: int) -> Any:
    """An intrinsic that adds a product to `rows` rows of `vectors` times LANES columns, all in registers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        c, a, b = (context.make_array(kinds[i])(context, builder, arguments[i]).data for i in (0, 3, 7))
        which = context.make_array(kinds[10])(context, builder, arguments[10]).data
        c_at, c_row, a_at, a_row, a_step, b_at, b_row, count, add = (
            arguments[i] for i in (1, 2, 4, 5, 6, 8, 9, 11, 12)
        )

        def vector_at(base: Any, offset: Any) -> Any:
            return builder.bitcast(builder.gep(base, [offset]), _VECTOR.as_pointer())

        def load(base: Any, offset: Any) -> Any:
            return builder.load(vector_at(base, offset), align=4)

        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fma.v{LANES}f32"
        )
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in range(rows)]
        with cgutils.for_range(builder, count) as loop:
            row_of_b = builder.load(builder.gep(which, [loop.index]))
            line = builder.add(b_at, builder.mul(row_of_b, b_row))
            right = [load(b, builder.add(line, _INTEGER(LANES * v))) for v in range(vectors)]
            first = builder.add(a_at, builder.mul(loop.index, a_step))
            for r in range(rows):
                one = builder.load(builder.gep(a, [builder.add(first, builder.mul(a_row, _INTEGER(r)))]))
                left = in_all_lanes(builder, one, _VECTOR)
                for v in range(vectors):
                    builder.store(
                        builder.call(multiply_add, [left, right[v], builder.load(sums[r][v])]), sums[r][v]
                    )
        for r in range(rows):
            for v in range(vectors):
                offset = builder.add(builder.add(c_at, builder.mul(c_row, _INTEGER(r))), _INTEGER(LANES * v))
                place = vector_at(c, offset)
                before = builder.select(add, builder.load(place, align=4), zero)
                builder.store(builder.fadd(before, builder.load(sums[r][v])), place, align=4)
        return context.get_dummy_value()

    @intrinsic
    def tile(typing_context, c, c_at, c_row, a, a_at, a_row, a_step, b, b_at, b_row, which, count, add):
        whole = types.int64
        signature = types.void(
            c, whole, whole, a, whole, whole, whole, b, whole, whole, which, whole, types.boolean
        )
        return signature, generate

    return tile


_tile_8_2, _tile_8_1 = _tile(TILE_ROWS, 2), _tile(TILE_ROWS, 1)
_tile_1_2, _tile_1_1 = _tile(1, 2), _tile(1, 1)


@njit(cache=True, nogil=True, error_model="numpy")
def add_product(c, c_at, c_row, a, a_at, a_row, a_step, b, b_at, b_row, which, rows, columns, count, add):
    """C = A B, or C += A B: each number is summed over q = 0 ... count - 1, in order.

    All arrays but `which` are flat float32. Number (i, j) of C is c[c_at + i c_row + j], (i, q) of A is
    a[a_at + i a_row + q a_step], (q, j) of B is b[b_at + which[q] b_row + j].

    Args:
        which: (count or more,) int64, which rows of B are multiplied.
        rows, columns, count: of C, and the length of the sums. Rows of B must be readable up to the next
            multiple of LANES columns; rows of C are not written beyond `columns`.
        add: add to C; without it C is overwritten.
    """
    edge = np.empty(TILE_ROWS * LANES, dtype=np.float32)
    j = 0
    while j + 2 * LANES <= columns:
        i = 0
        while i + TILE_ROWS <= rows:
            _tile_8_2(
                c, c_at + i * c_row + j, c_row, a, a_at + i * a_row, a_row, a_step,
                b, b_at + j, b_row, which, count, add,
            )  # fmt: skip
            i += TILE_ROWS
        while i < rows:
            _tile_1_2(
                c, c_at + i * c_row + j, c_row, a, a_at + i * a_row, a_row, a_step,
                b, b_at + j, b_row, which, count, add,
            )  # fmt: skip
            i += 1
        j += 2 * LANES
    while j < columns:
        wide = min(LANES, columns - j)
        i = 0
        while i < rows:
            tall = TILE_ROWS if i + TILE_ROWS <= rows else 1
            if tall == TILE_ROWS:
                _tile_8_1(
                    edge,
                    0,
                    LANES,
                    a,
                    a_at + i * a_row,
                    a_row,
                    a_step,
                    b,
                    b_at + j,
                    b_row,
                    which,
                    count,
                    False,
                )
            else:
                _tile_1_1(
                    edge,
                    0,
                    LANES,
                    a,
                    a_at + i * a_row,
                    a_row,
                    a_step,
                    b,
                    b_at + j,
                    b_row,
                    which,
                    count,
                    False,
                )
            for r in range(tall):
                at = c_at + (i + r) * c_row + j
                for k in range(wide):
                    c[at + k] = (c[at + k] if add else np.float32(0.0)) + edge[r * LANES + k]
            i += tall
        j += LANES


@njit(cache=True, nogil=True, error_model="numpy")
def whole_tiles(rows):
    """The fastest number of rows that covers `rows`, for arrays with room for more.

    Rows that do not fill a tile are multiplied one by one, each a chain of dependent sums. From two on, a
    whole tile is faster.
    """
    beyond = rows % TILE_ROWS
    return rows - beyond + TILE_ROWS if beyond > 1 else rows


def padded(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A copy (K, columns) with its columns padded with zeros to a multiple of 2 LANES, the width of the
    fastest tile."""
    rows, columns = matrix.shape
    out = np.zeros((rows, -(-columns // (2 * LANES)) * 2 * LANES), dtype=np.float32)
    out[:, :columns] = matrix
    return out

"""Products of small matrices as learning needs them: of parts of flat arrays, by strides, turned or not.

A product of 32 rows takes some microseconds, as long as it takes to get from an interpreter into a library
and back; and libraries add up in an order that depends on the machine. Here the order is fixed: each number
is a chain of fused multiply-adds along the dimension summed over, cut where `_block` says.
(`learner.deep.tiles`
has the product of prediction, which leaves columns out.)
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

from ground.kernels.simd import WIDE, in_all_lanes

LANES = WIDE
"""Numbers that are worked on side by side; columns are padded to a multiple."""

_ROWS = 8
_BLOCK = 192
_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_INTEGER = ir.IntType(64)


@intrinsic
def _fma(typing_context, a, b, c):
    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


def _tile(rows: int, vectors: int) -> Any:
    """An intrinsic that adds a product to `rows` rows of `vectors` times LANES columns, all in registers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        c, a, b = (context.make_array(kinds[i])(context, builder, arguments[i]).data for i in (0, 3, 7))
        c_at, c_row, a_at, a_row, a_step, b_at, b_step, count, add = (
            arguments[i] for i in (1, 2, 4, 5, 6, 8, 9, 10, 11)
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
            line = builder.add(b_at, builder.mul(loop.index, b_step))
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
    def tile(typing_context, c, c_at, c_row, a, a_at, a_row, a_step, b, b_at, b_step, count, add):
        whole = types.int64
        signature = types.void(c, whole, whole, a, whole, whole, whole, b, whole, whole, whole, types.boolean)
        return signature, generate

    return tile


fma: Any = _fma
"""`fma(a, b, c)`: a·b + c of three float32, rounded once."""

_tile_8_2, _tile_8_1 = _tile(_ROWS, 2), _tile(_ROWS, 1)
_tile_1_2, _tile_1_1 = _tile(1, 2), _tile(1, 1)


@njit(cache=True, nogil=True)
def _block(count):
    """How many numbers are added up before the sum is added to the result."""
    return count if count <= _BLOCK else count // 2 if count < 2 * _BLOCK else _BLOCK


@njit(cache=True, nogil=True, error_model="numpy")
def add_product(c, c_at, c_row, a, a_at, a_row, a_step, b, b_at, b_step, rows, columns, count, add):
    """C = A B, or C += A B: each number summed over q in order, in blocks.

    All arrays are flat float32. Number (i, j) of C is c[c_at + i c_row + j], (i, q) of A is
    a[a_at + i a_row + q a_step], (q, j) of B is b[b_at + q b_step + j].

    Args:
        rows, columns, count: of C, and of what is summed over. Rows of B must be readable up to the next
            multiple of LANES columns; those of C are not written beyond `columns`.
        add: to what is in C; else that is overwritten.
    """
    edge = np.empty(_ROWS * LANES, dtype=np.float32)
    block = max(_block(count), 1)
    for first in range(0, count, block):
        more = add or first > 0
        some = min(block, count - first)
        a_first, b_first = a_at + first * a_step, b_at + first * b_step
        j = 0
        while j < columns:
            i = 0
            if columns - j >= 2 * LANES:
                while i + _ROWS <= rows:
                    _tile_8_2(
                        c, c_at + i * c_row + j, c_row, a, a_first + i * a_row, a_row, a_step,
                        b, b_first + j, b_step, some, more,
                    )  # fmt: skip
                    i += _ROWS
                while i < rows:
                    _tile_1_2(
                        c, c_at + i * c_row + j, c_row, a, a_first + i * a_row, a_row, a_step,
                        b, b_first + j, b_step, some, more,
                    )  # fmt: skip
                    i += 1
                j += 2 * LANES
                continue
            wide = min(LANES, columns - j)
            while i < rows:
                tall = _ROWS if i + _ROWS <= rows else 1
                if tall == _ROWS:
                    _tile_8_1(
                        edge, 0, LANES, a, a_first + i * a_row, a_row, a_step, b, b_first + j, b_step,
                        some, False,
                    )  # fmt: skip
                else:
                    _tile_1_1(
                        edge, 0, LANES, a, a_first + i * a_row, a_row, a_step, b, b_first + j, b_step,
                        some, False,
                    )  # fmt: skip
                for r in range(tall):
                    at = c_at + (i + r) * c_row + j
                    for k in range(wide):
                        c[at + k] = (c[at + k] if more else np.float32(0.0)) + edge[r * LANES + k]
                i += tall
            j += LANES

"""Products of small matrices as prediction needs them: a tile of the result at a time stays in registers.

A product of 50 rows is too small for a BLAS to show what it can: it packs both matrices first, and each of
its calls from a kernel's caller costs some microseconds more. Not that of `learner.deep.products`: columns
of the
inputs that all rows share are left out here without moving the weights, and the order of a sum is free, where
learning's is fixed for the sake of the same bits everywhere.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ground.kernels.simd import WIDE, in_all_lanes

TILE_ROWS: Final = 5
"""Rows of a tile: 5 by 32 sums, each row's times two vectors of 16, are 10 of AVX-512's 32 registers."""

TILE_COLUMNS: Final = 32

_LANES = WIDE
_VECTORS = TILE_COLUMNS // _LANES


@intrinsic
def _tile(typing_context, packed, at, which, count, w, column, first, out, row):
    signature = types.void(packed, types.intp, which, types.intp, w, types.intp, first, out, types.intp)

    def generate(context, builder, signature, arguments):
        def view(i):
            return context.make_array(signature.args[i])(context, builder, arguments[i])

        packed, which, w, first, out = view(0), view(2), view(4), view(6), view(7)
        _, at, _, count, _, column, _, _, row = arguments
        vector = ir.VectorType(ir.FloatType(), _LANES)
        size, zero = ir.IntType(64), ir.IntType(64)(0)
        w_stride = cgutils.unpack_tuple(builder, w.shape, 2)[1]
        out_stride = cgutils.unpack_tuple(builder, out.shape, 2)[1]
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{_LANES}f32"
        )

        def vectors_at(pointer):
            places = [builder.gep(pointer, [size(_LANES * v)]) for v in range(_VECTORS)]
            return [builder.bitcast(place, vector.as_pointer()) for place in places]

        places = []
        for r in range(TILE_ROWS):
            begins = builder.add(builder.mul(builder.add(row, size(r)), out_stride), column)
            places += vectors_at(builder.gep(out.data, [begins]))
        firsts = vectors_at(builder.gep(first.data, [column]))
        before = [builder.load(place, align=4) for place in firsts] * TILE_ROWS
        left, right = builder.gep(packed.data, [at]), builder.gep(w.data, [column])

        begin = builder.block
        loop, end = builder.append_basic_block("tile"), builder.append_basic_block("tile.end")
        builder.cbranch(builder.icmp_signed(">", count, zero), loop, end)
        builder.position_at_end(loop)
        k = builder.phi(size)
        sums = [builder.phi(vector) for _ in before]
        line = builder.mul(builder.load(builder.gep(which.data, [k])), w_stride)
        weights = [builder.load(place, align=4) for place in vectors_at(builder.gep(right, [line]))]
        after = []
        for r in range(TILE_ROWS):
            at_row = builder.add(builder.mul(k, size(TILE_ROWS)), size(r))
            spread = in_all_lanes(builder, builder.load(builder.gep(left, [at_row])), vector)
            for v in range(_VECTORS):
                after.append(builder.call(multiply_add, [spread, weights[v], sums[r * _VECTORS + v]]))
        following = builder.add(k, size(1))
        for phi, begins, again in zip([k, *sums], [zero, *before], [following, *after], strict=True):
            phi.add_incoming(begins, begin)
            phi.add_incoming(again, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, end)
        builder.position_at_end(end)
        results = [builder.phi(vector) for _ in before]
        for result, begins, again in zip(results, before, after, strict=True):
            result.add_incoming(begins, begin)
            result.add_incoming(again, loop)
        for result, place in zip(results, places, strict=True):
            builder.store(result, place, align=4)
        return context.get_dummy_value()

    return signature, generate


tile: Any = _tile
"""`tile(packed, at, which, count, w, column, first, out, row)`: TILE_ROWS by TILE_COLUMNS of a product.

    out[row + r, column + c] = first[column + c] + Σ_k packed[at + TILE_ROWS k + r] w[which[k], column + c]

with k < count. All are contiguous: packed and first (.,), w and out (., .) float32, which (.,) int64. Sums go
in the order of k, with fused multiply-add where the processor has it.
"""


@njit(cache=True, nogil=True)
def product(x, at, rows, which, count, w, first, packed, out):
    """out[r] = first + x[at + r, which] @ w[which], for each r below `rows`.

    Each row's result is the same whatever the other rows are.

    Args:
        x: (., K) float32.
        which: (count or more,) int64, the columns of x, and rows of w, that count.
        w: (K, columns) float32, `columns` a multiple of TILE_COLUMNS.
        first: (columns,) float32.
        packed: (K * rows rounded up to TILE_ROWS,) float32 or more, scratch.
        out: (rows rounded up to TILE_ROWS, columns) float32; what rows beyond `rows` get means nothing.
    """
    for row in range(0, rows, TILE_ROWS):
        for r in range(TILE_ROWS):
            of = at + min(row + r, rows - 1)
            for k in range(count):
                packed[row * count + k * TILE_ROWS + r] = x[of, which[k]]
    for column in range(0, w.shape[1], TILE_COLUMNS):
        for row in range(0, rows, TILE_ROWS):
            tile(packed, row * count, which, count, w, column, first, out, row)


def padded(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A copy (K, columns) with its columns filled up by zeros to a multiple of TILE_COLUMNS."""
    rows, columns = matrix.shape
    out = np.zeros((rows, -(-columns // TILE_COLUMNS) * TILE_COLUMNS), dtype=np.float32)
    out[:, :columns] = matrix
    return out

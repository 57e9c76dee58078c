"""Instructions that numba does not offer: a prefetch, a fence, eight comparisons at once, and more."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


def _ask(
    context: Any, builder: Any, array_type: Any, array: Any, positions: Sequence[tuple[Any, Any]]
) -> Any:
    """Emit a prefetch of one element; `positions` is pairs of a value and its type, one a dimension."""
    view = context.make_array(array_type)(context, builder, array)
    index = [context.cast(builder, value, kind, types.intp) for value, kind in positions]
    element = cgutils.get_item_pointer(context, builder, array_type, view, index, wraparound=False)
    byte_pointer = ir.IntType(8).as_pointer()
    integer = ir.IntType(32)
    function_type = ir.FunctionType(ir.VoidType(), [byte_pointer, integer, integer, integer])
    hint = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
    for_reading, keep_near, data = integer(0), integer(3), integer(1)
    builder.call(hint, [builder.bitcast(element, byte_pointer), for_reading, keep_near, data])
    return context.get_dummy_value()


@intrinsic
def _prefetch(typing_context, array, row, column):
    signature = types.void(array, row, column)

    def generate(context, builder, signature, arguments):
        positions = list(zip(arguments[1:], signature.args[1:], strict=True))
        return _ask(context, builder, signature.args[0], arguments[0], positions)

    return signature, generate


@intrinsic
def _prefetch_element(typing_context, array, position):
    signature = types.void(array, position)

    def generate(context, builder, signature, arguments):
        positions = [(arguments[1], signature.args[1])]
        return _ask(context, builder, signature.args[0], arguments[0], positions)

    return signature, generate


@intrinsic
def _fence(typing_context):
    def generate(context, builder, signature, arguments):
        builder.fence("acq_rel")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _borrow(typing_context, array):
    signature = array(array)

    def generate(context, builder, signature, arguments):
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        view.meminfo = ir.Constant(view.meminfo.type, None)
        view.parent = ir.Constant(view.parent.type, None)
        return view._getvalue()

    return signature, generate


@intrinsic
def _address(typing_context, number):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@intrinsic
def _lanes_with(typing_context, words, row, value):
    signature = types.int64(words, types.intp, types.uint64)

    def generate(context, builder, signature, arguments):
        words_type, (words, row, value) = signature.args[0], arguments
        view = context.make_array(words_type)(context, builder, words)
        index = [row, context.get_constant(types.intp, 0)]
        first = cgutils.get_item_pointer(context, builder, words_type, view, index, wraparound=False)
        vector = ir.VectorType(ir.IntType(64), 8)
        loaded = builder.load(builder.bitcast(first, vector.as_pointer()), align=8)
        alone = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
        same_lane = ir.Constant(ir.VectorType(ir.IntType(32), 8), [0] * 8)
        spread = builder.shuffle_vector(alone, ir.Constant(vector, ir.Undefined), same_lane)
        equal = builder.icmp_unsigned("==", builder.lshr(loaded, ir.Constant(vector, [32] * 8)), spread)
        return builder.zext(builder.bitcast(equal, ir.IntType(8)), ir.IntType(64))

    return signature, generate


@intrinsic
def _lowest_bit(typing_context, bits):
    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.IntType(1)(0))

    return types.int64(types.int64), generate


prefetch: Any = _prefetch
"""`prefetch(array, row, column)`: hint that this element is used soon. Never faults, changes nothing."""

prefetch_element: Any = _prefetch_element
"""`prefetch_element(array, position)`: the same for an array of one dimension."""

lanes_with: Any = _lanes_with
"""`lanes_with(words, row, value)`: bit k is set where words[row, k] >> 32 == value, of the first 8 columns.

`words` is two-dimensional, contiguous, uint64, of 8 or more columns. One comparison of a whole cache
line, without a branch: which lane it is, is chance, and a processor that guesses wrong loses more time
than the line took to come.
"""

lowest_bit: Any = _lowest_bit
"""`lowest_bit(bits)`: the number of the lowest bit set in an int64; 64 if there is none."""

fence: Any = _fence
"""`fence()`: no memory access is reordered across it, except that a later read may precede an earlier write.

On x86 it holds back the compiler and costs no instruction.
"""

borrow: Any = _borrow
"""`borrow(array)`: the same memory, without reference counts.

A kernel that hands a counted array to a small function pays two atomic operations each time, dozens
for one id. Only for arrays that the kernel's caller keeps alive, and never to be returned.
"""

address: Any = _address
"""`address(number)`: an int64 as a pointer, for `numba.carray`. The caller keeps what is there alive."""

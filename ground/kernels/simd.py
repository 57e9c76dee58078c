"""Sixteen float32 at once, as values that kernels load, compute with, and store.

A loop over an array's columns that also writes another array is compiled to one number at a time: the
compiler cannot know that the two do not overlap. These load all sixteen before anything is stored. What
they compute is what the same loop would, bit for bit, on every processor; where it has no registers that
wide, the compiler takes as many narrower ones.

    g = load(gradients, i, j, dim)
    put(rows, slot, j, dim, load(rows, slot, j, dim) - splat(rate) * g)
"""

import operator
from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model

WIDE: Final = 16
"""How many at once: the step of a loop over columns."""

_INDEX = ir.IntType(32)
_VECTOR = ir.VectorType(ir.FloatType(), WIDE)
_MASK = ir.VectorType(ir.IntType(1), WIDE)
_ALIGN = 4  # rows begin at any multiple of 4 bytes


class _WideType(types.Type):
    """How numba calls sixteen float32."""


_wide = _WideType("Wide")


@register_model(_WideType)
class _WideModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _place(context: Any, builder: Any, signature: Any, arguments: Any) -> tuple[Any, Any, Any]:
    """Where array[row, column] is, how many columns there are from there to `end`, and whether 16 or more."""
    array_type = signature.args[0]
    if array_type.dtype.bitwidth != 32:
        raise TypeError(f"only arrays of 32 bits an element can be taken 16 at once, not {array_type}")
    view = context.make_array(array_type)(context, builder, arguments[0])
    row, column, end = (
        context.cast(builder, value, kind, types.intp)
        for value, kind in zip(arguments[1:4], signature.args[1:4], strict=True)
    )
    element = cgutils.get_item_pointer(context, builder, array_type, view, [row, column], wraparound=False)
    left = builder.sub(end, column)
    whole = builder.icmp_signed(">=", left, context.get_constant(types.intp, WIDE))
    return builder.bitcast(element, _VECTOR.as_pointer()), left, whole


def in_all_lanes(builder: Any, value: Any, vector: ir.VectorType) -> Any:
    """For code that emits instructions: a vector of WIDE lanes that all hold `value`."""
    alone = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _INDEX(0))
    everywhere = ir.Constant(ir.VectorType(_INDEX, WIDE), [0] * WIDE)
    return builder.shuffle_vector(alone, ir.Constant(vector, ir.Undefined), everywhere)


def _first(builder: Any, count: Any) -> Any:
    """A mask of the first `count` lanes."""
    numbers = ir.VectorType(_INDEX, WIDE)
    spread = in_all_lanes(builder, builder.trunc(count, _INDEX), numbers)
    return builder.icmp_signed("<", ir.Constant(numbers, list(range(WIDE))), spread)


@intrinsic
def _load(typing_context, array, row, column, end):
    def generate(context, builder, signature, arguments):
        pointer, left, whole = _place(context, builder, signature, arguments)
        kind = ir.FunctionType(_VECTOR, [_VECTOR.as_pointer(), _INDEX, _MASK, _VECTOR])
        masked = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.load.v16f32.p0")
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                all_of_it = builder.load(pointer, align=_ALIGN)
                after_all = builder.block
            with otherwise:
                mask = _first(builder, left)
                zeros = ir.Constant(_VECTOR, [0.0] * WIDE)
                some_of_it = builder.call(masked, [pointer, _INDEX(_ALIGN), mask, zeros])
                after_some = builder.block
        loaded = builder.phi(_VECTOR)
        loaded.add_incoming(all_of_it, after_all)
        loaded.add_incoming(some_of_it, after_some)
        return loaded

    return _wide(array, row, column, end), generate


@intrinsic
def _put(typing_context, array, row, column, end, value):
    def generate(context, builder, signature, arguments):
        pointer, left, whole = _place(context, builder, signature, arguments)
        kind = ir.FunctionType(ir.VoidType(), [_VECTOR, _VECTOR.as_pointer(), _INDEX, _MASK])
        masked = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.store.v16f32.p0")
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                builder.store(arguments[4], pointer, align=_ALIGN)
            with otherwise:
                mask = _first(builder, left)
                builder.call(masked, [arguments[4], pointer, _INDEX(_ALIGN), mask])
        return context.get_dummy_value()

    return types.void(array, row, column, end, value), generate


@intrinsic
def _splat(typing_context, number):
    def generate(context, builder, signature, arguments):
        return in_all_lanes(builder, arguments[0], _VECTOR)

    return _wide(types.float32), generate


@intrinsic
def _root(typing_context, value):
    def generate(context, builder, signature, arguments):
        function_type = ir.FunctionType(_VECTOR, [_VECTOR])
        root = cgutils.get_or_insert_function(builder.module, function_type, "llvm.sqrt.v16f32")
        return builder.call(root, arguments)

    return _wide(value), generate


@intrinsic
def _sum(typing_context, value):
    def generate(context, builder, signature, arguments):
        total = arguments[0]
        width = WIDE
        while width > 1:
            width //= 2
            undefined = ir.Constant(total.type, ir.Undefined)
            low, high = (
                builder.shuffle_vector(
                    total, undefined, ir.Constant(ir.VectorType(_INDEX, width), list(range(at, at + width)))
                )
                for at in (0, width)
            )
            total = builder.fadd(low, high)
        return builder.extract_element(total, _INDEX(0))

    return types.float32(value), generate


def _define(symbol: Callable[..., Any], instruction: str) -> None:
    """Give the values one of the four operations."""

    @intrinsic
    def compute(typing_context, left, right):
        def generate(context, builder, signature, arguments):
            return getattr(builder, instruction)(*arguments)

        return _wide(left, right), generate

    @overload(symbol)
    def choose(left, right):
        if left is _wide and right is _wide:
            return lambda left, right: compute(left, right)  # type: ignore[call-arg]
        return None


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_symbol, _instruction)


load: Any = _load
"""`load(array, row, column, end)`: array[row, column:column + 16]; zeros from column `end` on."""

put: Any = _put
"""`put(array, row, column, end, value)`: into array[row, column:column + 16]; not from column `end` on.

Arrays are two-dimensional and contiguous by row, of any type of 32 bits: loading and storing changes no bit.
"""

splat: Any = _splat
"""`splat(number)`: sixteen times the same float32."""

root: Any = _root
"""`root(value)`: the square root of each."""

sum_of: Any = _sum
"""`sum_of(value)`: the sum of the sixteen, halves first: always in the same order."""


@njit(cache=True, nogil=True, forceinline=True)
def copy(source, row, first, target, i, start, width):
    """Copy `width` columns of source[row] from column `first` on into target[i] from column `start` on."""
    if width == WIDE:  # the usual width, without the bookkeeping of a loop
        put(target, i, start, start + WIDE, load(source, row, first, first + WIDE))
        return
    for j in range(0, width, WIDE):
        put(target, i, start + j, start + width, load(source, row, first + j, first + width))

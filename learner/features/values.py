"""The values of one feature in a batch: checks them and turns them into keys, column by column.

None means that the row has no value.
"""

import itertools
from collections.abc import Callable, Sequence
from math import frexp, sqrt
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ground import id_types
from ground.errors import FreshetError
from ground.id_types import IdType, is_plain_integer
from ground.keys import key_of, string_keys
from learner.errors import FeatureError
from learner.features.known.rings import SHARED
from stream.records.types import Value

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

WIDTHS = 3
"""The buckets of a number: wide ones learn quickly, narrow ones become more accurate."""
NUMBER_X = 1.0 / sqrt(WIDTHS)
"""x of each entry of a number: together they have the influence of one id."""


LIST_OF_IDS = "a list of integers or strings"
NOT_SHARED = np.zeros(0, dtype=np.bool_)
"""For `read_sequences`: each row has its own list."""
FEW = 24
"""Keys of a row that are compared each with each; more are sorted."""


class Values(NamedTuple):
    """One feature's k entries of n rows."""

    start: npt.NDArray[np.int64]  # (n + 1,), entries of row r are start[r]:start[r + 1]
    key: Keys  # (k,)
    x: npt.NDArray[np.float32]  # (k,)


def ids_of_type(name: str, kind: str, type_: IdType, values: Sequence[Any]) -> list[Any]:
    """A feature's ids as its declared type: for "int" decimal text becomes the integer that it writes, for
    "text" an integer becomes its decimal text. None stays None.

    >>> ids_of_type("item", "id", "int", ["3", 3]), ids_of_type("item", "id", "text", ["3", 3])
    ([3, 3], ['3', '3'])

    Raises:
        FeatureError: a value is of neither type, or for "int" a text that is no decimal integer of 64 bits.
    """
    try:
        return id_types.ids_of_type(name, kind, type_, values)
    except FreshetError as error:
        raise FeatureError(str(error)) from None


def id_lists_of_type(name: str, kind: str, type_: IdType, values: Sequence[Any]) -> list[Any]:
    """The same of lists of ids.

    Raises:
        FeatureError: as `ids_of_type`.
    """
    return [ids_of_type(name, kind, type_, v) if isinstance(v, list) else v for v in values]


def both_spellings(ids: Sequence[int | str]) -> list[int | str]:
    """Some ids, each integer with its decimal text, and each text that is one with the integer.

    >>> both_spellings([3, "007", "-4"])
    [3, '007', '-4', '3', -4]
    """
    others: list[int | str] = []
    for one in ids:
        if isinstance(one, int):
            others.append(str(one))
        elif is_plain_integer(one):
            others.append(int(one))
    return list(dict.fromkeys([*ids, *others]))


def read_ids(name: str, kind: str, values: Sequence[Any]) -> Values:
    """Integers or strings, n of them.

    Raises:
        FeatureError: a value has another type.
    """
    start, present = _present(values)
    key = _keys(name, kind, present, "an integer or a string")
    return Values(start, key, np.ones(len(key), dtype=np.float32))


def read_lists(name: str, kind: str, values: Sequence[Any]) -> Values:
    """Lists of integers or strings; of m distinct ones each has x = 1/√m.

    Raises:
        FeatureError: a value has another type.
    """
    if not set(map(type, values)) <= {list, NoneType}:
        for value in values:
            if value is not None and not isinstance(value, list):
                _refuse(name, kind, value, LIST_OF_IDS)
    lists = values if None not in values else [value or () for value in values]
    sizes = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    ids = list(itertools.chain.from_iterable(lists))
    key, sizes = distinct_of(_keys(name, kind, ids, LIST_OF_IDS), sizes)
    x = np.repeat(1.0 / np.sqrt(np.maximum(sizes, 1)), sizes).astype(np.float32)
    return Values(starts_of(sizes), key, x)


@njit(cache=True, nogil=True)
def distinct_of(keys, sizes):
    """The distinct keys of n rows, each in the order of first sight, and how many each row has, (n,).

    Args:
        keys: (k,) uint64, row by row.
        sizes: (n,) int64, how many of them each row has.
    """
    out = np.empty(len(keys), dtype=np.uint64)
    counts = np.zeros(len(sizes), dtype=np.int64)
    begin = 0
    m = 0
    for r in range(len(sizes)):
        mine = keys[begin : begin + sizes[r]]
        begin += sizes[r]
        to = m
        if len(mine) > FEW:
            order = np.argsort(mine, kind="mergesort")  # equal keys stay in the order of their places
            first = np.ones(len(mine), dtype=np.bool_)
            for i in range(1, len(mine)):
                first[order[i]] = mine[order[i]] != mine[order[i - 1]]
            for i in range(len(mine)):
                if first[i]:
                    out[m] = mine[i]
                    m += 1
        else:
            for i in range(len(mine)):
                new = True
                for j in range(to, m):
                    new = new and out[j] != mine[i]
                if new:
                    out[m] = mine[i]
                    m += 1
        counts[r] = m - to
    return out[:m], counts


def read_sequences(
    values: Sequence[Value | None],
    keys_of: Callable[[Value], Keys],
    target: npt.NDArray[np.uint64],
    known: npt.NDArray[np.bool_],
    begins: npt.NDArray[np.bool_],
) -> Values:
    """Lists in order, each behind its row's target. Rows that have one list object read it once.

    Args:
        keys_of: reads a list; raises a FeatureError if it is none.
        target: (n,), the key of the id that attends.
        known: (n,), whether the row has one.
        begins: (n,), whether the row begins a request: the others do not repeat the list of the row before,
            see `SHARED`. `NOT_SHARED`: each row has its own.
    """
    number_of: dict[int, int] = {}  # of a list, by its identity
    lists: list[Keys] = []
    which = np.full(len(values), -1, dtype=np.int64)
    for r, value in enumerate(values):
        if value is None:
            continue
        number = number_of.setdefault(id(value), len(lists))
        if number == len(lists):
            lists.append(keys_of(value))
        which[r] = number
    start = starts_of(np.fromiter(map(len, lists), dtype=np.int64, count=len(lists)))
    keys = np.concatenate(lists) if lists else np.zeros(0, dtype=np.uint64)
    return Values(*_behind_targets(start, keys, which, target, known, begins))


@njit(cache=True, nogil=True)
def _behind_targets(start, keys, which, target, known, begins):
    """The arrays of `Values` of n rows: each row's target, and behind it its list.

    Args:
        start, keys: of m lists, (m + 1,) int64 and (k,) uint64.
        which: (n,) int64, each row's list, -1 without one.
        target, known, begins: see `read_sequences`.
    """
    n = len(which)
    out_start = np.zeros(n + 1, dtype=np.int64)
    like = np.zeros(n, dtype=np.bool_)
    last = np.int64(-1)  # the list that the next row may share
    for r in range(n):
        if len(begins) > 0 and begins[r]:
            last = np.int64(-1)
        size = 0
        # Without a target or values there is nothing to attend to.
        if which[r] >= 0 and known[r] and start[which[r]] < start[which[r] + 1]:
            like[r] = len(begins) > 0 and which[r] == last
            size = 1 if like[r] else 1 + start[which[r] + 1] - start[which[r]]
            last = which[r]
        out_start[r + 1] = out_start[r] + size
    out_key = np.empty(out_start[n], dtype=np.uint64)
    out_x = np.ones(out_start[n], dtype=np.float32)
    for r in range(n):
        at = out_start[r]
        if at == out_start[r + 1]:
            continue
        out_key[at] = target[r]
        if like[r]:
            out_x[at] = SHARED
            continue
        for e in range(start[which[r]], start[which[r] + 1]):
            at += 1
            out_key[at] = keys[e]
    return out_start, out_key, out_x


def read_numbers(name: str, values: Sequence[Any]) -> tuple[Values, npt.NDArray[np.float32]]:
    """Numbers: their buckets, of every width, as entries, and their squashed sizes (n,), 0 without a value.

    Raises:
        FeatureError: a value is not a number.
    """
    start, present = _present(values)
    for kind in set(map(type, present)) - {int, float}:
        _refuse(name, "number", next(v for v in present if type(v) is kind), "a number")
    number = np.array(present, dtype=np.float64)
    squashed = np.zeros(len(values), dtype=np.float32)
    squashed[np.diff(start) > 0] = squash(number)
    key = number_buckets(number).ravel()
    return Values(start * WIDTHS, key, np.full(len(key), NUMBER_X, dtype=np.float32)), squashed


def squash(values: Floats) -> Floats:
    """Squashed sizes for the deep part: asinh / 10, so that a million is 1.5 and all inputs of the network
    have a similar size."""
    return 0.1 * np.arcsinh(values)


@njit(cache=True, nogil=True)
def bucket_of(value, width):
    """The bucket of a number, as a key: 4, 16 or 64 to an octave for widths 0, 1 and 2, which suits any
    unit. Whole numbers to 8 have their own at width 0, those to 128 at width 2."""
    mantissa, exponent = frexp(abs(value))  # mantissa in [0.5, 1)
    parts = 4 << (2 * width)
    bucket = (exponent + 2048) * parts + int((mantissa - 0.5) * 2 * parts) + 1
    own = width << 32  # keys of different widths differ, those of zero too
    return np.uint64(np.int64(own if value == 0 else own + bucket if value > 0 else -(own + bucket)))


# nogil=False on purpose: see `learner.fast.reading`.
@njit(cache=True, nogil=False)
def number_buckets(values):
    """The buckets of numbers (n,) float64, as keys (n, WIDTHS) uint64."""
    keys = np.empty((len(values), WIDTHS), dtype=np.uint64)
    for i in range(len(values)):
        for width in range(WIDTHS):
            keys[i, width] = bucket_of(values[i], width)
    return keys


def one_a_row(there: Sequence[bool], key: Keys) -> Values:
    """Entries of the rows that have one, with x = 1.

    Args:
        there: (n,), which rows have one.
        key: (k,), theirs.
    """
    return Values(starts_of(np.array(there, dtype=np.int64)), key, np.ones(len(key), dtype=np.float32))


def _present(values: Sequence[Any]) -> tuple[npt.NDArray[np.int64], Sequence[Any]]:
    """The offsets of the rows' values, (n + 1,), and the values that are not None."""
    if None not in values:
        return np.arange(len(values) + 1), values
    there = np.array([value is not None for value in values], dtype=np.int64)
    return starts_of(there), [value for value in values if value is not None]


def starts_of(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    starts = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


def list_keys(name: str, kind: str, value: Any) -> Keys:
    """The keys of a list of ids.

    Raises:
        FeatureError: it is no list of integers or strings.
    """
    if not isinstance(value, list):
        _refuse(name, kind, value, LIST_OF_IDS)
    return _keys(name, kind, value, LIST_OF_IDS)


def _keys(name: str, kind: str, values: Sequence[Any], expected: str) -> Keys:
    kinds = set(map(type, values))  # exact types: a bool is not an id
    if not kinds <= {int, str}:
        _refuse(name, kind, next(v for v in values if type(v) not in (int, str)), expected)
    if kinds == {str}:
        return string_keys(values)
    try:
        if kinds == {int}:
            return np.array(values, dtype=np.int64).view(np.uint64)
    except OverflowError:
        pass  # beyond 63 bits, or not an id
    try:
        return np.array([key_of(value) for value in values], dtype=np.uint64)
    except OverflowError as error:
        raise FeatureError(f"feature {name} (kind {kind}): {error}") from None


def _refuse(name: str, kind: str, value: Any, expected: str) -> None:
    raise FeatureError(
        f"feature {name} (kind {kind}) has the value {str(value)[:80]!r} of type "
        f"{type(value).__name__}; expected {expected}"
    )

"""Histories and rates that came with a request: those of the caller, or those with which a server scored it.

They go before what the model knows. Encoded, they are entries of the feature's last column, which `Filler`
takes out of the rows again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learner.errors import FeatureError
from learner.features.known.rings import GIVEN, NO_TIME, code_of
from learner.features.values import Floats, Keys, Values, starts_of
from stream.records.fields import AT as AT
from stream.records.fields import KEYS as KEYS
from stream.records.fields import MEAN as MEAN
from stream.records.types import Features

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1


class GivenHistory(NamedTuple):
    """A history in a request."""

    ids: object  # by name; None: there are keys
    keys: object  # None: there are ids
    at: object  # None: nobody said when


class GivenRate(NamedTuple):
    """A rate in a request."""

    value: object
    mean: object  # of all; None: nobody said


def as_signed(key: int) -> int:
    """A key as the integer of 64 bits whose key it is."""
    return key - (1 << 64) if key >> 63 else key


def value_names(name: str, kind: str) -> tuple[str, ...]:
    """The names of the values of a request that a history or a rate reads."""
    return (name, name + KEYS, name + AT) if kind == "history" else (name, name + MEAN)


def given_in(name: str, kind: str, values: Features) -> GivenHistory | GivenRate | None:
    """A history or rate among the features of a request or candidate; None: there is none."""
    if kind == "rate":
        value = values.get(name)
        return None if value is None else GivenRate(value, values.get(name + MEAN))
    ids, keys, at = values.get(name), values.get(name + KEYS), values.get(name + AT)
    return None if ids is None and keys is None else GivenHistory(ids if keys is None else None, keys, at)


def read_histories(
    name: str,
    values: Sequence[GivenHistory | None],
    ids: Sequence[Keys | None],
    times: Floats,
    length: int,
) -> Values:
    """The newest ids of each of n rows as entries, whose x is the code of their age.

    Before them comes an entry with the x GIVEN, since an empty history is one too.

    Args:
        ids: (n,), the keys of the ids that are given by name.
        times: (n,), of the rows' requests.

    Raises:
        FeatureError: a value is no list of what it should be.
    """
    parts: list[Keys] = []
    codes: list[float] = []
    begin = np.zeros(1, dtype=np.uint64)
    sizes = np.zeros(len(values), dtype=np.int64)
    for r, value in enumerate(values):
        if value is None:
            continue
        codes.append(GIVEN)
        mine = ids[r]
        keys = _whole_numbers(name + KEYS, value.keys).view(np.uint64) if mine is None else mine
        if value.at is None:
            codes += [NO_TIME] * len(keys[-length:])
        else:
            at = _whole_numbers(name + AT, value.at)
            if len(at) != len(keys):
                raise FeatureError(
                    f"feature {name} (kind history): {name}{AT} has {len(at)} times for {len(keys)} ids; "
                    "expected one for each"
                )
            codes += [code_of(max(int(times[r]) - one, 0)) for one in at[-length:].tolist()]
        parts += [begin, keys[-length:]]
        sizes[r] = 1 + len(parts[-1])
    key = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)
    return Values(starts_of(sizes), key, np.array(codes, dtype=np.float32))


def read_rates(name: str, values: Sequence[GivenRate | None]) -> Values:
    """The numbers of n rows as entries: by key 0 the value, by key 1 the mean of all, if it is given too.

    Raises:
        FeatureError: a value is not a number.
    """
    sizes = np.zeros(len(values), dtype=np.int64)
    key: list[int] = []
    x: list[float] = []
    for r, value in enumerate(values):
        if value is None:
            continue
        for which, (part, number) in enumerate((("", value.value), (MEAN, value.mean))):
            if number is None and which == 1:
                continue
            if isinstance(number, bool) or not (
                isinstance(number, int | float) and abs(number) <= _FLOAT32_MAX
            ):
                raise FeatureError(
                    f"feature {name}{part} (kind rate) has the value {str(number)[:80]!r} of type "
                    f"{type(number).__name__}; expected a number of 32 bits"
                )
            key.append(which)
            x.append(number)
            sizes[r] += 1
    return Values(starts_of(sizes), np.array(key, dtype=np.uint64), np.array(x, dtype=np.float32))


def _whole_numbers(name: str, value: object) -> npt.NDArray[np.int64]:
    if not isinstance(value, list) or not all(
        type(one) is int and _INT_MIN <= one <= _INT_MAX for one in value
    ):
        raise FeatureError(f"{name} is {str(value)[:80]!r}; expected a list of integers of 64 bits")
    return np.array(value, dtype=np.int64)

"""Features: from what a request says to the sparse rows that the model learns.

A schema names each feature and its kind. Column j of the rows is the j-th declared feature; behind
the features come the columns of their pairs, whose keys join the keys of both sides.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from ground.keys import hash_string, key_of
from ground.rows import Rows
from learner.encoding import add_pairs
from learner.errors import FeatureError
from stream.records import Features, Value


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One feature: `id` (one value), `ids` (a list, pooled), `number`, `hour` (of the day), `sequence`.

    `hour` is taken from the request's event time (UTC) when the request does not say it. A `sequence`
    is a list of ids in order, newest last, of the kind that the feature `of` has: what this person
    clicked before, say. The deep part attends to it by what `of` is now; the fast part leaves it alone.
    `ttl_s` is event time: a row unseen for longer is gone. `admit_after` sightings make a row.
    """

    kind: Literal["id", "ids", "number", "hour", "sequence"] = "id"
    dim: int = 16
    of: str = ""  # of a sequence: the feature that attends
    length: int = 50  # of a sequence: how many of its newest values are used
    attention: Literal["decoupled", "shared"] = "decoupled"  # of a sequence: one vector an id, or two
    counts: bool | None = None  # "seen how often before" as an input of its own; None: for ids only
    pairs: bool = True
    ttl_s: float = 0.0
    admit_after: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= 512:
            raise ValueError("dim must be 1 to 512")
        if self.ttl_s < 0 or not 1 <= self.admit_after <= 255:
            raise ValueError("ttl_s must not be negative and admit_after must be 1 to 255")
        if self.counts and self.kind != "id":
            raise ValueError("counts belong to features of kind id")
        if (self.kind == "sequence") != bool(self.of):
            raise ValueError("a sequence, and nothing else, needs `of`: the feature whose ids it holds")
        if not 1 <= self.length <= 1000:
            raise ValueError("length must be 1 to 1000")

    @property
    def counted(self) -> bool:
        """Whether the feature has a count column."""
        return self.kind == "id" if self.counts is None else self.counts

    @property
    def row_dim(self) -> int:
        """Width of a table row's vector: a decoupled sequence has one to attend by and one to represent."""
        return 2 * self.dim if self.kind == "sequence" and self.attention == "decoupled" else self.dim


class Requestlike(Protocol):
    """What can be encoded: an `Impression`, an `Example`, or a `Request`."""

    @property
    def time(self) -> float: ...
    @property
    def context(self) -> Features: ...
    @property
    def candidates(self) -> list[Features]: ...


class Request(NamedTuple):
    """One request to be scored: event time in Unix seconds, shared features, and each candidate's own."""

    time: float
    context: Features
    candidates: list[Features]


class Batch(NamedTuple):
    """R requests with n candidate rows in all, ready for the model."""

    requests: npt.NDArray[np.int64]  # (R + 1,), rows of request r are requests[r]:requests[r + 1]
    times: npt.NDArray[np.float64]  # (R,), Unix seconds
    rows: Rows  # n rows: features first, then pairs
    numbers: npt.NDArray[np.float32]  # (n, d), squashed values of the features of kind number


class Encoder:
    """Turns requests into batches, by a declared schema.

    >>> encoder = Encoder({"user": FeatureSpec(), "item": FeatureSpec()})
    >>> encoder.encode([Request(0.0, {"user": "ann"}, [{"item": 1}, {"item": 2}])]).rows.n
    2
    """

    def __init__(self, features: Mapping[str, FeatureSpec], pairs_max: int = 64) -> None:
        if not features:
            raise FeatureError("the schema declares no features; add at least one [features.NAME]")
        self.names = list(features)
        self.specs = list(features.values())
        self.numbers = [i for i, spec in enumerate(self.specs) if spec.kind == "number"]
        pairable = [i for i, s in enumerate(self.specs) if s.pairs and s.kind not in ("number", "sequence")]
        chosen = sorted(itertools.combinations(pairable, 2), key=lambda pair: (pair[1], pair[0]))
        self.pairs = chosen[:pairs_max]
        n = len(self.names)
        self._pair_column = np.full((n, n), -1, dtype=np.int32)
        self._pair_salt = np.zeros(max(len(self.pairs), 1), dtype=np.uint64)
        for p, (i, j) in enumerate(self.pairs):
            self._pair_column[i, j] = n + p
            self._pair_salt[p] = hash_string(f"{self.names[i]}\0{self.names[j]}")
        self._hours = [i for i, spec in enumerate(self.specs) if spec.kind == "hour"]
        self._column = {name: i for i, name in enumerate(self.names)}
        self._number_at = {column: d for d, column in enumerate(self.numbers)}
        self.sequences = {i: self._target_of(i) for i, s in enumerate(self.specs) if s.kind == "sequence"}

    @property
    def columns(self) -> int:
        """How many columns the rows have: features and pairs."""
        return len(self.names) + len(self.pairs)

    def column_names(self) -> list[str]:
        """The columns' names; a pair is `left*right`."""
        return self.names + [f"{self.names[i]}*{self.names[j]}" for i, j in self.pairs]

    def encode(self, requests: Sequence[Requestlike]) -> Batch:
        """Encode requests whole.

        Features that the schema does not know are left alone; missing ones are absent from the row.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
        """
        columns: list[int] = []
        keys: list[int] = []
        xs: list[float] = []
        starts: list[int] = [0]
        offsets: list[int] = [0]
        numbers = np.zeros((sum(len(r.candidates) for r in requests), len(self.numbers)), np.float32)
        row = 0
        for request in requests:
            shared = self._entries(request.context)
            if self._hours:
                self._derive_hours(request, shared)
            for candidate in request.candidates:
                own = self._entries(candidate)
                for column, entries in shared.items():
                    if column not in own:
                        own[column] = entries
                for column, target in self.sequences.items():
                    _put_target_first(own, column, target)
                # In the schema's order, so that sums do not depend on how a producer orders its fields.
                for column in sorted(own):
                    entry_keys, x, number = own[column]
                    for key in entry_keys:
                        columns.append(column)
                        keys.append(key)
                        xs.append(x)
                    if number is not None:
                        numbers[row, self._number_at[column]] = number
                starts.append(len(keys))
                row += 1
            offsets.append(row)
        fields = Rows(
            start=np.array(starts, dtype=np.int64),
            column=np.array(columns, dtype=np.int32),
            key=np.array(keys, dtype=np.uint64),
            x=np.array(xs, dtype=np.float32),
        )
        if self.pairs:
            fields = Rows(*add_pairs(*fields, self._pair_column, self._pair_salt))
        times = np.array([r.time for r in requests], dtype=np.float64)
        return Batch(np.array(offsets, dtype=np.int64), times, fields, numbers)

    def group_key(self, request: Requestlike, feature: str) -> int:
        """The key of a request's user for per-user metrics; 0 if the request does not say."""
        value = request.context.get(feature)
        if value is None and request.candidates:
            value = request.candidates[0].get(feature)
        return key_of(value) if isinstance(value, int | str) else 0

    def _entries(self, features: Features) -> dict[int, tuple[list[int], float, float | None]]:
        found: dict[int, tuple[list[int], float, float | None]] = {}
        for name, value in features.items():
            column = self._column.get(name)
            if column is None:
                continue
            kind = self.specs[column].kind
            if kind in ("id", "hour"):
                if not isinstance(value, int | str) or isinstance(value, bool):
                    raise _wrong(name, kind, value, "an integer or a string")
                found[column] = ([key_of(value)], 1.0, None)
            elif kind in ("ids", "sequence"):
                if not isinstance(value, list):
                    raise _wrong(name, kind, value, "a list of integers or strings")
                if kind == "sequence":
                    found[column] = ([key_of(v) for v in value[-self.specs[column].length :]], 1.0, None)
                elif value:
                    distinct = list(dict.fromkeys([key_of(v) for v in value]))
                    found[column] = (distinct, 1.0 / math.sqrt(len(distinct)), None)
            else:
                if not isinstance(value, int | float) or isinstance(value, bool):
                    raise _wrong(name, kind, value, "a number")
                found[column] = ([number_bucket(value)], 1.0, math.asinh(value))
        return found

    def _target_of(self, column: int) -> int:
        of = self.specs[column].of
        target = self._column.get(of)
        if target is None or self.specs[target].kind != "id":
            raise FeatureError(
                f"feature {self.names[column]}: `of` is {of!r}, which is no declared feature of kind id"
            )
        return target

    def _derive_hours(
        self, request: Requestlike, shared: dict[int, tuple[list[int], float, float | None]]
    ) -> None:
        hour = int(request.time // 3600) % 24
        for column in self._hours:
            shared.setdefault(column, ([hour], 1.0, None))


def _put_target_first(
    own: dict[int, tuple[list[int], float, float | None]], column: int, target: int
) -> None:
    """Put the id that attends in front of a sequence; without either there is nothing to attend to."""
    sequence, now = own.pop(column, None), own.get(target)
    if sequence is not None and now is not None and sequence[0]:
        own[column] = (now[0] + sequence[0], 1.0, None)


def number_bucket(value: float) -> int:
    """The bucket of a number, as a key: four to an octave, so that it fits any unit; whole numbers
    to 8 each have their own."""
    if value == 0:
        return 0
    mantissa, exponent = math.frexp(abs(value))  # mantissa in [0.5, 1)
    bucket = (exponent + 2048) * 4 + int((mantissa - 0.5) * 8) + 1
    return key_of(bucket if value > 0 else -bucket)


def _wrong(name: str, kind: str, value: Value, expected: str) -> FeatureError:
    return FeatureError(
        f"feature {name} (kind {kind}) has the value {str(value)[:80]!r} of type "
        f"{type(value).__name__}; expected {expected}"
    )

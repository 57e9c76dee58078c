"""Features: turns requests into the sparse rows that the model reads.

A schema names each feature and its kind. Column j of the rows is the j-th declared feature. The
columns of pairs follow; a pair's key is a hash of the keys of both features.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from embeddings.spec import EVICT_ROWS_MIN, ROWS_LIMIT, Evict, Optimizer
from ground.id_types import IdType
from ground.keys import hash_string
from ground.rows import Rows
from ground.short_repr import ShortRepr
from learner.errors import FeatureError
from learner.features.encoding import add_pairs, by_row, first_keys, join_all
from learner.features.quick import QuickEncoder
from learner.features.spellings import Spellings
from learner.features.values import (
    id_lists_of_type,
    ids_of_type,
    read_ids,
    read_lists,
    read_numbers,
    read_sequences,
)
from stream.records.types import Features

ENTRIES_MAX = 1 << 23
"""Limit of entries (features and pairs, 16 bytes each) of a request. 2,000 candidates with 90 values each
fit."""


class FeatureSpec(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One feature: `id` (one value), `ids` (a list, pooled), `number`, `hour` (of the day), `sequence`.

    `hour` comes from the request's event time (UTC) if the request has no value for it. A `sequence` is a
    list of ids of the feature `of`, newest last, for example the items that this person clicked before. The
    deep part attends to it with the candidate's value of `of`; the fast part ignores it.
    `ttl_s` is event time: a row unseen for longer expires. An id gets a row after `admit_after` sightings,
    or at each one with probability `admit_share`. At `rows_max` rows the table evicts as `evict` says: by
    default the least recently used rows, but nothing in a state that an older Freshet began.
    `type` says what ids are, since the integer 3 and the text "3" are two: "int" takes decimal text as that
    integer and refuses other text, "text" takes integers as decimal text. A sequence has the type of `of`.
    """

    kind: Literal["id", "ids", "number", "hour", "sequence"] = "id"
    dim: int = 16
    of: str = ""  # of a sequence: the feature that attends
    length: int = 50  # of a sequence: how many of its newest values are used
    attention: Literal["decoupled", "shared"] = "decoupled"  # of a sequence: two vectors an id, or one
    counts: bool | None = None  # "seen how often before" as an input of its own; None: for ids only
    pairs: bool = True
    ttl_s: float = 0.0
    admit_after: int = 1
    admit_share: float = 1.0
    rows_max: int = 1 << 24
    evict: Evict | None = None
    optimizer: Optimizer = "adagrad"  # of the embedding
    rate: float = 0.0  # of the optimizer; 0: the learner's embedding_rate, for adam a tenth of it
    # Last, and left out of the saved schema where it is not set, so that older states are still known.
    type: IdType | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= 512:
            raise ValueError("dim must be 1 to 512")
        if self.ttl_s < 0 or not 1 <= self.admit_after <= 255:
            raise ValueError("ttl_s must not be negative and admit_after must be 1 to 255")
        if not 0.0 < self.admit_share <= 1.0 or (self.admit_share < 1.0 and self.admit_after > 1):
            raise ValueError("admit_share must be above 0 and at most 1, and goes without admit_after")
        if (
            not (EVICT_ROWS_MIN if self.evict not in (None, "none") else 1)
            <= self.rows_max
            <= ROWS_LIMIT // 2
        ):
            raise ValueError(f"rows_max must be 1 to {ROWS_LIMIT // 2}, with evict at least {EVICT_ROWS_MIN}")
        if not 0.0 <= self.rate <= 1e3:
            raise ValueError("rate must be 0 to 1000")
        if self.counts and self.kind != "id":
            raise ValueError("counts belong to features of kind id")
        if (self.kind == "sequence") != bool(self.of):
            raise ValueError("a sequence, and nothing else, needs `of`: the feature whose ids it holds")
        if self.id_type is not None and self.kind not in ("id", "ids", "hour"):
            raise ValueError("type belongs to features of kind id, ids and hour; a sequence has that of `of`")
        if not 1 <= self.length <= 1000:
            raise ValueError("length must be 1 to 1000")

    def eviction(self, makes_room: bool) -> Evict:
        """The eviction of the feature's table; see `eviction_of`."""
        return eviction_of(self.evict, self.rows_max, makes_room)

    @property
    def id_type(self) -> IdType | None:
        """What its ids are declared to be; None: nothing is declared."""
        return None if self.type is msgspec.UNSET else self.type

    @property
    def counted(self) -> bool:
        """Whether the feature has a count column."""
        return self.kind == "id" if self.counts is None else self.counts

    @property
    def row_dim(self) -> int:
        """Width of a table row's vector: a decoupled sequence has two vectors, a key and a value."""
        return 2 * self.dim if self.kind == "sequence" and self.attention == "decoupled" else self.dim


def eviction_of(evict: Evict | None, rows_max: int, makes_room: bool) -> Evict:
    """The eviction of a table: as configured, or least recently used if `makes_room` and the table is not
    tiny."""
    if evict is not None:
        return evict
    return "least_recent" if makes_room and rows_max >= EVICT_ROWS_MIN else "none"


class Requestlike(Protocol):
    """What can be encoded: an `Impression`, an `Example`, or a `Request`."""

    @property
    def time(self) -> float: ...
    @property
    def context(self) -> Features: ...
    @property
    def candidates(self) -> list[Features]: ...


class Request(NamedTuple):
    """A request to score: event time in Unix seconds, shared features, and the features of each candidate."""

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

    Args:
        features: the schema, in the order of the rows' columns.
        pairs_max: limit of columns of pairs; pairs of the features declared last are left out.

    Raises:
        FeatureError: it declares nothing, or a sequence is of a feature that it does not declare.
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
        self._column = {name: i for i, name in enumerate(self.names)}
        self._number_at = {column: d for d, column in enumerate(self.numbers)}
        self.sequences = {i: self._target_of(i) for i, s in enumerate(self.specs) if s.kind == "sequence"}
        kinds = [spec.kind for spec in self.specs]
        self._types = [self.specs[self.sequences.get(c, c)].id_type for c in range(n)]
        self._spellings = Spellings(self.names, self._types)
        self._quick = QuickEncoder(
            self.names, kinds, self._types, self._spellings, self._pair_column, self._pair_salt
        )
        self._order = [i for i in range(n) if i not in self.sequences] + list(self.sequences)

    @property
    def columns(self) -> int:
        """How many columns the rows have: features and pairs."""
        return len(self.names) + len(self.pairs)

    def column_of(self, feature: str) -> int:
        """A feature's column, -1 if it is not declared."""
        return self._column.get(feature, -1)

    def column_names(self) -> list[str]:
        """The columns' names; a pair is `left*right`."""
        return self.names + [f"{self.names[i]}*{self.names[j]}" for i, j in self.pairs]

    def pair_columns(self, feature: int) -> list[int]:
        """The columns of the pairs that feature number `feature` is in."""
        return [len(self.names) + p for p, pair in enumerate(self.pairs) if feature in pair]

    def pair_keys(
        self, pair: int, left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.uint64]:
        """The keys (l * r,) of pair number `pair`'s column for ids left (l,) and right (r,)."""
        return join_all(self._pair_salt[pair], left, right)

    def encode(self, requests: Sequence[Requestlike]) -> Batch:
        """Encode requests whole.

        Features that are not in the schema are ignored; missing features have no entry in the row.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
        """
        if len(requests) == 1:
            request = requests[0]
            quick = self._quick.encode(request.time, request.context, request.candidates)
            if quick is not None:
                offsets = np.array([0, len(request.candidates)], dtype=np.int64)
                return Batch(offsets, np.array([request.time], dtype=np.float64), *quick)
        sizes = np.array([len(request.candidates) for request in requests], dtype=np.int64)
        request_of = np.repeat(np.arange(len(requests)), sizes)  # (n,)
        candidates = [candidate for request in requests for candidate in request.candidates]
        n = len(candidates)
        numbers = np.zeros((n, len(self.numbers)), np.float32)
        first = np.zeros((len(self.names), n), dtype=np.int64)
        last = np.zeros((len(self.names), n), dtype=np.int64)
        key: list[npt.NDArray[np.uint64]] = []
        x: list[npt.NDArray[np.float32]] = []
        base = 0
        for column in self._order:
            name, spec = self.names[column], self.specs[column]
            own = [candidate.get(name) for candidate in candidates]
            source: list[Any] = own
            row_of = None  # rows in `source`; None: the same rows as the batch
            if None in own:
                shared = self._shared(requests, name, spec.kind)
                if own.count(None) == n and spec.kind != "sequence":
                    source, row_of = shared, request_of
                else:
                    source = [shared[q] if v is None else v for q, v in zip(request_of, own, strict=True)]
            if spec.kind != "number":
                source = self.as_declared(column, source)
            if spec.kind == "sequence":
                target = self.sequences[column]
                known = first[target] < last[target]
                of = np.concatenate([*key, np.zeros(1, dtype=np.uint64)])[np.where(known, first[target], -1)]
                values = read_sequences(name, source, spec.length, of, known)
            elif spec.kind == "ids":
                values = read_lists(name, spec.kind, source)
            elif spec.kind == "number":
                values, squashed = read_numbers(name, source)
                numbers[:, self._number_at[column]] = squashed if row_of is None else squashed[row_of]
            else:
                values = read_ids(name, spec.kind, source)
            first[column] = base + (values.start[:-1] if row_of is None else values.start[row_of])
            last[column] = base + (values.start[1:] if row_of is None else values.start[row_of + 1])
            key.append(values.key)
            x.append(values.x)
            base += len(values.key)
        self._check_size(sizes, last - first)
        fields = Rows(*by_row(first, last, np.concatenate(key), np.concatenate(x)))
        if self.pairs:
            fields = Rows(*add_pairs(*fields, self._pair_column, self._pair_salt))
        times = np.array([r.time for r in requests], dtype=np.float64)
        offsets = np.zeros(len(requests) + 1, dtype=np.int64)
        np.cumsum(sizes, out=offsets[1:])
        return Batch(offsets, times, fields, numbers)

    def as_declared(self, column: int, source: list[Any]) -> list[Any]:
        """A feature's values, ids or lists of them, as its declared type; without one, as they are.

        Raises:
            FeatureError: an id is not of the declared type.
        """
        name, kind, type_ = self.names[column], self.specs[column].kind, self._types[column]
        lists = kind in ("ids", "sequence")
        if type_ is not None:
            return (id_lists_of_type if lists else ids_of_type)(name, kind, type_, source)
        if lists:  # what is no list is refused where it is read
            self._spellings.note(column, itertools.chain(*(v for v in source if isinstance(v, list))))
        else:
            self._spellings.note(column, source)
        return source

    def check_types(self, request: Requestlike) -> None:
        """Check a request's ids against the declared types alone; nothing to do where none is declared.

        Raises:
            FeatureError: an id is not of its feature's declared type.
        """
        for column, type_ in enumerate(self._types):
            if type_ is None:
                continue
            name, kind = self.names[column], self.specs[column].kind
            values = [features.get(name) for features in (request.context, *request.candidates)]
            lists = kind in ("ids", "sequence")
            (id_lists_of_type if lists else ids_of_type)(name, kind, type_, values)

    def _check_size(self, sizes: npt.NDArray[np.int64], values: npt.NDArray[np.int64]) -> None:
        """Refuse a request with too many entries: pairs of long context lists multiply, for each candidate.

        Args:
            sizes: (R,), candidates of each request.
            values: (F, n), the number of values of each candidate and feature.
        """
        entries = values.sum(axis=0)  # (n,)
        if (entries + entries * (entries - 1) // 2).sum() <= ENTRIES_MAX:
            return
        for left, right in self.pairs:
            entries = entries + values[left] * values[right]
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        for begin, end in itertools.pairwise(bounds):
            if (size := int(entries[begin:end].sum())) > ENTRIES_MAX:
                raise FeatureError(
                    f"the lists of {end - begin} candidates and their pairs make {size:,} entries, "
                    f"over the limit of {ENTRIES_MAX:,} for one request; send fewer candidates or shorter "
                    "lists, or declare `pairs = false` for the lists' features"
                )

    def fits(self, request: Requestlike) -> bool:
        """Whether each of a request's values is of its feature's declared kind."""
        try:
            self.encode([request])
        except FeatureError:
            return False
        return True

    def users(self, batch: Batch, feature: str) -> npt.NDArray[np.uint64]:
        """The key of each request's user for per-user metrics, (R,): that of feature `feature`, or 0."""
        rows = batch.rows
        column = self._column.get(feature, -1)
        return first_keys(batch.requests, rows.start, rows.column, rows.key, column)

    def _shared(self, requests: Sequence[Requestlike], name: str, kind: str) -> list[Any]:
        """Each request's context value of a feature, (R,)."""
        shared: list[Any] = [request.context.get(name) for request in requests]
        if kind == "hour":
            shared = [
                int(request.time // 3600) % 24 if value is None else value
                for request, value in zip(requests, shared, strict=True)
            ]
        return shared

    def _target_of(self, column: int) -> int:
        of = self.specs[column].of
        target = self._column.get(of)
        if target is None or self.specs[target].kind != "id":
            raise FeatureError(
                f"feature {self.names[column]}: `of` is {of!r}, which is no declared feature of kind id"
            )
        return target

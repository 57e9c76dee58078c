"""Features: turns requests into the sparse rows that the model reads.

A schema names each feature and its kind. Column j of the rows is the j-th declared feature. The
columns of pairs follow; a pair's key is a hash of the keys of both features.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import log2
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ground.keys import hash_string
from ground.rows import Rows
from learner.errors import FeatureError
from learner.features.calendar import days_since, time_value
from learner.features.columns import NUMBERS, columns_of, read_columns, value_of
from learner.features.encoding import add_pairs, by_row, first_keys, join_all
from learner.features.quick import QuickEncoder
from learner.features.spec import OF_IDS, OF_TIME
from learner.features.spec import FeatureSpec as FeatureSpec
from learner.features.spellings import Spellings
from learner.features.values import Values, id_lists_of_type, ids_of_type, read_numbers, read_sequences
from stream.records.types import Example, Features

ENTRIES_MAX = 1 << 23
"""Limit of entries (features and pairs, 16 bytes each) of a request. 2,000 candidates with 90 values each
fit."""


PLACES = 16
"""The first places are told apart, one by one; beyond them, two classes to each doubling."""


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
        self.features = list(features)
        self._specs = list(features.values())
        self.kinds = [spec.kind for spec in features.values()]
        self.parts = [part for spec in features.values() for part in spec.coordinates or ()]
        for name, spec in features.items():
            if spec.of and spec.kind != "sequence" and spec.of not in features:
                raise FeatureError(f"feature {name}: `of` is {spec.of!r}, which is not declared")
        laid_out = columns_of(features)
        self.names = [column.name for column in laid_out]
        self.specs = [column.spec for column in laid_out]
        self.dims = [column.dim for column in laid_out]
        self.feature_of = [column.feature for column in laid_out]
        self.numbers = [i for i, spec in enumerate(self.specs) if spec.kind in NUMBERS]
        self.places = [i for i, spec in enumerate(self.specs) if spec.kind == "place"]
        pairable = [i for i, column in enumerate(laid_out) if column.pairs]
        chosen = sorted(itertools.combinations(pairable, 2), key=lambda pair: (pair[1], pair[0]))
        chosen = [(i, j) for i, j in chosen if not self._same(i, j)]
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
        kinds = [self.kinds[feature] for feature in self.feature_of]
        self._types = [self.specs[self.sequences.get(c, c)].id_type for c in range(n)]
        self._spellings = Spellings(self.names, self._types)
        self._quick = QuickEncoder(
            self.names, kinds, self._types, self._spellings, self._pair_column, self._pair_salt
        )
        # The columns of each feature; sequences come last, since they need their target's keys.
        by_feature = [[c for c in range(n) if self.feature_of[c] == f] for f in range(len(features))]
        self._order = sorted(by_feature, key=lambda columns: columns[0] in self.sequences)

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
        for columns in self._order:
            source, row_of = self._values(requests, candidates, request_of, columns[0])
            found: list[Values]
            column, name, spec = columns[0], self.names[columns[0]], self.specs[columns[0]]
            if spec.kind == "sequence":
                target = self.sequences[column]
                known = first[target] < last[target]
                of = np.concatenate([*key, np.zeros(1, dtype=np.uint64)])[np.where(known, first[target], -1)]
                found = [read_sequences(name, source, spec.length, of, known)]
            elif spec.kind in NUMBERS:
                values, squashed = read_numbers(name, source)
                numbers[:, self._number_at[column]] = squashed if row_of is None else squashed[row_of]
                found = [values]
            else:
                feature = self.feature_of[column]
                found = read_columns(self.features[feature], self._specs[feature], source)
            for column, values in zip(columns, found, strict=True):
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

    def _values(
        self,
        requests: Sequence[Requestlike],
        candidates: Sequence[Features],
        request_of: npt.NDArray[np.int64],
        column: int,
    ) -> tuple[list[Any], npt.NDArray[np.int64] | None]:
        """A feature's values, as `read_columns` takes them, and of each candidate (n,) its value among them;
        None: they are the candidates' own, one each."""
        feature = self.feature_of[column]
        name, spec = self.features[feature], self._specs[feature]
        if spec.kind == "place":
            return shown_places(requests), None
        own = [value_of(name, spec, candidate) for candidate in candidates]
        source: list[Any] = own
        row_of = None
        if None in own:
            shared = [value_of(name, spec, request.context) for request in requests]  # (R,)
            if spec.kind in OF_TIME:
                shared = [
                    time_value(spec.kind, request.time) if value is None else value
                    for request, value in zip(requests, shared, strict=True)
                ]
            if own.count(None) == len(own) and spec.kind != "sequence":
                source, row_of = shared, request_of
            else:
                source = [shared[q] if v is None else v for q, v in zip(request_of, own, strict=True)]
        if spec.kind == "age":
            times = [requests[q].time for q in (range(len(requests)) if row_of is not None else request_of)]
            return days_since(name, source, times), row_of
        if spec.kind in OF_IDS:
            source = self.as_declared(column, source)
        return source, row_of

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

    def _same(self, i: int, j: int) -> bool:
        """Whether two columns are of one feature, or one describes the other: a pair would say nothing."""
        f, g = self.feature_of[i], self.feature_of[j]
        return f == g or self._specs[f].of == self.features[g] or self._specs[g].of == self.features[f]

    def _target_of(self, column: int) -> int:
        of = self.specs[column].of
        target = self._column.get(of)
        if target is None or self.specs[target].kind != "id":
            raise FeatureError(
                f"feature {self.names[column]}: `of` is {of!r}, which is no declared feature of kind id"
            )
        return target


def shown_places(requests: Sequence[Requestlike]) -> list[int | None]:
    """Where each candidate was shown (n,), in classes that widen from `PLACES` on; None for the first place,
    and for all of a request that is to be scored: it is scored as if each candidate came first.
    """
    found: list[int | None] = []
    for request in requests:
        if isinstance(request, Example):
            places = range(len(request.candidates)) if request.place is None else request.place
            found += [_class_of_place(place) for place in places]
        else:
            found += [None] * len(request.candidates)
    return found


def _class_of_place(place: int) -> int | None:
    if place < PLACES:
        return place or None
    return PLACES + int(2.0 * log2(place / PLACES))

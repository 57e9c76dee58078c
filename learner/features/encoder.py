"""Features: turns requests into the sparse rows that the model reads.

A schema names each feature and its kind. Column j of the rows is the j-th declared feature. The
columns of pairs follow; a pair's key is a hash of the keys of both features.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ground.keys import hash_string
from ground.rows import Rows
from learner.errors import FeatureError
from learner.features.calendar import days_since, time_value
from learner.features.columns import (
    NUMBERS,
    check_size,
    columns_of,
    names_of_values,
    places_shown,
    reader_of,
    value_of,
)
from learner.features.encoding import add_pairs, by_row, first_keys, join_all
from learner.features.known.given import read_histories, read_rates
from learner.features.quick import LISTS, QuickEncoder
from learner.features.spec import KNOWN, OF_IDS, OF_TIME, check_owners
from learner.features.spec import FeatureSpec as FeatureSpec
from learner.features.spellings import Spellings
from learner.features.values import (
    NOT_SHARED,
    Floats,
    Keys,
    Values,
    id_lists_of_type,
    ids_of_type,
    list_keys,
    read_numbers,
    read_sequences,
    starts_of,
)
from stream.records.types import Example, Features, Value

Ints = npt.NDArray[np.int64]
Floats32 = npt.NDArray[np.float32]


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
    filled: bool = False  # whether the model's own histories and rates are in


LEARNED = (
    *("dim", "attention", "counts", "optimizer", "rate"),
    *("ttl_s", "admit_after", "admit_share", "rows_max", "evict", "memory_rows"),
)
"""Settings of a feature that say what is learned of its values, and nothing of how they are encoded."""


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
        self._layout = (pairs_max, [(name, *_encoded_by(spec)) for name, spec in features.items()])
        self._specs = list(features.values())
        self._readers = [reader_of(name, spec) for name, spec in features.items()]
        self.kinds = [spec.kind for spec in features.values()]
        self.parts = [part for name, spec in features.items() for part in names_of_values(name, spec)]
        self.known = {name: spec for name, spec in features.items() if spec.kind in KNOWN}
        check_owners(features)
        laid_out = columns_of(features)
        self.names = [column.name for column in laid_out]
        self.specs = [column.spec for column in laid_out]
        self.dims = [column.dim for column in laid_out]
        self.feature_of = [column.feature for column in laid_out]
        self.states = {i: column.words for i, column in enumerate(laid_out) if column.words}
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
        for name, spec in self.known.items():
            for said in spec.keeper:
                self._id_column(name, "by" if spec.kind == "history" else "of", said)
        self.sequences = {
            i: self._id_column(self.names[i], "of", s.held) for i, s in enumerate(self.specs) if s.held
        }
        kinds = [self.kinds[feature] for feature in self.feature_of]
        self._types = [self.specs[self.sequences.get(c, c)].id_type for c in range(n)]
        self._spellings = Spellings(self.names, self._types)
        # The columns of each feature; sequences come last, since they need their target's keys.
        by_feature = [[c for c in range(n) if self.feature_of[c] == f] for f in range(len(features))]
        self.columns_of_lists = {c[0]: c for c in by_feature if kinds[c[0]] in LISTS}
        self.targets_of_sequences = {c: of for c, of in self.sequences.items() if kinds[c] == "sequence"}
        self._quick = QuickEncoder(
            [self.features[feature] for feature in self.feature_of],
            kinds,
            self._types,
            self._spellings,
            self._pair_column,
            self._pair_salt,
            self.numbers,
            [value for name, spec in self.known.items() for value in names_of_values(name, spec)],
            self,
        )
        self._order = sorted(by_feature, key=lambda columns: columns[0] in self.sequences)

    @property
    def columns(self) -> int:
        """How many columns the rows have: features and pairs."""
        return len(self.names) + len(self.pairs)

    def encodes_as(self, other: Encoder) -> bool:
        """Whether both make the same batch of a request."""
        return self._layout == other._layout

    def column_of(self, feature: str) -> int:
        """A feature's column, -1 if it is not declared."""
        return self._column.get(feature, -1)

    def columns_of(self, feature: str) -> list[int]:
        """The columns of a declared feature."""
        return [c for c, f in enumerate(self.feature_of) if self.features[f] == feature]

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

    def encode(self, requests: Sequence[Requestlike], *, shared: bool = False) -> Batch:
        """Encode requests whole.

        Features that are not in the schema are ignored; missing features have no entry in the row.

        Args:
            shared: candidates do not repeat a sequence that their request has: enough to predict, but not
                to learn from or to explain.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
        """
        if len(requests) == 1 and not (self.places and isinstance(requests[0], Example)):
            request = requests[0]
            quick = self._quick.encode(request.time, request.context, request.candidates, shared)
            if quick is not None:
                return Batch(np.array([0, quick[0].n]), np.array([request.time], dtype=np.float64), *quick)
        sizes = np.array([len(request.candidates) for request in requests], dtype=np.int64)
        request_of = np.repeat(np.arange(len(requests)), sizes)  # (n,)
        candidates = [candidate for request in requests for candidate in request.candidates]
        n = len(candidates)
        numbers = np.zeros((n, len(self.numbers)), np.float32)
        first = np.zeros((len(self.names), n), dtype=np.int64)
        last = np.zeros((len(self.names), n), dtype=np.int64)
        key: list[npt.NDArray[np.uint64]] = []
        x: list[npt.NDArray[np.float32]] = []
        times = np.array([r.time for r in requests], dtype=np.float64)
        base = 0
        for columns in self._sent(requests, candidates) if self.known else self._order:
            source, row_of = self._values(requests, candidates, request_of, columns[0])
            found: list[Values]
            column, name, spec = columns[0], self.names[columns[0]], self.specs[columns[0]]
            if name in self.known:
                found = self._given(columns, source, times if row_of is not None else times[request_of])
            elif spec.kind == "sequence":
                target = self.sequences[column]
                known = first[target] < last[target]
                of = np.concatenate([*key, np.zeros(1, dtype=np.uint64)])[np.where(known, first[target], -1)]
                begins = np.diff(request_of, prepend=-1) > 0 if shared else NOT_SHARED
                found = [read_sequences(source, partial(self.keys_of_sequence, column), of, known, begins)]
            elif spec.kind in NUMBERS:
                values, squashed = read_numbers(name, source)
                numbers[:, self._number_at[column]] = squashed if row_of is None else squashed[row_of]
                found = [values]
            else:
                found = self.read_values(column, source)
            for column, values in zip(columns, found, strict=True):
                first[column] = base + (values.start[:-1] if row_of is None else values.start[row_of])
                last[column] = base + (values.start[1:] if row_of is None else values.start[row_of + 1])
                key.append(values.key)
                x.append(values.x)
                base += len(values.key)
        rows = self.laid_out(sizes, first, last, np.concatenate(key), np.concatenate(x))
        return Batch(starts_of(sizes), times, rows, numbers)

    def laid_out(self, sizes: Ints, first: Ints, last: Ints, key: Keys, x: npt.NDArray[np.float32]) -> Rows:
        """The rows of requests with `sizes` (R,) candidates, see `by_row`, with their pairs.

        Raises:
            FeatureError: a request has too many entries.
        """
        check_size(sizes, last - first, self.pairs)
        fields = Rows(*by_row(first, last, key, x))
        return Rows(*add_pairs(*fields, self._pair_column, self._pair_salt)) if self.pairs else fields

    def read_values(self, column: int, source: list[Value | None]) -> list[Values]:
        """A feature's values, by its first column, as the entries of each of its columns.

        Raises:
            FeatureError: a value is not of the feature's kind.
        """
        feature = self.feature_of[column]
        declared = self.as_declared(column, source) if self.specs[column].kind in OF_IDS else source
        return self._readers[feature](declared)

    def keys_of_sequence(self, column: int, value: Value) -> Keys:
        """The keys of the newest ids of a sequence.

        Raises:
            FeatureError: a value is no list of ids.
        """
        listed = self.as_declared(column, [value])[0]
        return list_keys(self.names[column], "sequence", listed)[-self.specs[column].length :]

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
            return [p for r in requests for p in places_shown(r, len(r.candidates))], None
        if spec.kind in KNOWN or spec.coordinates is not None:
            own: list[Any] = [value_of(name, spec, candidate) for candidate in candidates]
        else:
            own = [candidate.get(name) for candidate in candidates]
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
        return source, row_of

    def _sent(self, requests: Sequence[Requestlike], candidates: Sequence[Features]) -> list[list[int]]:
        """The columns by feature, without those of histories and rates that did not come with a request."""
        sent: set[str] = set()
        sent.update(*candidates, *(request.context for request in requests))
        absent = {n for n, s in self.known.items() if sent.isdisjoint(names_of_values(n, s))}
        return [columns for columns in self._order if self.names[columns[0]] not in absent]

    def _given(self, columns: Sequence[int], source: list[Any], times: Floats) -> list[Values]:
        """The values of a history or rate that came with the requests, as entries of its last column."""
        name, spec = self.names[columns[0]], self.known[self.names[columns[0]]]
        none = Values(np.zeros(len(source) + 1, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.float32))
        if spec.kind == "rate":
            given = read_rates(name, source)
        else:
            by_name = self.as_declared(columns[0], [None if v is None else v.ids for v in source])
            ids = [None if v is None else list_keys(name, "history", v) for v in by_name]
            given = read_histories(name, source, ids, times, spec.length)
        return [*[none] * (len(columns) - 1), given]

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
            self._spellings.note(
                column, itertools.chain.from_iterable(v for v in source if isinstance(v, list))
            )
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
        one, other = self.features[f], self.features[g]
        return f == g or other in self._specs[f].described or one in self._specs[g].described

    def _id_column(self, feature: str, key: str, named: str) -> int:
        """The column of the feature of ids that another one names, in its key `of` or `by`."""
        column = self._column.get(named)
        if column is None or self.kinds[self.feature_of[column]] != "id":
            raise FeatureError(
                f"feature {feature}: `{key}` is {named!r}, which is no declared feature of kind id"
            )
        return column


def _encoded_by(spec: FeatureSpec) -> list[object]:
    return [getattr(spec, key) for key in spec.__struct_fields__ if key not in LEARNED]

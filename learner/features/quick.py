"""The fast way from one request to a batch, for common requests.

`Encoder.encode` supports every schema, column by column, and spends most of its time for 50 candidates in
small calls. Here one pass collects the values, one call hashes them and one kernel lays out the rows; lists
and contents are read as in the general way. It declines unusual requests: candidates with different sets of
features, a column of mixed types, an invalid value. The general way then encodes the request or raises the
error. Both give the same bits.
"""

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import xxhash
from numba import njit

from ground.id_types import IdType
from ground.kernels.mixing import join_keys
from ground.rows import Rows
from learner.errors import FeatureError
from learner.features.calendar import time_value
from learner.features.spec import OF_TIME
from learner.features.spellings import Spellings
from learner.features.values import (
    NOT_SHARED,
    NUMBER_X,
    WIDTHS,
    Floats,
    Keys,
    Values,
    ids_of_type,
    number_buckets,
    read_sequences,
    squash,
)
from stream.records.types import Value

PLANS_MAX = 256
"""Limit of cached plans, one per ordered set of candidates' feature names; above it the cache is emptied."""

PLAIN = ("id", "number", "hour")
"""Kinds with one value a row."""
LISTS = ("ids", "text", "vector", "calendar")
"""Kinds with several entries to a value, or several columns."""
SEQUENCE = "sequence"
"""The kind whose entries follow the key of the id that attends."""
LATER = ("history", "rate", "place")
"""Kinds that a request to score does not have: they are filled in later, unless a value came with it."""

Ints = npt.NDArray[np.int64]

_hash = xxhash.xxh3_64_intdigest


class _Plan(NamedTuple):
    """A plan: how to collect the values of candidates with certain feature names."""

    get: Callable[[Mapping[str, Any]], Any]  # all their values
    single: bool  # there is only one
    own: list[tuple[int, int]]  # (column, which of the values), of the declared features among them
    shared: list[int]  # columns of the others


class _Read(NamedTuple):
    """The entries of a feature of one of the kinds `LISTS`."""

    columns: Sequence[int]
    values: Sequence[Values]  # of each column: of n rows, or of one that all share
    step: int  # from one row to the next, 0 or 1


class _Sequence(NamedTuple):
    """A sequence."""

    column: int
    values: list[Value | None]  # of each row


class ListReader(Protocol):
    """What the general way reads such features with, and how it lays entries out."""

    @property
    def columns_of_lists(self) -> Mapping[int, Sequence[int]]:
        """All columns of such a feature, by its first."""
        ...

    def read_values(self, column: int, source: list[Value | None]) -> list[Values]:
        """A feature's values, by its first column, as the entries of each of its columns."""
        ...

    @property
    def targets_of_sequences(self) -> Mapping[int, int]:
        """The column of the id that attends, by that of a sequence."""
        ...

    def keys_of_sequence(self, column: int, value: Value) -> Keys:
        """The keys of a sequence's newest ids."""
        ...

    def laid_out(self, sizes: Ints, first: Ints, last: Ints, key: Keys, x: npt.NDArray[np.float32]) -> Rows:
        """Rows of entries, see `by_row`, with their pairs."""
        ...


class QuickEncoder:
    """Encodes one request at a time.

    Args:
        names, kinds: of each column's feature, (F,) each.
        types: what each feature's ids are declared to be, (F,).
        spellings: notes how ids without a declared type are written.
        pair_column, pair_salt: see `lay_out`.
        numbers: the columns that are read as numbers.
        given: names of values that only the general way encodes.
        lists: reads what is no single value.
    """

    def __init__(
        self,
        names: Sequence[str],
        kinds: Sequence[str],
        types: Sequence[IdType | None],
        spellings: Spellings,
        pair_column: npt.NDArray[np.int32],
        pair_salt: npt.NDArray[np.uint64],
        numbers: Sequence[int],
        given: Collection[str],
        lists: ListReader,
    ) -> None:
        self._names = list(names)
        self._kinds = list(kinds)
        self._types = list(types)
        self._spellings = spellings
        self._numbers = list(numbers)
        self._given = frozenset(given)
        self._pair_column = pair_column
        self._pair_salt = pair_salt
        self._lists = lists
        self._of_lists = lists.columns_of_lists
        self._attends = lists.targets_of_sequences
        self._plain = all(kind in (*PLAIN, *LATER, *LISTS, SEQUENCE) for kind in kinds)
        self._asked = [
            c for c, kind in enumerate(kinds) if kind in PLAIN or c in self._of_lists or c in self._attends
        ]
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def encode(
        self, time: float, context: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]], shared: bool
    ) -> tuple[Rows, npt.NDArray[np.float32]] | None:
        """Rows and squashed numbers (n, d) of a request's n candidates; None: use the general way.

        Args:
            shared: see `Encoder.encode`.
        """
        n = len(candidates)
        if not self._plain or n == 0:
            return None
        names = tuple(candidates[0])
        if self._given and not (self._given.isdisjoint(context) and self._given.isdisjoint(names)):
            return None
        plan = self._plans.get(names)
        if plan is None:
            if not names:
                return None
            plan = self._plan(names)
        if sum(map(len, candidates)) != n * len(names):
            return None
        ids: list[int] = []
        texts: list[str] = []
        numbers: list[float] = []
        read: list[_Read] = []
        sequences: list[_Sequence] = []
        place = [(0, 0, 0)] * len(self._names)  # of each column: its bank, where it begins there, its step
        try:
            values = list(map(plan.get, candidates))
            columns: Sequence[Sequence[Any]] = [values] if plan.single else list(zip(*values, strict=True))
            for column, at in plan.own:
                mine = columns[at]
                if column in self._of_lists:
                    if None in mine:
                        return None
                    read.append(self._read(column, list(mine), 1))
                    continue
                if column in self._attends:
                    if None in mine:
                        return None
                    sequences.append(_Sequence(column, list(mine)))
                    continue
                if (declared := self._types[column]) is not None:
                    mine = ids_of_type(self._names[column], self._kinds[column], declared, mine)
                elif self._kinds[column] != "number":
                    self._spellings.note(column, mine)
                types = set(map(type, mine))
                if self._kinds[column] == "number":
                    if not types <= {int, float}:
                        return None
                    place[column] = (3, len(numbers), 1)
                    numbers += mine
                elif types == {int}:
                    place[column] = (1, len(ids), 1)
                    ids += mine
                elif types == {str}:
                    place[column] = (2, len(texts), 1)
                    texts += mine
                else:
                    return None
            for column in plan.shared:
                kind = self._kinds[column]
                value = context.get(self._names[column])
                if value is None:
                    if kind not in OF_TIME:
                        continue  # the column is in no row
                    value = time_value(kind, time)
                if column in self._of_lists:
                    read.append(self._read(column, [value], 0))
                    continue
                if column in self._attends:
                    sequences.append(_Sequence(column, [value] * n))
                    continue
                if (declared := self._types[column]) is not None:
                    (value,) = ids_of_type(self._names[column], kind, declared, (value,))
                elif kind != "number":
                    self._spellings.note(column, (value,))
                if kind == "number":
                    if type(value) not in (int, float):
                        return None
                    place[column] = (3, len(numbers), 0)
                    numbers.append(value)
                elif type(value) is int:
                    place[column] = (1, len(ids), 0)
                    ids.append(value)
                elif type(value) is str:
                    place[column] = (2, len(texts), 0)
                    texts.append(value)
                else:
                    return None
            key = struct.pack(f"={len(ids)}q{len(texts)}Q", *ids, *map(_hash, map(str.encode, texts)))
            number = np.array(numbers, dtype=np.float64)
        except (FeatureError, KeyError, OverflowError, struct.error, UnicodeEncodeError):
            return None
        keys = np.frombuffer(key, dtype=np.uint64)
        where = np.array(place, dtype=np.int64)
        if read or sequences:
            try:
                rows = self._with_lists(n, where, len(ids), keys, number, read, sequences, shared)
            except FeatureError:
                return None
        else:
            rows = Rows(*lay_out(n, where, len(ids), keys, number, self._pair_column, self._pair_salt))
        squashed = np.zeros((n, len(self._numbers)), dtype=np.float32)
        if numbers:
            all_squashed = squash(number)
            for d, column in enumerate(self._numbers):
                bank, at, step = place[column]
                if bank:
                    squashed[:, d] = all_squashed[at : at + n] if step else all_squashed[at]
        return rows, squashed

    def _read(self, column: int, source: list[Value | None], step: int) -> _Read:
        return _Read(self._of_lists[column], self._lists.read_values(column, source), step)

    def _with_lists(
        self,
        n: int,
        where: Ints,
        ids: int,
        key: Keys,
        number: Floats,
        read: Sequence[_Read],
        sequences: Sequence[_Sequence],
        shared: bool,
    ) -> Rows:
        """The rows of a request with entries of lists; arguments as `lay_out` and `encode`.

        Raises:
            FeatureError: what a sequence should be is no list of ids, or there are too many entries.
        """
        buckets = number_buckets(number).ravel()
        bank, at, step = where.T
        size = np.array([0, 1, 1, WIDTHS])[bank]
        begin = np.array([0, 0, ids, len(key)])[bank] + size * at
        first = begin[:, None] + (size * step)[:, None] * np.arange(n)
        last = first + size[:, None]
        keys, x = [key, buckets], [np.ones(len(key), np.float32), np.full(len(buckets), NUMBER_X, np.float32)]
        base = len(key) + len(buckets)
        for one in read:
            for column, values in zip(one.columns, one.values, strict=True):
                start = base + values.start
                first[column], last[column] = (start[:-1], start[1:]) if one.step else start
                keys.append(values.key)
                x.append(values.x)
                base += len(values.key)
        begins = np.arange(n) == 0 if shared else NOT_SHARED
        for column, values_of in sequences:
            of = self._attends[column]
            known = first[of] < last[of]
            target = np.append(key, np.uint64(0))[np.where(known, first[of], -1)]  # ids come first
            keys_of = partial(self._lists.keys_of_sequence, column)
            values = read_sequences(values_of, keys_of, target, known, begins)
            first[column], last[column] = base + values.start[:-1], base + values.start[1:]
            keys.append(values.key)
            x.append(values.x)
            base += len(values.key)
        return self._lists.laid_out(np.array([n]), first, last, np.concatenate(keys), np.concatenate(x))

    def _plan(self, names: tuple[str, ...]) -> _Plan:
        if len(self._plans) >= PLANS_MAX:
            self._plans.clear()
        at = {name: i for i, name in enumerate(names)}
        plan = _Plan(
            get=itemgetter(*names),
            single=len(names) == 1,
            own=[(c, at[self._names[c]]) for c in self._asked if self._names[c] in at],
            shared=[c for c in self._asked if self._names[c] not in at],
        )
        self._plans[names] = plan
        return plan


# nogil=False on purpose: see `learner.fast.reading`.
@njit(cache=True, nogil=False)
def lay_out(n, where, ids, key, number, pair_column, pair_salt):
    """The rows of one request, of which each has at most one value of a feature; a number is WIDTHS entries.

    Args:
        n: candidates.
        where: (F, 3) int64, of each feature its bank (0: in no row; 1: ids, 2: texts, 3: numbers),
            its first index there, and its step from one row to the next, 0 or 1.
        ids: how many of the keys are ids; those of texts follow.
        key: (k,) uint64.
        number: (m,) float64.
        pair_column, pair_salt: as for `learner.features.encoding.add_pairs`.

    Returns:
        The four arrays of a `Rows`, pairs included, as `by_row` and `add_pairs` give them.
    """
    features = len(where)
    here = np.empty(features, dtype=np.int64)  # the features that rows have
    m = 0
    for f in range(features):
        if where[f, 0] > 0:
            here[m] = f
            m += 1
    left = np.empty(m * m, dtype=np.int64)  # the pairs of a row, in its order
    right = np.empty(m * m, dtype=np.int64)
    pair = np.empty(m * m, dtype=np.int32)
    pairs = 0
    for i in range(m):
        for j in range(i + 1, m):
            if pair_column[here[i], here[j]] >= 0:
                left[pairs], right[pairs], pair[pairs] = i, j, pair_column[here[i], here[j]]
                pairs += 1
    buckets = number_buckets(number)
    entry = np.zeros(m + 1, dtype=np.int64)  # where each feature's entries begin in a row
    for i in range(m):
        entry[i + 1] = entry[i] + (WIDTHS if where[here[i], 0] == 3 else 1)
    size = entry[m] + pairs
    out_start = np.arange(n + 1) * size
    out_column = np.empty(n * size, dtype=np.int32)
    out_key = np.empty(n * size, dtype=np.uint64)
    out_x = np.ones(n * size, dtype=np.float32)
    for r in range(n):
        at = r * size
        for i in range(m):
            f = here[i]
            bank, place = where[f, 0], where[f, 1] + r * where[f, 2]
            to = at + entry[i]
            if bank == 3:
                for width in range(WIDTHS):
                    out_column[to + width] = f
                    out_key[to + width] = buckets[place, width]
                    out_x[to + width] = NUMBER_X
            else:
                out_column[to] = f
                out_key[to] = key[place] if bank == 1 else key[ids + place]
        for p in range(pairs):
            i, j = left[p], right[p]  # ids: a number has no pairs
            to = at + entry[m] + p
            out_column[to] = pair[p]
            if r > 0 and where[here[i], 2] + where[here[j], 2] == 0:
                out_key[to] = out_key[to - size]
            else:
                salt = pair_salt[pair[p] - features]
                out_key[to] = join_keys(salt, out_key[at + entry[i]], out_key[at + entry[j]])
    return out_start, out_column, out_key, out_x

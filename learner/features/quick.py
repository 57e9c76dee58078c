"""The fast way from one request to a batch, for common requests.

`Encoder.encode` supports every schema, column by column, and spends most of its time for 50 candidates in
small calls. Here one pass collects the values, one call hashes them and one kernel lays out the rows. It
declines unusual requests: candidates with different sets of features, a column of mixed types, an invalid
value. The general way then encodes the request or raises the error. Both give the same bits.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash
from numba import njit

from ground.id_types import IdType
from ground.kernels.mixing import join_keys
from ground.rows import Rows
from learner.features.spellings import Spellings
from learner.features.values import NUMBER_X, WIDTHS, ids_of_type, number_buckets, squash

PLANS_MAX = 256
"""Limit of cached plans, one per ordered set of candidates' feature names; above it the cache is emptied."""

PLAIN = ("id", "number", "hour")
"""Kinds with one value a row."""

_hash = xxhash.xxh3_64_intdigest


class _Plan(NamedTuple):
    """A plan: how to collect the values of candidates with certain feature names."""

    get: Callable[[Mapping[str, Any]], Any]  # all their values
    single: bool  # there is only one
    own: list[tuple[int, int]]  # (column, which of the values), of the declared features among them
    shared: list[int]  # columns of the others


class QuickEncoder:
    """Encodes one request at a time.

    Args:
        names, kinds: of the features, (F,) each.
        types: what each feature's ids are declared to be, (F,).
        spellings: notes how ids without a declared type are written.
        pair_column, pair_salt: see `lay_out`.
    """

    def __init__(
        self,
        names: Sequence[str],
        kinds: Sequence[str],
        types: Sequence[IdType | None],
        spellings: Spellings,
        pair_column: npt.NDArray[np.int32],
        pair_salt: npt.NDArray[np.uint64],
    ) -> None:
        self._names = list(names)
        self._kinds = list(kinds)
        self._types = list(types)
        self._spellings = spellings
        self._numbers = [c for c, kind in enumerate(kinds) if kind == "number"]
        self._pair_column = pair_column
        self._pair_salt = pair_salt
        self._plain = all(kind in PLAIN for kind in kinds)
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def encode(
        self, time: float, context: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]
    ) -> tuple[Rows, npt.NDArray[np.float32]] | None:
        """Rows and squashed numbers (n, d) of a request's n candidates; None: use the general way."""
        n = len(candidates)
        if not self._plain or n == 0:
            return None
        names = tuple(candidates[0])
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
        place = [(0, 0, 0)] * len(self._names)  # of each column: its bank, where it begins there, its step
        try:
            values = list(map(plan.get, candidates))
            columns: Sequence[Sequence[Any]] = [values] if plan.single else list(zip(*values, strict=True))
            for column, at in plan.own:
                mine = columns[at]
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
                    if kind != "hour":
                        continue  # the column is in no row
                    value = int(time // 3600) % 24
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
        except (KeyError, OverflowError, struct.error, UnicodeEncodeError):
            return None
        keys = np.frombuffer(key, dtype=np.uint64)
        where = np.array(place, dtype=np.int64)
        rows = Rows(*lay_out(n, where, len(ids), keys, number, self._pair_column, self._pair_salt))
        squashed = np.zeros((n, len(self._numbers)), dtype=np.float32)
        if numbers:
            all_squashed = squash(number)
            for d, column in enumerate(self._numbers):
                bank, at, step = place[column]
                if bank:
                    squashed[:, d] = all_squashed[at : at + n] if step else all_squashed[at]
        return rows, squashed

    def _plan(self, names: tuple[str, ...]) -> _Plan:
        if len(self._plans) >= PLANS_MAX:
            self._plans.clear()
        at = {name: i for i, name in enumerate(names)}
        plan = _Plan(
            get=itemgetter(*names),
            single=len(names) == 1,
            own=[(c, at[name]) for c, name in enumerate(self._names) if name in at],
            shared=[c for c, name in enumerate(self._names) if name not in at],
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

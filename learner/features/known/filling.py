"""Fills histories and rates into encoded requests, as of each of them, and learns from their labels.

What is read of a request is what came before it: entries of its own second or later do not exist for a
history, and nothing of its own time or later for a rate. All candidates are filled in before any label of
their request is learned. What came with the request goes before what is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embeddings import Table
from ground.distinct import distinct as distinct_of
from ground.keys import hash_string
from ground.rows import Rows
from learner.features.encoder import Batch, Encoder
from learner.features.encoding import compact, join_all
from learner.features.known import windows
from learner.features.known.columns import append, keepers
from learner.features.known.rings import CODES, forget_in_rings, walk_histories
from learner.features.known.taken import Taken, merged, told_histories, told_rates
from learner.features.known.windows import walk_rates
from learner.features.labelled import join, number_of
from learner.features.spec import FeatureSpec
from learner.lessons import Lessons
from stream.records.targets import Targets

NUMBER_SCALE = 0.3
"""Of a rate among the deep part's inputs."""
RANGE_ROWS = 2048
"""Rows that are filled in at once, at least one request."""
JOINED_MAX = 1 << 18
"""Keys of two ids that are joined at once, at least one part."""

Keys = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]

NO_BIAS: Floats32 = np.zeros((2, CODES), dtype=np.float32)
"""For a sequence, whose ids have no age."""


class _Kept(NamedTuple):
    """A history or rate."""

    name: str
    spec: FeatureSpec
    columns: tuple[int, ...]  # of its sequence and `seen`; or of its number
    state: int  # the column, and number of the table, that holds its state
    of: int  # the column of the ids of a history
    by: tuple[int, int]  # of its keepers; the second -1: there is one
    salt: np.uint64  # of two joined ids
    target: int  # its number
    number: int  # of a rate: which of the batch's numbers
    every: int  # of a rate: which of `Filler.totals`
    is_event: bool  # whether its target is an event


class Filler:
    """Fills in what is kept in tables.

    Args:
        encoder: of the schema.
        targets: that labels may be of.
        tables: of a model, those of the encoder's columns first.
        tick_s: as of the model.

    Raises:
        FeatureError: a history or rate is `on` a target that is not declared.
    """

    def __init__(self, encoder: Encoder, targets: Targets, tables: Sequence[Table], tick_s: int) -> None:
        self._tables = tables
        self._tick_s = tick_s
        self._kept: list[_Kept] = []
        rates = 0
        for name, spec in encoder.known.items():
            self._kept.append(_kept(encoder, targets, name, spec, rates))
            rates += spec.kind == "rate"
        self.totals = np.zeros((rates, windows.ROW_WORDS), dtype=np.float32)
        """(rates, ROW_WORDS), the windows of all keepers together."""
        histories = [kept.columns[0] for kept in self._kept if kept.spec.kind == "history"]
        self._age_at = {column: i for i, column in enumerate(histories)}
        self.ages = np.zeros((len(histories), 2, CODES), dtype=np.float32)
        """(histories, 2, CODES), see `age_bias`."""
        # histories last: their many entries are then copied once
        self._kept.sort(key=lambda kept: kept.spec.kind == "history")

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What is kept beside the tables; the arrays themselves."""
        return {"kept_totals": self.totals, "kept_ages": self.ages}

    def age_bias(self, column: int) -> Floats32:
        """What attention adds to a score by the code of an id's age, and squared gradients, (2, CODES)."""
        at = self._age_at.get(column, -1)
        return NO_BIAS if at < 0 else self.ages[at]

    def fill(self, batch: Batch) -> Batch:
        """A batch with what is known, to be scored; changes nothing, and nothing twice."""
        if batch.filled:
            return batch
        for kept in self._kept:
            batch = self._walk(kept, batch, batch.times, None)
        return batch._replace(filled=True)

    def fill_and_tell(self, batch: Batch) -> tuple[Batch, list[Taken]]:
        """`fill`, and what it fills into each request of a batch, as values of the request."""
        parts = []
        for kept in self._kept:
            keeper, keys, request = self._keepers(kept, batch)
            _, place, held = self._read(kept, keys, batch.times[request].astype(np.uint32))
            if kept.spec.kind == "rate":
                value, mean = _measure(kept, batch, keeper, place, held, None)
                parts.append(told_rates(kept.name, batch, keeper, kept.state, value, mean))
                batch = _with_rate(kept, batch, value, mean)
            else:
                parts.append(
                    told_histories(kept.name, batch, keeper, kept.state, kept.spec.length, place, held)
                )
                batch = _fill_history(kept, batch, keeper, place, held, None)
        return batch._replace(filled=True), merged(parts)

    def keepers(self, batch: Batch, lessons: Lessons) -> Iterator[tuple[int, int, Keys, Ints, Flags]]:
        """Table, target, and the keepers of each: keys, requests, and whether they learn, (K,) each."""
        for kept in self._kept:
            keeper, keys, request = self._keepers(kept, batch)
            learning = keeper[_adds(kept, lessons) & (keeper >= 0)]
            yield kept.state, kept.target, keys, request, np.isin(np.arange(len(keys)), learning)

    def learn(self, batch: Batch, lessons: Lessons, clock: Floats) -> Batch:
        """A batch with what is known of each request before it, whose labels are then learned.

        Args:
            lessons: of its n rows; values in the units of their targets.
            clock: (R,), the tables' event time, which never goes back; `batch.times` may.
        """
        for kept in self._kept:
            adds = _adds(kept, lessons)
            cuts = self._cuts(kept, batch, adds, clock)
            parts = []
            for a, b in pairwise(cuts):
                rows = slice(*batch.requests[[a, b]])
                labels = _Labels(adds[rows], lessons.y[rows], lessons.shift[rows], lessons.before[rows])
                parts.append(self._walk(kept, _part(batch, a, b), clock[a:b], labels))
            batch = parts[0] if len(parts) == 1 else join(parts)
        return batch

    def forget(
        self, keys: Mapping[int, Keys], partners: Callable[[int], Iterable[Keys]], now: int
    ) -> list[int]:
        """Take ids out of what is kept: what their keepers have, and the ids in the histories of others.

        Args:
            keys: the ids (k,), ascending, by column.
            partners: gives the known ids of a column, (n,) in some parts.
            now: Unix seconds, see `Table.delete`.

        Returns:
            The numbers of the tables touched.
        """
        touched = []
        for kept in self._kept:
            table = self._tables[kept.state]
            for own in self._owned(kept, keys, partners):
                table.forget(own, now)
                touched.append(kept.state)
            if kept.of in keys:
                _, slots = table.items()
                rings = table.extras(slots)
                changed = forget_in_rings(rings.view(np.uint32), keys[kept.of])
                table.set_extras(slots[changed], rings[changed])
                touched.append(kept.state)
        return touched

    def _owned(
        self, kept: _Kept, keys: Mapping[int, Keys], partners: Callable[[int], Iterable[Keys]]
    ) -> Iterator[Keys]:
        """The keys in the table of a history or rate that belong to some ids."""
        left, right = kept.by
        if right < 0:
            if left in keys:
                yield keys[left]
            return
        for mine, other in ((left, right), (right, left)):
            for part in in_parts(partners(other), len(keys[mine])) if mine in keys else ():
                sides = (keys[mine], part) if mine == left else (part, keys[mine])
                joined = join_all(kept.salt, *sides)
                yield joined[self._tables[kept.state].has(joined)]

    def _cuts(self, kept: _Kept, batch: Batch, adds: Flags, clock: Floats) -> list[int]:
        """Where the requests are cut, the first and the last included: between two cuts no row expires, and
        rows are evicted in the first request only."""
        R, table = len(batch.times), self._tables[kept.state]
        cuts = {0, R}
        if self._tick_s:
            cuts.update((np.flatnonzero(np.diff(clock.astype(np.int64) // self._tick_s)) + 1).tolist())
        if table.evicts_within(len(adds)):
            keeper, _, _ = self._keepers(kept, batch)
            begins = np.append(-1, keeper[:-1]) != keeper  # each keeper that learns is one sighting
            sighted = np.zeros(int(keeper.max(initial=-1)) + 1, dtype=np.int64)
            sighted[keeper[adds & (keeper >= 0)]] = 1
            of_row = np.where(begins & (keeper >= 0), sighted[keeper], 0) if len(sighted) else 0 * keeper
            before = np.concatenate([[0], np.cumsum(of_row)])[batch.requests]
            cuts.update(np.flatnonzero(np.diff(table.turns_within(before)) > 0).tolist())
        found = sorted(cuts)
        for a, b in pairwise(sorted(cuts)):
            begin = int(batch.requests[a])
            for q in range(a + 1, b):
                if batch.requests[q + 1] - begin > RANGE_ROWS:
                    found.append(q)
                    begin = int(batch.requests[q])
        return sorted(found)

    def _keepers(self, kept: _Kept, batch: Batch) -> tuple[Ints, npt.NDArray[np.uint64], Ints]:
        rows = batch.rows
        found: tuple[Ints, npt.NDArray[np.uint64], Ints] = keepers(
            batch.requests, rows.start, rows.column, rows.key, *kept.by, kept.salt
        )
        return found

    def _walk(self, kept: _Kept, batch: Batch, clock: Floats, labels: _Labels | None) -> Batch:
        """Fill in one feature, and learn it where there are labels."""
        table = self._tables[kept.state]
        keeper, keys, request = self._keepers(kept, batch)
        now = clock[request].astype(np.uint32)
        learning = np.zeros(0, dtype=np.int64)  # keepers
        if labels is not None:
            learning = distinct_of(keeper[labels.adds & (keeper >= 0)])
            table.touch(table.upsert(keys[learning], now[learning]), now[learning])
        distinct, place, held = self._read(kept, keys, now)
        filled = _filled(kept, batch, keeper, place, held, labels)
        if labels is not None:
            moved = distinct_of(place[learning])
            moved = moved[moved >= 0]
            table.set_extras(distinct[moved], held[moved])
            if kept.spec.kind == "rate":
                self.totals[kept.every] = held[-1]
        return filled

    def _read(
        self, kept: _Kept, keys: npt.NDArray[np.uint64], now: npt.NDArray[np.uint32]
    ) -> tuple[Ints, Ints, Floats32]:
        """(the distinct slots of keepers, the place of each keeper among them, their rows).

        Behind the rows of a rate comes that of all keepers.
        """
        table = self._tables[kept.state]
        slots = table.find(keys, now)
        distinct, place = np.empty(len(slots), dtype=np.int64), np.empty(len(slots), dtype=np.int64)
        marks = np.full(int(slots.max(initial=-1)) + 1, -1, dtype=np.int32)
        count = compact(slots, marks, np.arange(len(slots)), 0, place, distinct)
        distinct = distinct[:count]
        held = table.extras(distinct)
        if kept.spec.kind == "rate":
            held = np.concatenate([held, self.totals[kept.every : kept.every + 1]])
        return distinct, place, held


def in_parts(known: Iterable[Keys], others: int) -> Iterator[Keys]:
    """Ids in parts so small that all of a part joined with so many others are at most `JOINED_MAX`."""
    size = max(JOINED_MAX // others, 1)
    return (ids[first : first + size] for ids in known for first in range(0, len(ids), size))


def filler_of(encoder: Encoder, targets: Targets, tables: Sequence[Table], tick_s: int) -> Filler | None:
    """The filler of a schema; None: it declares no history and no rate. Arguments and errors as `Filler`."""
    return Filler(encoder, targets, tables, tick_s) if encoder.known else None


class _Labels(NamedTuple):
    """What n rows say."""

    adds: Flags  # whether the row changes what is kept
    y: Floats
    shift: Floats
    before: Floats


def _filled(
    kept: _Kept, batch: Batch, keeper: Ints, place: Ints, held: Floats32, labels: _Labels | None
) -> Batch:
    """A batch with one feature filled in; then learns the labels."""
    fill = _fill_rate if kept.spec.kind == "rate" else _fill_history
    return fill(kept, batch, keeper, place, held, labels)


def _fill_history(
    kept: _Kept, batch: Batch, keeper: Ints, place: Ints, held: Floats32, labels: _Labels | None
) -> Batch:
    happened = np.zeros(0, dtype=np.int8)
    if labels is not None:
        happened = np.where(labels.adds, np.where(labels.y > 0.0, 1, -1), 0).astype(np.int8)
    rows = batch.rows
    sequence, seen = kept.columns
    second = np.floor(batch.times).astype(np.int64)
    more = walk_histories(
        batch.requests, second, rows.start, rows.column, rows.key, rows.x, keeper, place,
        held.view(np.uint32), kept.spec.length, kept.of, kept.state, sequence, seen, happened,
    )  # fmt: skip
    return batch._replace(rows=_with(rows, more, kept.state))


def _fill_rate(
    kept: _Kept, batch: Batch, keeper: Ints, place: Ints, held: Floats32, labels: _Labels | None
) -> Batch:
    return _with_rate(kept, batch, *_measure(kept, batch, keeper, place, held, labels))


def _with_rate(kept: _Kept, batch: Batch, value: Floats32, mean: Floats32) -> Batch:
    reading = windows.readings(value, mean, kept.spec.measured == "rate", kept.is_event)
    (column,) = kept.columns
    numbers = batch.numbers.copy()
    numbers[:, kept.number] = NUMBER_SCALE * np.nan_to_num(reading)
    more = windows.reading_entries(reading, column)
    return batch._replace(rows=_with(batch.rows, more, kept.state), numbers=numbers)


def _measure(
    kept: _Kept, batch: Batch, keeper: Ints, place: Ints, held: Floats32, labels: _Labels | None
) -> tuple[Floats32, Floats32]:
    """What is measured of each row, and the mean of all, (n,) each; then learns the labels."""
    counted = happened = np.zeros(0, dtype=np.float32)
    if labels is not None:
        corrects = ~np.isnan(labels.before)
        # of the thinned negatives each stands for those that were left out
        share = np.where(corrects, 0.0, np.where(labels.y > 0.0, 1.0, np.exp(labels.shift)))
        counted = np.where(labels.adds, share, np.nan).astype(np.float32)
        happened = (labels.y - np.where(corrects, labels.before, 0.0)).astype(np.float32)
    rows, spec = batch.rows, kept.spec
    found: tuple[Floats32, Floats32] = walk_rates(
        batch.requests, batch.times, rows.start, rows.column, rows.key, rows.x, keeper, place,
        held.view(np.uint32), held, spec.window / windows.PARTS, windows.MEASURES[spec.measured],
        spec.smoothing, kept.state, counted, happened,
    )  # fmt: skip
    return found


def _with(rows: Rows, more: Sequence[npt.NDArray[np.generic]], dropped: int) -> Rows:
    start, column, key, x = more
    return Rows(*append(rows.start, rows.column, rows.key, rows.x, start, column, key, x, dropped))


def _adds(kept: _Kept, lessons: Lessons) -> Flags:
    """Which rows change what is kept, (n,): those of its target that count, or correct what did."""
    mine: Flags = (lessons.target == kept.target) & (lessons.weight > 0.0)
    if kept.spec.kind == "rate":
        return mine
    corrects = ~np.isnan(lessons.before)
    happened, did = lessons.y > 0.0, corrects & (lessons.before > 0.0)
    return mine & (happened != did)


def _kept(encoder: Encoder, targets: Targets, name: str, spec: FeatureSpec, rates: int) -> _Kept:
    *columns, state = encoder.columns_of(name)
    by = [encoder.column_of(one) for one in spec.keeper]
    is_rate = spec.kind == "rate"
    target = number_of(targets, spec.target)
    return _Kept(
        name=name,
        spec=spec,
        columns=tuple(columns),
        state=state,
        of=-1 if is_rate else encoder.column_of(spec.held),
        by=(by[0], by[1] if len(by) > 1 else -1),
        salt=np.uint64(hash_string("\0".join(spec.keeper))),
        target=target,
        number=encoder.numbers.index(columns[0]) if is_rate else -1,
        every=rates if is_rate else -1,
        is_event=list(targets.values())[target].kind == "event",
    )


def _part(batch: Batch, first: int, last: int) -> Batch:
    """Requests first to last (exclusive)."""
    requests, times, rows, numbers, _ = batch
    if first == 0 and last == len(times):
        return batch
    a, b = requests[first], requests[last]
    i, j = rows.start[a], rows.start[b]
    return Batch(
        requests[first : last + 1] - a,
        times[first:last],
        Rows(rows.start[a : b + 1] - i, rows.column[i:j], rows.key[i:j], rows.x[i:j]),
        numbers[a:b],
    )

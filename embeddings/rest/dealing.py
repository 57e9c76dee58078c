"""Rows at rest dealt out to other owners, a page at a time: `embeddings.save.dealing` without the memory.

The new tables hold what `deal` would give them, with every row at rest. Rows that are gone and were not
removed yet go along, as rows that everybody finds gone, and the sweeps of their new owner report them. There
may be too many of them for a list.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from embeddings.core.adoption import begin_adoption, stamp
from embeddings.core.eviction import CLASSES
from embeddings.errors import TableError
from embeddings.kernels import resting
from embeddings.rest.entries import existing, put_entries
from embeddings.rest.snapshot import put_rest
from embeddings.rest.stored import RestMeta
from embeddings.rest.table import RestingTable
from embeddings.save.dealing import fill_filter
from embeddings.save.entries import FORMAT_VERSION, Sink
from embeddings.spec import TableSpec
from embeddings.table.table import Table
from embeddings.types import Floats, Keys

_BEFORE_ALL = (1, max(CLASSES.values()), 0)
"""A limit that has passed the rows with stamp 0, which no sighting assigns."""


class PageSink(Sink, Protocol):
    """A store that nobody reads yet."""

    def write(self) -> None:
        """Write what was put."""


class NewPart(NamedTuple):
    """Where the rows of one new owner go."""

    table: RestingTable  # without a row; it holds the filter and the clock
    prefix: bytes  # of the table's keys
    sink: PageSink


class _Page(NamedTuple):
    keys: Keys  # (n,)
    rows: Floats  # (n, W)
    there: npt.NDArray[np.bool_]  # (n,), which of them exist


def new_part(spec: TableSpec, prefix: bytes, sink: PageSink) -> NewPart:
    """A part without a row."""
    return NewPart(RestingTable(spec, 1, track_delta=False), prefix, sink)


def deal_rest(
    olds: Sequence[Table],
    news: Sequence[NewPart],
    now: int,
    place: Callable[[Keys], npt.NDArray[np.int32]],
    sources: Sequence[Sequence[int]],
) -> list[int]:
    """Write the rows of tables, in memory and at rest, as entries of others; the tables stay as they are.

    Args:
        olds: tables with different keys, of one layout.
        news: parts of the same layout.
        place: for keys (n,), which of `news` gets each, (n,).
        sources: for each of `news`, which of `olds` its keys may come from.

    Returns:
        How many rows each of `news` has.

    Raises:
        TableError: a part gets more rows than it has room for.
    """
    if news[0].table.spec.evict != "none":
        _begin_clocks(olds, news, now, place)
    for new, froms in zip(news, sources, strict=True):
        fill_filter(new.table, [olds[number].arrays.filter_lines for number in froms])
    counts, gone = [0] * len(news), [0] * len(news)
    for page in _pages(olds, now):
        at = place(page.keys)
        for number, new in enumerate(news):
            mine = at == number
            there = page.there[mine]
            _put(new, page.keys[mine], page.rows[mine], there)
            counts[number] += int(np.count_nonzero(there))
            gone[number] += int(np.count_nonzero(~there))
            _check_room(new.table.spec, counts[number])
    for new, live, dead in zip(news, counts, gone, strict=True):
        evicts = new.table.spec.evict != "none"
        new.table.restore_counts(live + dead, [_BEFORE_ALL] if evicts and dead else [])
        put_rest(new.table, new.prefix, RestMeta(FORMAT_VERSION, new.table.spec), new.sink)
        new.sink.write()
    return counts


def _pages(olds: Sequence[Table], now: int) -> Iterator[_Page]:
    """All rows that were not removed yet, and whether they exist at `now`."""
    for old in olds:
        if not isinstance(old, RestingTable):
            for keys, rows in old.pages():
                yield _page(old, keys, rows, now)
            continue
        for keys, rows in old.pages_in_memory():
            yield _page(old, keys, rows, now)
        for keys, rows in old.resting_pages(passed=True):
            page = _page(old, keys, rows, now)
            yield page._replace(there=page.there & ~old.limits.passed(rows))


def _page(old: Table, keys: Keys, rows: Floats, now: int) -> _Page:
    there = np.zeros(len(keys), dtype=np.bool_)
    there[existing(old.arrays, old.rules, keys, rows, now)] = True
    return _Page(keys, rows, there)


def _begin_clocks(
    olds: Sequence[Table],
    news: Sequence[NewPart],
    now: int,
    place: Callable[[Keys], npt.NDArray[np.int32]],
) -> None:
    """Begin eviction's clock of each new part, which needs the range of last seen of its rows."""
    spec = news[0].table.spec
    bounds: list[tuple[int, int] | None] = [None] * len(news)
    for page in _pages(olds, now):
        at = place(page.keys)
        seen = page.rows.view(np.uint32)[:, spec.seen_column]
        for number, bound in enumerate(bounds):
            mine = seen[(at == number) & page.there]
            if len(mine):
                ends = int(mine.min()), int(mine.max())
                bounds[number] = ends if bound is None else (min(bound[0], ends[0]), max(bound[1], ends[1]))
    for new, bound in zip(news, bounds, strict=True):
        if bound is not None:
            begin_adoption(new.table.arrays, *bound)


def _put(new: NewPart, keys: Keys, rows: Floats, there: npt.NDArray[np.bool_]) -> None:
    """Write rows (n, W), of which `there` exist, and count these."""
    table, spec = new.table, new.table.spec
    rows = np.ascontiguousarray(rows)
    bits = rows.view(np.uint32)
    if spec.ttl_s:
        bits[~there, spec.seen_column] = 0
    if spec.evict != "none":
        bits[~there, spec.age_column] = 0
        columns = bits[there, spec.age_column : spec.seen_column + 2]
        stamp(spec, table.arrays, columns, counted=True)
        bits[there, spec.age_column : spec.extra_column] = columns[:, : spec.extra_column - spec.age_column]
    elif spec.ttl_s:
        resting.count_seen(table.arrays, table.rules, bits[there, spec.seen_column])
    table.filter.forget(keys[there])
    put_entries(new.sink, new.prefix, keys, rows)
    new.sink.write()


def _check_room(spec: TableSpec, rows: int) -> None:
    if rows > spec.slots_max:
        raise TableError(
            f"table {spec.name!r}: more than {spec.slots_max:,} rows for one owner, with rows_max "
            f"{spec.rows_max}: raise it"
        )

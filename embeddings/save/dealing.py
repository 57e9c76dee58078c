"""Rows of some tables dealt out to others: the tables of N owners become those of M.

A row keeps every bit but eviction's stamp, which counts the sightings of one owner: it gets a stamp by when
it was last seen, as rows do that were saved without one (`embeddings.core.adoption`).

A counter of admission does not say whose it is, since it holds no key. So a table gets the counters of all
tables that its keys come from: of one id the latest, and of more ids than a line has room for those that were
seen last. An id with a row has none. So an id may only be admitted early if it was admitted after an earlier
deal and its row has expired since, or late if its counter had no room.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from embeddings.core.adoption import adopt
from embeddings.table.table import Table
from embeddings.types import Floats, Keys

_WAYS = 8  # counters of a line; a counter: see `embeddings.kernels.admission`
_FINGERPRINT, _COUNT = np.uint64(40), np.uint64(32)
_COUNT_MASK, _TIME_MASK = np.uint64(0xFF), np.uint64(0xFFFFFFFF)


def deal(
    olds: Sequence[Table],
    news: Sequence[Table],
    now: int,
    place: Callable[[Keys], npt.NDArray[np.int32]],
    sources: Sequence[Sequence[int]],
) -> list[Keys]:
    """Fill empty tables with the rows of others that exist at `now`; the others stay as they are.

    Args:
        olds: tables with different keys, of one layout.
        news: tables of the same layout.
        place: for keys (n,), which of `news` gets each, (n,).
        sources: for each of `news`, which of `olds` its keys may come from.

    Returns:
        For each of `news` the keys of its rows that had expired or were evicted, and not removed yet.

    Raises:
        TableError: a table gets more rows than it has room for.
    """
    gone: list[list[Keys]] = [[] for _ in news]
    for old in olds:
        for keys, rows in old.pages(now):
            at = place(keys)
            for number, new in enumerate(news):
                mine = at == number
                new.load(keys[mine], _unstamped(new, rows[mine]))
        dead = np.setdiff1d(old.items()[0], old.items(now)[0], assume_unique=True)
        dead.sort()
        at = place(dead)
        for number, found in enumerate(gone):
            found.append(dead[at == number])
    for new, froms in zip(news, sources, strict=True):
        if new.spec.evict != "none":
            adopt(new.spec, new.arrays)
        fill_filter(new, [olds[number].arrays.filter_lines for number in froms])
        new.filter.forget(new.items()[0])
    return [np.concatenate(found) for found in gone]


def _unstamped(table: Table, rows: Floats) -> Floats:
    if table.spec.evict != "none":
        rows.view(np.uint32)[:, table.spec.age_column] = 0
    return rows


def fill_filter(table: Table, filters: Sequence[Keys]) -> None:
    """Give a table the counters of some filters (lines, 8). The caller forgets those of ids with a row."""
    if table.spec.admit_share < 1.0:  # one line, with the number of draws
        words = np.max(np.stack(filters), axis=0)
        table.filter.restore_lines(np.arange(len(words), dtype=np.uint32), words)
    elif table.spec.admit_after > 1:
        table.filter.restore_lines(*_latest(filters))


def _latest(filters: Sequence[Keys]) -> tuple[npt.NDArray[np.uint32], Keys]:
    """The lines that hold counters, (m,), and their words, (m, 8)."""
    flat = [lines.reshape(-1) for lines in filters]
    used = [np.flatnonzero((words >> _COUNT) & _COUNT_MASK) for words in flat]
    line = np.concatenate([at // _WAYS for at in used])
    word = np.concatenate([words[at] for words, at in zip(flat, used, strict=True)])
    count = ((word >> _COUNT) & _COUNT_MASK).astype(np.int64)
    order = np.lexsort((-count, -_seen(word), word >> _FINGERPRINT, line))
    line, word = line[order], word[order]
    id_ = word >> _FINGERPRINT
    first = np.r_[True, (line[1:] != line[:-1]) | (id_[1:] != id_[:-1])][: len(line)]
    line, word = line[first], word[first]
    order = np.lexsort((word, -_seen(word), line))
    line, word = line[order], word[order]
    lines, begins, sizes = np.unique(line, return_index=True, return_counts=True)
    way = np.arange(len(line)) - np.repeat(begins, sizes)
    kept = way < _WAYS
    words = np.zeros((len(lines), _WAYS), dtype=np.uint64)
    words[np.repeat(np.arange(len(lines)), sizes)[kept], way[kept]] = word[kept]
    return lines.astype(np.uint32), words


def _seen(word: Keys) -> npt.NDArray[np.int64]:
    return (word & _TIME_MASK).astype(np.int64)

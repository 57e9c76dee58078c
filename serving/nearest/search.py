"""The search: which items the whole model should score for a context.

1. An estimate for every item: what the fast part says of its own entries and of their pairs with the context,
   but for columns with many entries (user x item), which are read for the best items only.
2. The whole model scores the best of these, and some drawn at random. A linear map from the estimate and the
   items' vectors to these scores is fitted, which gives a better estimate for every item.
3. The whole model scores the best by that estimate.

The method is that of adaptive retrieval for cross-encoders: anchors are scored exactly, the query's vector is
fitted to their scores, and the next anchors are the best by that vector (Yadav et al. 2024, "Adaptive
Retrieval and Scalable Indexing for k-NN Search with Cross-Encoders", arXiv 2405.03651, ADACUR). It needs
nothing of the model but its scores, so it holds for every network, error memory and ranking.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ground.distinct import distinct
from ground.rows import Rows
from learner.features.encoder import Request
from learner.features.spec import OF_TIME
from serving.nearest.entries import LOOKUPS, Entries, EntryColumn, Floats, Ints, means_of
from serving.nearest.kernels import add_gains, pool, project
from serving.replica.answering import LiveModel
from stream.records.types import Features

BIG = 4_096
"""A column with more entries is paired with the context for the `SHORT` best items only."""
SHORT = 1_024
FIRST = 0.5
"""Share of the budget that is scored before the fit. A second fit takes a fifth longer, for .2 % more."""
SEED = 20
RIDGE = 0.05

Score = Callable[[Ints], npt.NDArray[np.float64]]
"""The numbers by which items (n,) are to be ordered, of their places."""


class _Pair(NamedTuple):
    """One entry of the context, to be paired with the entries of one column of the items."""

    pair: int  # its number
    key: np.uint64
    first: bool  # whether the context's side comes first
    x: np.float32
    column: EntryColumn  # of the items


def search(
    live: LiveModel, entries: Entries, fit: Floats, time: float, context: Features, budget: int, score: Score
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """The items that the whole model has scored, and their numbers, (budget,) or fewer; in no order.

    Args:
        fit: (n,), 0 of items that may be found, -inf of all others.
        time, context: of the request.
        budget: how many to score.
    """
    here = np.flatnonzero(fit == 0.0)
    if len(here) <= budget:
        return here, score(here)
    estimate = fit + entries.base[: len(fit)]
    large = _add_small(live, entries, time, context, estimate)
    chance = np.random.default_rng(SEED).integers(0, len(here), int(budget * FIRST / 2))
    drawn = distinct(here[chance])
    short = np.union1d(_best(estimate, SHORT), drawn)
    for pair in large:
        _add_large(live, entries, time, pair, short, estimate)
    scored = np.union1d(_best(estimate, int(budget * FIRST) - len(drawn)), drawn)
    values = score(scored)
    guess = _fitted(entries, estimate, scored, values)
    guess[scored] = -np.inf
    more = _best(guess, budget - len(scored))
    more = more[guess[more] > -np.inf]
    return np.concatenate([scored, more]), np.concatenate([values, score(more)])


def own_rows(live: LiveModel, request: Request) -> Rows:
    """The rows of items, the candidates of a request without a context. What comes from the request's time
    is the context's.

    Raises:
        FeatureError: a value is not of its feature's kind.
    """
    encoder = live.model.encoder
    rows = encoder.encode([request]).rows
    timed = [
        c
        for c, name in enumerate(encoder.names)
        if encoder.specs[c].kind in (*OF_TIME, "place") and not any(name in one for one in request.candidates)
    ]
    dropped = {c for column in timed for c in (column, *encoder.pair_columns(column))}
    keep = ~np.isin(rows.column, list(dropped))
    start = np.concatenate([[0], np.cumsum(keep)])[rows.start]
    return Rows(start, rows.column[keep], rows.key[keep], rows.x[keep])


def _add_small(
    live: LiveModel, entries: Entries, time: float, context: Features, estimate: Floats
) -> list[_Pair]:
    """Add to the estimates of all items what the pairs of their entries with the context say; returns the
    pairs with columns that are too large for that."""
    encoder = live.model.encoder
    row = encoder.encode([Request(time, context, [{}])]).rows
    number = {pair: p for p, pair in enumerate(encoder.pairs)}
    large: list[_Pair] = []
    small: list[_Pair] = []
    for a, column in entries.columns.items():
        (large if column.count > BIG else small).extend(
            _Pair(number[min(a, c), max(a, c)], key, c < a, x, column)
            for c, key, x in zip(row.column.tolist(), row.key, row.x, strict=True)
            if c != a and (min(a, c), max(a, c)) in number
        )
    keys = {pair.column.column: pair.column.keys for pair in small}  # once: they may become more
    gains = {column: np.zeros(len(theirs), dtype=np.float32) for column, theirs in keys.items()}
    found = _means(live, small, [keys[pair.column.column][1:] for pair in small], time)
    for pair, part in zip(small, found, strict=True):
        gains[pair.column.column][1:] += part
    for layer in entries.layers:
        if layer.column in gains:
            add_gains(layer.ids, layer.xs, gains[layer.column], estimate)
    return large


def _add_large(
    live: LiveModel, entries: Entries, time: float, pair: _Pair, items: Ints, estimate: Floats
) -> None:
    """Add to the estimates of some items what their pairs of one column with the context say."""
    for layer in entries.layers:
        if layer.column == pair.column.column:
            ids = layer.ids[items]
            (means,) = _means(live, [pair], [pair.column.key[ids]], time)
            estimate[items] += np.where(ids > 0, means * layer.xs[items], np.float32(0.0))


def _means(
    live: LiveModel, pairs: list[_Pair], keys: list[npt.NDArray[np.uint64]], time: float
) -> list[Floats]:
    """What the fast part says of the pairs of one entry of the context each with keys (n,) of a column."""
    encoder = live.model.encoder
    both, column = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int32)]
    for pair, theirs in zip(pairs, keys, strict=True):
        mine = np.array([pair.key])
        both.append(encoder.pair_keys(pair.pair, *((mine, theirs) if pair.first else (theirs, mine))))
        column.append(np.full(len(theirs), len(encoder.names) + pair.pair, dtype=np.int32))
    all_keys, all_columns = np.concatenate(both), np.concatenate(column)
    found = [np.zeros(0, dtype=np.float32)]
    for first in range(0, len(all_keys), LOOKUPS):
        part = slice(first, first + LOOKUPS)
        with live.lock:
            found.append(means_of(live.model, all_columns[part], all_keys[part], int(time))[0])
    parts = np.split(np.concatenate(found), np.cumsum([len(one) for one in keys])[:-1])
    return [part * pair.x for part, pair in zip(parts, pairs, strict=True)] if pairs else []


def _fitted(entries: Entries, estimate: Floats, scored: Ints, values: npt.NDArray[np.float64]) -> Floats:
    """A guess of the numbers of all items (n,): linear in the estimate and in the vectors of the entries."""
    columns = [column for column in entries.columns.values() if column.vectors.shape[1]]
    begins = np.cumsum([0, *(column.vectors.shape[1] for column in columns)])
    at = {column.column: int(begin) for column, begin in zip(columns, begins[:-1], strict=True)}
    width = int(begins[-1])
    layers = [layer for layer in entries.layers if layer.column in at]
    pooled = np.zeros((len(scored), width), dtype=np.float32)
    for layer in layers:
        vectors = entries.columns[layer.column].vectors
        pool(layer.ids[scored], layer.xs[scored], vectors, at[layer.column], pooled)
    spread = pooled.std(axis=0) + 1e-6
    known = np.c_[np.ones(len(scored)), estimate[scored], pooled / spread]
    penalty = np.full(2 + width, RIDGE * len(scored))
    penalty[:2] = 1e-6
    weight = np.linalg.solve(known.T @ known + np.diag(penalty), known.T @ values)
    slopes = (weight[2:] / spread).astype(np.float32)
    guess = np.float32(weight[0]) + np.float32(weight[1]) * estimate
    for layer in layers:
        column = entries.columns[layer.column]
        begin, dim = at[layer.column], column.vectors.shape[1]
        gains = project(column.vectors[: column.count], slopes[begin : begin + dim])
        add_gains(layer.ids, layer.xs, gains, guess)
    return guess


def _best(values: Floats, count: int) -> Ints:
    """The places of the `count` largest; fewer if there are fewer."""
    if count >= len(values):
        return np.arange(len(values))
    # several times as fast as argpartition
    least = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > least)
    return np.concatenate([above, np.flatnonzero(values == least)[: count - len(above)]])

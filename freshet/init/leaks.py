"""Finds columns that predict the label alone, measured on the sample: later outcomes or leaks, not features.

Each column is tested by itself. On half of the lines, each of its values (for numbers: buckets of equal size,
and the parts of a small tree) gets its share of ones, by which the other half is ranked; then the halves are
swapped. This gives an AUC of the column alone, which chance does not raise, and the share of the label's
entropy that it explains. What is known only afterwards also shows in other ways: it happens only together
with the label, it is empty where there is no label, it rises with the label's number, or its name says so.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freshet.init.column import Column
from freshet.init.labels.first import entropy
from freshet.init.labels.numbers import VALUE_WORDS
from learner.metrics import auc
from stream.files.times import Cell

LEAK_AUC, LEAK_SHARE = 0.99, 0.8
"""A column is a leak from this AUC on, if it also explains this share of the label's entropy."""
FILLED_AUC = 0.9  # of a column by whether it is filled
NAMED_AUC = 0.8  # of a column that is named like what is known only afterwards
FOLLOWS = 0.9  # rank correlation with the label's number
EXPECTED_MIN, EXPECTED_SHARE = 20.0, 0.05
"""A column happens only with the label if its lines have at most this share of the label 0 that chance would
put there, and chance would put so many."""
NOTHING_WORDS = {"", "0", "false", "no", "none"}  # cells of what did not happen, beside a zero
AFTER_WORDS = VALUE_WORDS | {
    "viewed", "finish", "finished", "complete", "completed", "refund", "refunded", "returned", "cancelled",
    "result", "final", "after", "afterwards",
}  # fmt: skip
OF_BEFORE = {"history", "past", "prior", "previous", "last", "avg", "mean"}
"""Words for values that are known in advance: the mean position of last week is a feature."""
CUTS_DEEP = 2  # of the tree: four parts
OF_EACH_MIN = 8  # lines of each label that a measurement needs
VALUES = 12
BUCKETS = (64, 7)
UNLESS = "an outcome or a leak, until you say otherwise"
_PRIOR = 0.5  # weight of the stream's own share of ones in a value's share, in lines


class Tells(NamedTuple):
    """How well one column predicts the label alone.

    Attributes:
        auc: 1: always right; 0.5: no information.
        share: of the label's entropy that it explains.
        filled_auc: the AUC of whether it is filled.
        order_auc: the AUC of the order of its numbers, up or down.
        only: says that it happens only where the label is 1; empty: it does not.
        named: the words of its name that say that it is known only afterwards.
    """

    auc: float
    share: float
    filled_auc: float
    order_auc: float
    only: str
    named: str

    @property
    def why(self) -> str:
        """The reason why it is no feature, with the measurement; empty: it may be one."""
        auc = f"one-column AUC {self.auc:.3f} on the sample"
        if self.filled_auc >= FILLED_AUC:
            auc = f"one-column AUC {self.filled_auc:.3f} on the sample"
            how = f"tells the label by itself by being filled or empty ({auc})"
        elif self.auc >= LEAK_AUC and self.share >= LEAK_SHARE:
            how = f"tells the label by itself ({auc}, {self.share:.0%} of its entropy)"
        elif self.only:
            how = f"tells the label by itself where it is not zero or empty: {self.only} ({auc})"
        elif self.named and self.order_auc >= NAMED_AUC:
            # not by each value: that of an item, such as a film's duration, tells as much as the item
            auc = f"one-column AUC {self.order_auc:.3f} on the sample"
            how = f"tells much of the label ({auc}) and is named for what comes later ({self.named})"
        else:
            return ""
        return f"{how}: {UNLESS}"


def why_leak(
    column: Column, labels: Sequence[float | None], names: bool = False, of: Column | None = None
) -> str:
    """Why a column is an outcome or a leak; empty: it may be a feature.

    Args:
        labels: of the sample's lines.
        names: its values are names, as for `measure`.
        of: the column of the labels, if they are of all lines that have one.
    """
    tells = measure(column, labels, names)
    why = "" if tells is None else tells.why
    if not why and of is not None:
        why = _empty_with(column, labels) or _rises_with(column, of, labels)
    return why


def _empty_with(column: Column, labels: Sequence[float | None]) -> str:
    """Says that a column is empty just where the label is; empty: it is not."""
    none = [label is None for label in labels]
    lines = sum(none)
    if min(lines, len(none) - lines) < OF_EACH_MIN or none != list(map(column.is_missing, column.cells)):
        return ""
    return f"is empty on the {lines:,} lines without a label, and on no other: {UNLESS}"


def _rises_with(column: Column, of: Column, labels: Sequence[float | None]) -> str:
    """Says that a column's numbers rise or fall with the label's numbers; empty: they do not."""
    if column.numbers is None or of.numbers is None or len(set(of.numbers)) < 3:
        return ""
    cells = zip(column.cells, of.cells, labels, strict=True)
    pairs = [(column.number_of(cell), of.number_of(its)) for cell, its, label in cells if label is not None]
    known = np.array([pair for pair in pairs if None not in pair], dtype=np.float64)
    if len(known) < 2 * OF_EACH_MIN:
        return ""
    ranks = [_ranks(known[:, at]) for at in (0, 1)]
    if min(rank.std() for rank in ranks) == 0.0:
        return ""
    found = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    if abs(found) < FOLLOWS:
        return ""
    return f"{'rises' if found > 0 else 'falls'} with {of.name} (rank correlation {found:.2f}): {UNLESS}"


def _ranks(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The rank of each number; equal ones have their mean rank."""
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    return ranks


def measure(column: Column, labels: Sequence[float | None], names: bool = False) -> Tells | None:
    """Measure how well a column predicts the label alone; None: there are too few lines.

    Args:
        names: the values are names. On a sample each of many users may always do the same, so all but the
            `VALUES` most frequent values count as one.
    """
    known = [i for i, label in enumerate(labels) if label is not None]
    y = np.array([labels[i] for i in known], dtype=np.float64)
    ones = int(y.sum())
    if min(ones, len(y) - ones) < OF_EACH_MIN:
        return None
    cells = [column.cells[i] for i in known]
    missing = [column.is_missing(cell) for cell in cells]
    filled = 0.5
    if any(missing) and not all(missing):
        filled = _auc(_predicted([not gone for gone in missing], y), y)
    best, share, order = 0.5, 0.0, 0.5
    found = [_predicted(values, y) for values in _ways(column, cells, missing, names)]
    if column.numbers is not None:
        numbers = np.array([math.nan if n is None else n for n in map(column.number_of, cells)])
        found.append(_predicted_by_cuts(numbers, y))
        order = _auc(np.where(np.isnan(numbers), -np.inf, numbers), y)
        order = max(order, 1.0 - order)
    for p in found:
        loss = -float(np.mean(np.where(y > 0.5, np.log(p), np.log1p(-p))))
        explained = 1.0 - loss / entropy(ones / len(y))
        if explained > share:
            best, share = _auc(p, y), explained
    if not names:
        best = max(best, order)  # it needs no fit, so it has no mistakes at the edges of parts
    named = ", ".join(sorted(column.words & AFTER_WORDS)) if not column.words & OF_BEFORE else ""
    return Tells(best, share, filled, order, _only_with(column, cells, missing, y), named)


def _only_with(
    column: Column, cells: Sequence[Cell], missing: Sequence[bool], y: npt.NDArray[np.float64]
) -> str:
    """Says that a column holds something only where the label is 1; empty: it does not, or by chance."""
    there = np.array([
        not gone and str(cell).strip().lower() not in NOTHING_WORDS and column.number_of(cell) != 0.0
        for cell, gone in zip(cells, missing, strict=True)
    ])  # fmt: skip
    lines = int(there.sum())
    expected = lines * (1.0 - float(y.mean()))
    without = int((y[there] < 0.5).sum())
    if lines == len(y) or expected < EXPECTED_MIN or without > EXPECTED_SHARE * expected:
        return ""
    return f"of these {lines:,} lines {without:,} have label 0, where chance has {expected:.0f}"


def _ways(
    column: Column, cells: Sequence[Cell], missing: Sequence[bool], names: bool
) -> Iterator[list[Hashable]]:
    """The group of each cell: its value, or for many different numbers a bucket with equally many lines."""
    if names or column.numbers is None:
        often = {value for value, _ in column.counts.most_common(VALUES)}
        texts = ["" if gone else str(cell) for cell, gone in zip(cells, missing, strict=True)]
        yield [text if text in often or not text else None for text in texts]
    elif len(column.counts) <= BUCKETS[0]:
        yield ["" if gone else str(cell) for cell, gone in zip(cells, missing, strict=True)]
    if column.numbers is None:
        return
    numbers = [column.number_of(cell) for cell in cells]
    for buckets in BUCKETS[names:]:
        if len(column.counts) > buckets:
            edges = np.unique(np.quantile(column.numbers, np.arange(1, buckets) / buckets))
            yield ["" if number is None else int(np.searchsorted(edges, number)) for number in numbers]


def _predicted(values: Sequence[Hashable], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The share of ones of each line's value among the lines of the other half."""
    p = np.zeros(len(y))
    for fit, other in _halves(len(y)):
        _share_out(p, values, y, fit, other)
    return np.clip(p, 1e-3, 1.0 - 1e-3)


def _predicted_by_cuts(
    numbers: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The same by the parts of a tree that is grown on the other half; NaN, of empty cells, is a part."""
    p = np.zeros(len(y))
    for fit, other in _halves(len(y)):
        known = np.array(fit)[~np.isnan(numbers[fit])]
        edges = _edges(numbers[known], y[known], CUTS_DEEP)
        parts = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers)).tolist()
        _share_out(p, parts, y, fit, other)
    return np.clip(p, 1e-3, 1.0 - 1e-3)


def _halves(lines: int) -> Iterator[tuple[list[int], list[int]]]:
    """Two halves of the lines, each with the other; at random, because a stream may have a rhythm."""
    order = np.random.default_rng(0).permutation(lines).tolist()
    yield order[1::2], order[0::2]
    yield order[0::2], order[1::2]


def _share_out(
    p: npt.NDArray[np.float64],
    values: Sequence[Hashable],
    y: npt.NDArray[np.float64],
    fit: Sequence[int],
    other: Sequence[int],
) -> None:
    """Give each line of one half the share of ones of its value in the other one."""
    base = float(y.mean())
    count: dict[Hashable, float] = defaultdict(float)
    total: dict[Hashable, float] = defaultdict(float)
    for i in fit:
        count[values[i]] += 1.0
        total[values[i]] += y[i]
    for i in other:
        value = values[i]
        p[i] = (total[value] + _PRIOR * base) / (count[value] + _PRIOR)


def _edges(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], deep: int) -> list[float]:
    """The cuts of a tree, in order: each where the two sides differ most by their labels."""
    order = x.argsort(kind="stable")
    x, y = x[order], y[order]
    left = np.flatnonzero(x[1:] > x[:-1]) + 1  # lines left of each possible cut
    if not deep or not len(left):
        return []
    ones, right = np.cumsum(y)[left - 1], len(y) - left
    rest = y.sum() - ones
    at = int(left[np.argmin(ones * (left - ones) / left + rest * (right - rest) / right)])
    edge = float(x[at - 1] + (x[at] - x[at - 1]) / 2.0)
    return [*_edges(x[:at], y[:at], deep - 1), edge, *_edges(x[at:], y[at:], deep - 1)]


def _auc(p: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    found = auc(p, y)
    return 0.5 if found is None else found

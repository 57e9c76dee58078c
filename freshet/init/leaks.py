"""Finds columns that predict the label alone, measured on the sample: later outcomes or leaks, not features.

Each column is tested by itself. On half of the lines, each of its values (for numbers: buckets of equal size)
gets its share of ones, by which the other half is ranked; then the halves are swapped. This gives an AUC of
the column alone, which chance does not raise, and the share of the label's entropy that it explains.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freshet.init.column import Column
from freshet.init.labels.first import entropy
from learner.metrics import auc

LEAK_AUC, LEAK_SHARE = 0.99, 0.8
"""A column is a leak from this AUC on, if it also explains this share of the label's entropy."""
FILLED_AUC = 0.9  # of a column by whether it is filled
OF_EACH_MIN = 8  # lines of each label that a measurement needs
VALUES = 12
BUCKETS = (64, 7)
_PRIOR = 0.5  # weight of the stream's own share of ones in a value's share, in lines


class Tells(NamedTuple):
    """How well one column predicts the label alone.

    Attributes:
        auc: 1: always right; 0.5: no information.
        share: of the label's entropy that it explains.
        filled_auc: the AUC of whether it is filled.
    """

    auc: float
    share: float
    filled_auc: float

    @property
    def leaks(self) -> bool:
        """Whether it predicts better than any honest column."""
        return (self.auc >= LEAK_AUC and self.share >= LEAK_SHARE) or self.filled_auc >= FILLED_AUC

    @property
    def why(self) -> str:
        """The reason, with the measurement."""
        if self.filled_auc >= FILLED_AUC:
            how = f"by being filled or empty (one-column AUC {self.filled_auc:.3f} on the sample)"
        else:
            how = f"(one-column AUC {self.auc:.3f} on the sample, {self.share:.0%} of its entropy)"
        return f"tells the label by itself {how}: an outcome or a leak, until you say otherwise"


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
    found = Tells(0.5, 0.0, filled)
    for values in _ways(column, cells, missing, names):
        p = _predicted(values, y)
        loss = -float(np.mean(np.where(y > 0.5, np.log(p), np.log1p(-p))))
        share = 1.0 - loss / entropy(ones / len(y))
        if share > found.share:
            found = Tells(_auc(p, y), share, filled)
    return found


def _ways(
    column: Column, cells: Sequence[object], missing: Sequence[bool], names: bool
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
    base = float(y.mean())
    p = np.full(len(y), base)
    # random halves, because a stream may have a rhythm
    order = np.random.default_rng(0).permutation(len(y)).tolist()
    for half in (0, 1):
        count: dict[Hashable, float] = defaultdict(float)
        total: dict[Hashable, float] = defaultdict(float)
        for i in order[1 - half :: 2]:
            count[values[i]] += 1.0
            total[values[i]] += y[i]
        for i in order[half::2]:
            value = values[i]
            p[i] = (total[value] + _PRIOR * base) / (count[value] + _PRIOR)
    return np.clip(p, 1e-3, 1.0 - 1e-3)


def _auc(p: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    found = auc(p, y)
    return 0.5 if found is None else found

"""Columns that tell the label by themselves, measured on the sample: outcomes, or leaks, and no features.

Each column is asked on its own. Its values (numbers in buckets of equal size) get the share of labels that
they have on half of the lines, and are to order the other half by it; and the other way round. That gives a
one-column AUC which chance does not raise, and the share of the label's entropy that the column removes.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freshet.init.column import Column
from freshet.init.labels import entropy
from learner.metrics import auc

LEAK_AUC, LEAK_SHARE = 0.99, 0.8
"""What no honest column has: an AUC of at least the first, and the second of the label's entropy removed."""
FILLED_AUC = 0.9  # by being filled or empty
OF_EACH_MIN = 8  # lines of either label, below which nothing is measured
VALUES = 12
BUCKETS = (64, 7)
_PRIOR = 0.5  # lines that a value is taken to have had before the first, at the stream's own share


class Tells(NamedTuple):
    """How well one column tells the label.

    Attributes:
        auc: of 1 for what tells it always; 0.5: it tells nothing.
        share: of the label's entropy that it removes.
        filled_auc: by being filled alone.
    """

    auc: float
    share: float
    filled_auc: float

    @property
    def leaks(self) -> bool:
        """Whether no honest column tells as much."""
        return (self.auc >= LEAK_AUC and self.share >= LEAK_SHARE) or self.filled_auc >= FILLED_AUC

    @property
    def why(self) -> str:
        """The figure, as a reason."""
        if self.filled_auc >= FILLED_AUC:
            how = f"by being filled or empty (one-column AUC {self.filled_auc:.3f} on the sample)"
        else:
            how = f"(one-column AUC {self.auc:.3f} on the sample, {self.share:.0%} of its entropy)"
        return f"tells the label by itself {how}: an outcome or a leak, until you say otherwise"


def measure(column: Column, labels: Sequence[float | None], names: bool = False) -> Tells | None:
    """How well a column tells the labels of its lines; None: there are too few to say.

    Args:
        names: its values name something. Of many users each may always do the same on a sample: so beside
            the `VALUES` most frequent ones all others count as one.
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
    """What each cell counts as: its value; and where the numbers are many, buckets of as many lines each."""
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
    """The share of 1 that each line's value has among the lines of the other half."""
    base = float(y.mean())
    p = np.full(len(y), base)
    order = np.random.default_rng(0).permutation(len(y)).tolist()  # a stream may have a rhythm
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

"""What features gain: two configs learn the same examples, and their predictions are compared."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from freshet.config import Config
from freshet.progress import progress
from learner.features.columns import declared_by
from learner.metrics import auc, gauc
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from stream.files.sources import read_lines
from stream.records.types import Example

LINES_MAX = 6_000
SCORED_MIN = 200  # candidates, without which nothing is said
BLOCKS = 20
SURE = 2.093
"""By how many standard errors it must be better: those of the means of `BLOCKS` parts of the time, so that
what happens together counts once. Student's t at 97.5 % for 19 degrees of freedom."""

_CHUNK = 256
T = TypeVar("T", bound=np.generic)


class Gain(NamedTuple):
    """What one config gains over another, over the last half of some examples."""

    auc: float  # the difference
    errors: float  # by how many standard errors the log loss is lower; with a place: the AUC is higher
    reached: float  # the other's AUC: up to .5 it has only repaired what the first got wrong
    within: str = ""  # among which candidates it is the AUC, if not among all

    @property
    def sure(self) -> bool:
        """Whether it is a gain, beyond chance."""
        return self.errors >= SURE and self.auc > 0.0 and self.reached > 0.5

    def __str__(self) -> str:
        return f"{self.auc:+.4f} AUC{self.within} on the sample{'' if self.sure else ', no more than chance'}"


class PlacedPredictions(NamedTuple):
    """What is said of each candidate, (n,)."""

    p: npt.NDArray[np.float64]  # before it was learned
    y: npt.NDArray[np.float64]
    place: npt.NDArray[np.uint64]  # where it was shown

    def half(self) -> "PlacedPredictions":
        """The last half."""
        late = slice(len(self.y) // 2, None)
        return PlacedPredictions(self.p[late], self.y[late], self.place[late])


class Gains:
    """Compares configs on some examples, which a model learns with each; one that was compared before is not
    learned again.

    Args:
        read: the examples as a config reads them; in any order.
        deep: the model's deep part; "none": the fast part learns alone.
    """

    def __init__(self, read: Callable[[Config], Iterable[Example]], deep: str = "none") -> None:
        self._read = read
        self._deep = deep
        self._done: dict[bytes, PlacedPredictions] = {}

    def of(self, without: Config, with_: Config) -> Gain | None:
        """What one config gains over another; None: there are too few lines.

        Raises:
            FreshetError: the file does not fit a config.
        """
        before, after = self._predicted(without).half(), self._predicted(with_).half()
        y = after.y
        if len(y) < SCORED_MIN or len(before.y) != len(y):
            return None
        if any(spec.kind == "place" for spec in with_.features.values()):
            return _within_places(before, after)
        one, other = auc(before.p, y), auc(after.p, y)
        if one is None or other is None:
            return None
        lower = _losses(before.p, y) - _losses(after.p, y)
        return Gain(other - one, _errors([float(part.mean()) for part in _blocks(lower)]), other)

    def _predicted(self, config: Config) -> PlacedPredictions:
        key = msgspec.json.encode([config.features, config.data])
        if key not in self._done:
            self._done[key] = _predicted(self._read(config), config, self._deep)
        return self._done[key]


def _within_places(before: PlacedPredictions, after: PlacedPredictions) -> Gain | None:
    """What one gains over another where a place is learned beside the rest.

    A prediction leaves the place out, and what was shown on top was clicked for that. So only candidates at
    the same place are compared.
    """
    one, other = (gauc(found.p, found.y, found.place) for found in (before, after))
    if one is None or other is None:
        return None
    parts = zip(*(_blocks(array) for array in (before.p, after.p, after.y, after.place)), strict=True)
    more = [
        a - b
        for was, now, y, place in parts
        if (a := gauc(now, y, place)) is not None and (b := gauc(was, y, place)) is not None
    ]
    return Gain(other - one, _errors(more), other, " among candidates at the same place")


def _blocks(values: npt.NDArray[T]) -> list[npt.NDArray[T]]:
    return np.array_split(values, BLOCKS)


def _errors(found: Sequence[float]) -> float:
    """The mean of numbers over its standard error; 0 where they do not differ, or are too few."""
    if len(found) < BLOCKS // 2:
        return 0.0
    error = float(np.std(found, ddof=1)) / math.sqrt(len(found))
    return float(np.mean(found)) / error if error > 0.0 else 0.0


def first_lines(path: Path) -> Callable[[Config], Iterator[Example]]:
    """Reads the first lines of a file as a config says."""
    return lambda config: islice(read_lines(path, config.data, declared_by(config.features)), LINES_MAX)


def _predicted(found: Iterable[Example], config: Config, deep: str) -> PlacedPredictions:
    examples = sorted(found, key=lambda example: example.time)
    trainer = Trainer(Model(config.features, LearnerSettings(deep=deep), learning=True))
    done = []
    with progress("trying features", len(examples)) as advance:
        for at in range(0, len(examples), _CHUNK):
            done += trainer.learn(examples[at : at + _CHUNK])
            advance(len(examples[at : at + _CHUNK]))
    done += trainer.finish()
    if not done:
        return PlacedPredictions(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.uint64))
    place = [p for e in examples for p in (e.place if e.place is not None else range(len(e.labels)))]
    p, y = (np.concatenate([getattr(group, name) for group in done]) for name in ("p", "y"))
    return PlacedPredictions(p, y, np.array(place, dtype=np.uint64))


def _losses(p: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    p = np.clip(p, 1e-9, 1.0 - 1e-9)
    losses: npt.NDArray[np.float64] = -(y * np.log(p) + (1.0 - y) * np.log1p(-p))
    return losses

"""What features gain: two configs learn the beginning of a file, and their predictions are compared."""

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freshet.config import Config
from learner.features.columns import declared_by
from learner.metrics import auc
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from stream.files.sources import read_lines
from stream.records.types import Example

LINES_MAX = 6_000
SCORED_MIN = 200  # candidates, without which nothing is said
SURE = 2.0
"""By how many standard errors the log loss must have fallen."""

_CHUNK = 256


class Gain(NamedTuple):
    """What one config gains over another, over the last half of some examples."""

    auc: float  # the difference
    errors: float  # by how many standard errors the log loss is lower

    @property
    def sure(self) -> bool:
        """Whether it is a gain, beyond chance."""
        return self.errors >= SURE and self.auc > 0.0

    def __str__(self) -> str:
        return f"{self.auc:+.4f} AUC on the sample{'' if self.sure else ', no more than chance'}"


def gain_of(path: Path, without: Config, with_: Config) -> Gain | None:
    """Learn the first lines of a file with both configs, by the fast part; None: there are too few.

    Raises:
        FreshetError: the file does not fit a config.
    """
    before, y = _predicted(path, without)
    after, _ = _predicted(path, with_)
    half = len(y) // 2
    before, after, y = before[half:], after[half:], y[half:]
    if len(y) < SCORED_MIN or len(before) != len(after):
        return None
    one, other = auc(before, y), auc(after, y)
    if one is None or other is None:
        return None
    lower = _losses(before, y) - _losses(after, y)
    error = float(lower.std()) / math.sqrt(len(lower))
    return Gain(other - one, float(lower.mean()) / error if error > 0.0 else 0.0)


def _predicted(path: Path, config: Config) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Each candidate's prediction before it was learned, and its label."""
    lines = islice(read_lines(path, config.data, declared_by(config.features)), LINES_MAX)
    examples: Sequence[Example] = sorted(lines, key=lambda example: example.time)
    trainer = Trainer(Model(config.features, LearnerSettings(deep="none"), learning=True))
    done = [g for at in range(0, len(examples), _CHUNK) for g in trainer.learn(examples[at : at + _CHUNK])]
    done += trainer.finish()
    if not done:
        return np.zeros(0), np.zeros(0)
    return np.concatenate([group.p for group in done]), np.concatenate([group.y for group in done])


def _losses(p: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    p = np.clip(p, 1e-9, 1.0 - 1e-9)
    losses: npt.NDArray[np.float64] = -(y * np.log(p) + (1.0 - y) * np.log1p(-p))
    return losses

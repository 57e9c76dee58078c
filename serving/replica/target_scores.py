"""The predictions of all targets for one batch of candidates: joint, and given that their `of` happens."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from error_memory import ErrorMemory
from learner.features.encoder import Batch
from learner.memories import correct
from learner.model.model import Model, Predicted
from learner.model.scales import joint
from stream.records.targets import Targets
from stream.records.types import ServedTarget

Floats = npt.NDArray[np.float64]


class TargetScores(msgspec.Struct, frozen=True):
    """One target's predictions, by candidate: of an event that it happens, of a value what is expected.

    They are of all candidates: `buy` of `click` is the probability of a click and then of a purchase.
    """

    base: list[float]
    corrected: list[float]


class Conditional(NamedTuple):
    """One target's predictions of n candidates, given that its `of` happens."""

    predicted: Predicted
    base: Floats  # (n,)
    corrected: Floats  # (n,)
    z: Floats  # (n,), see `Remembered`


def predict_all(model: Model, memories: Sequence[ErrorMemory], batch: Batch) -> dict[str, Conditional]:
    """Predict and correct every target, by name; changes nothing."""
    return {name: predict_one(model, memories, batch, t) for t, name in enumerate(model.targets)}


def predict_one(model: Model, memories: Sequence[ErrorMemory], batch: Batch, target: int) -> Conditional:
    """Predict and correct one target."""
    predicted = model.predict(batch, target)
    return Conditional(predicted, *correct(memories[target], model, target, predicted))


def answered(
    targets: Targets, said: Mapping[str, Conditional], first: int, end: int
) -> tuple[dict[str, TargetScores], dict[str, ServedTarget]]:
    """Of candidates `first` to `end` (exclusive): the answer, and what the log holds of further targets."""
    base = joint(targets, {name: one.base[first:end] for name, one in said.items()})
    corrected = joint(targets, {name: one.corrected[first:end] for name, one in said.items()})
    return (
        {name: TargetScores(base[name].tolist(), corrected[name].tolist()) for name in targets},
        {
            name: ServedTarget(said[name].base[first:end].tolist(), said[name].corrected[first:end].tolist())
            for name in targets.names[1:]
        },
    )

"""The error memories beside a model, one for each target: of an event it corrects the probability, of a value
the mean in the target's units, from which the expectation follows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from error_memory import ErrorMemory, MemorySettings, make_memory
from ground.kernels.logistic import sigmoids
from learner.features.encoder import Batch
from learner.lessons import Lessons
from learner.model.model import Model
from learner.results import Predicted
from learner.train.trainer import Learnt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Remembered(NamedTuple):
    """Predictions of n rows, each (n,); of those that a memory observed, from before it learned them."""

    base: Floats  # of observed events of the stream as it is (thinned)
    corrected: Floats
    z: Floats  # of a value the corrected means, in its units; of an event the base's logits


def memories_of(settings: MemorySettings, model: Model) -> list[ErrorMemory]:
    """An empty memory for each target of a model, in their order."""
    values = model.scales.is_value.tolist()
    return [make_memory(settings, model.memory_columns, value=value) for value in values]


def set_priors(memories: Sequence[ErrorMemory], model: Model) -> None:
    """Let each memory begin with the priors that the model has learned for its target."""
    for t, memory in enumerate(memories):
        memory.set_priors(*model.memory_priors(t))


def expected(model: Model, target: int, z: Floats, predicted: Predicted) -> Floats:
    """What is expected, (n,), where the logits of a prediction, of a value its means, are z (n,) instead."""
    return model.scales.expected(z, predicted.outputs, target, model.fast.dense.values)


def correct(memory: ErrorMemory, model: Model, target: int, predicted: Predicted) -> Remembered:
    """A target's predictions, corrected; bit for bit as they are without evidence. Changes nothing."""
    z, p = predicted.z, predicted.p
    if not memory.evidence:
        return Remembered(p, p, z)
    rows = model.scores_of(predicted).rows
    if not model.scales.is_value[target]:
        return Remembered(p, memory.correct(rows, p), z)
    z = memory.correct(rows, z)
    return Remembered(p, expected(model, target, z, predicted), z)


def observe(
    memory: ErrorMemory,
    model: Model,
    target: int,
    predicted: Predicted,
    lessons: Lessons,
    position: int | Ints,
    batch: Batch,
    held: bool = False,
) -> Remembered:
    """Correct what was predicted of requests, request by request, and let the memory learn their labels.

    Args:
        lessons: of the n rows, all of this target, with labels as they came.
        position: stream position of each request, (R,), or one for all.
        batch: the requests that were predicted.
        held: nothing is learned or corrected.
    """
    value = bool(model.scales.is_value[target])
    # with subsampled negatives, the odds of the labels are higher than the served ones
    base = predicted.p if value else sigmoids(predicted.z + lessons.shift)
    if held:
        return Remembered(base, base, predicted.z)
    rows = model.scores_of(predicted).rows
    mean = base
    if value:
        lessons, mean = model.scales.in_units(lessons, predicted.outputs.spread), predicted.z
    found = memory.observe(
        rows, mean, lessons.y, position, batch.requests, batch.times, lessons.weight, lessons.before
    )
    if not value:
        return Remembered(base, found, predicted.z)
    return Remembered(base, expected(model, target, found, predicted), found)


def observe_learnt(
    memory: ErrorMemory, model: Model, target: int, learnt: Learnt, positions: Ints
) -> Remembered:
    """`observe` of what a learner has predicted and learned of one target.

    Args:
        positions: (R,), of the requests.
    """
    value = bool(model.scales.is_value[target])
    lessons, mean = Lessons.plain(learnt.y)._replace(weight=learnt.weight, before=learnt.before), learnt.p
    if value:
        lessons = model.scales.in_units(lessons._replace(target=learnt.target), learnt.spread)
        mean = learnt.z
    times = learnt.time[learnt.requests[:-1]]
    found = memory.observe(
        learnt.rows, mean, lessons.y, positions, learnt.requests, times, lessons.weight, lessons.before
    )
    if not value:
        return Remembered(learnt.p, found, learnt.z)
    raw, moved = (
        model.scales.expectations(mean, learnt.s2, learnt.spread, learnt.target) for mean in (learnt.z, found)
    )
    now = model.scales.factors(model.fast.dense.values)[target]
    factor = np.divide(learnt.p, raw, out=np.full(len(raw), now), where=raw > 0.0)  # as it was then
    return Remembered(learnt.p, np.where(found == learnt.z, learnt.p, moved * factor), found)

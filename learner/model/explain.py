"""Explains base predictions: the contribution of each feature, the uncertainty, and the unknown ids."""

import copy
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ground.keys import key_of
from ground.rows import Rows
from learner.features.content import words_of
from learner.features.encoder import Batch, Requestlike
from learner.model.model import Model, Predicted, Scores


class BaseExplained(NamedTuple):
    """The parts of n base logits; of a value of its means, in the target's units.

    `scores.z` = (bias + Σ `weights`) · `share` + `deep` + `rate`, to the rounding of float32.
    """

    scores: Scores
    bias: float
    weights: list[dict[str, float]]  # n, by column: a feature, a pair `a*b`, a count `a count`
    share: npt.NDArray[np.float64]  # (n,), by which the fast part's variance shrinks its logit, 0 to 1,
    # times the share of the model beside the running rate (`Trust`); of a value the latter alone
    deep: npt.NDArray[np.float64]  # (n,), the deep part's residual
    unknown: list[dict[str, list[int | float | str]]]  # n, by feature: ids without a row
    rate: float  # the running rate's part; 0 while the model is trusted wholly


class Reading(NamedTuple):
    """A model's prediction of a batch, copied, since the model may change meanwhile."""

    predicted: Predicted
    scores: Scores
    bias: float
    trust: tuple[float, float]  # (share of the model, logit of the running rate)
    target: int = 0


def read(model: Model, batch: Batch, target: int = 0) -> Reading:
    """Copy the prediction of a batch for `explain`."""
    predicted = model.predict(batch, target)
    kept = copy.deepcopy(predicted)
    bias = float(model.fast.dense.bias[target, 0])
    return Reading(kept, model.scores_of(kept), bias, model.trust.parts(target), target)


def explain(model: Model, request: Requestlike, batch: Batch, reading: Reading) -> BaseExplained:
    """Split the prediction of a request into its parts.

    Args:
        model: only its schema and its targets are used.
        request: the one request that `batch` was encoded from, of n candidates.
        reading: the result of `read`.
    """
    fast, scales = model.fast, model.scales
    targets = np.full(len(reading.scores.z), reading.target)
    rows, outputs, scores = reading.predicted.rows, reading.predicted.outputs, reading.scores
    trusted, rate = reading.trust
    rate *= 1.0 - trusted
    firsts, speeds_of = fast.columns.first_tau, fast.speeds_of(0)  # what a target does not have is 0
    columns = [(name, firsts[c], speeds_of[c]) for c, name in enumerate(columns_of(model))]
    weights = []
    for r in range(len(scores.z)):
        said = outputs.means[r]
        here = set(rows.column[rows.start[r] : rows.start[r + 1]].tolist())
        mine = {
            name: float(said[first : first + speeds].sum())
            for c, (name, first, speeds) in enumerate(columns)
            if c in here and speeds
        }
        counts = zip(count_names(model), said[fast.columns.counts_at :], outputs.buckets[r], strict=False)
        mine |= {name: float(mean) for name, mean, bucket in counts if bucket >= 0}
        weights.append(mine)
    return BaseExplained(
        scores=scores,
        bias=reading.bias,
        weights=weights,
        share=scales.logits(outputs._replace(logit=np.ones(len(scores.z))), targets) * trusted,
        deep=scores.z - rate - scales.logits(outputs, targets) * trusted,
        unknown=_unknown(model, request, rows, reading.predicted.inputs.place),
        rate=rate,
    )


def columns_of(model: Model) -> list[str]:
    """Names of the columns that have tables: features, then pairs."""
    return model.encoder.column_names()


def count_names(model: Model) -> list[str]:
    """Names of the count columns."""
    encoder = model.encoder
    return [f"{name} count" for name, spec in zip(encoder.names, encoder.specs, strict=True) if spec.counted]


def memory_names(model: Model) -> list[str]:
    """Names of an error memory's columns: with tables, counts, with tables again (second speed)."""
    names = columns_of(model)
    return [*names, *count_names(model), *(f"{name} lately" for name in names)]


def _unknown(
    model: Model, request: Requestlike, rows: Rows, place: npt.NDArray[np.int64]
) -> list[dict[str, list[int | float | str]]]:
    encoder = model.encoder
    found: list[dict[str, list[int | float | str]]] = []
    for r, candidate in enumerate(request.candidates):
        entries = slice(rows.start[r], rows.start[r + 1])
        missing: dict[int, set[int]] = {}
        for column, key, at in zip(rows.column[entries], rows.key[entries], place[entries], strict=True):
            if at < 0 and column < len(encoder.names):
                missing.setdefault(int(column), set()).add(int(key))
        mine: dict[str, list[int | float | str]] = {}
        for column, keys in missing.items():
            name, kind = encoder.names[column], encoder.kinds[encoder.feature_of[column]]
            value = candidate.get(name, request.context.get(name))
            if kind == "text" and isinstance(value, str):
                mine[name] = [word for word in dict.fromkeys(words_of(value)) if key_of(word) in keys]
            elif kind in ("vector", "geo", "calendar", "place"):
                mine[name] = []  # a coordinate, code, cell or hour, with no name of its own
            elif isinstance(value, list):
                typed = model.encoder.as_declared(column, [value])[0]
                mine[name] = [one for one in typed if key_of(one) in keys]
            elif value is not None:
                mine[name] = [value]
            else:
                mine[name] = []
        found.append(mine)
    return found

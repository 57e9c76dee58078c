"""Trivial predictors of the same requests, which a model must beat to be of use.

- `rate`: the share of clicks so far.
- `rate of F`, for the first id features: the share of clicks so far among the candidates with the same id of
  feature F, drawn towards the rate as if `PRIOR` candidates had had it: of the user, of the item.

They are progressive like the model: a request is predicted whole from the requests before it.
"""

import numpy as np
import numpy.typing as npt

from freshet.files import Json
from freshet.replay.growing import ROWS_MAX, Growing, Number, partition, scratch
from freshet.replay.passes import PARTS_MAX, request_parts
from freshet.replay.scored import ScoredCandidates, Summaries
from learner.exposure import column_keys, tells_apart
from learner.features.labelled import Labelled
from learner.model.model import Model

Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

FEATURES_MAX = 4
"""Id features, in the order of the config, of which there is a baseline: 8 bytes a candidate each."""
PRIOR = 10.0


class Baselines:
    """Collects labels and ids, on disk if they are many; the predictions are made at the end.

    Args:
        model: whose features are used.
        rows_max: how many candidates are kept in memory, and sorted at once.
    """

    def __init__(self, model: Model, rows_max: int = ROWS_MAX) -> None:
        ids = [name for name, spec in model.features.items() if spec.kind == "id"][:FEATURES_MAX]
        self._columns = {name: model.encoder.names.index(name) for name in ids}
        self._rows_max = rows_max
        self._change = Growing(np.float64, rows_max)  # of the clicks, by weight
        self._weight = Growing(np.float64, rows_max)  # 0 of what is no example of its own
        self._request = Growing(np.int64, rows_max)
        self._scored = Growing(np.bool_, rows_max)
        self._keys = {name: Growing(np.uint64, rows_max) for name in ids}
        self._requests = 0

    def add(self, labelled: Labelled) -> None:
        """Append requests."""
        rows, per_request = labelled.batch.rows, np.diff(labelled.batch.requests)
        for name, column in self._columns.items():
            self._keys[name].add(column_keys(rows, column))
        lessons = labelled.lessons
        fresh = np.isnan(lessons.before)
        self._weight.add(np.where(fresh, lessons.weight, 0.0))
        self._change.add(lessons.weight * (lessons.y - np.where(fresh, 0.0, lessons.before)))
        self._request.add(np.repeat(np.arange(labelled.requests) + self._requests, per_request))
        self._scored.add(np.repeat(~labelled.late, per_request) & ~lessons.quiet)
        self._requests += labelled.requests

    def predictions(self) -> dict[str, Floats]:
        """By name, of the candidates that are scored, (n,)."""
        if not self._request.rows:
            return {}
        y, request, scored = self._change.array(), self._request.array(), self._scored.array()
        weight = self._weight.array()
        if len(y) <= self._rows_max:
            rate = running_rate(y, request, weight)
            found = {"rate": rate[scored]}
            for name, column in self._keys.items():
                found[f"rate of {name}"] = rate_by_key(column.array(), y, request, rate, weight)[scored]
            return found
        rate = scratch(np.float64, len(y))
        candidates = clicks = 0.0
        for part in request_parts(request, 0, len(y), self._rows_max):
            rate[part] = running_rate(y[part], request[part], weight[part], candidates, clicks)
            candidates += weight[part].sum()
            clicks += y[part].sum()
        found = {"rate": self._kept(rate, scored)}
        for name, column in self._keys.items():
            keys, by_key = column.array(), scratch(np.float64, len(y))
            for rows in partition(keys, min(-(-len(y) // self._rows_max), PARTS_MAX)):
                by_key[rows] = rate_by_key(keys[rows], y[rows], request[rows], rate[rows], weight[rows])
            found[f"rate of {name}"] = self._kept(by_key, scored)
        return found

    def exposure(self, metrics: Summaries) -> Json:
        """Exposure of the id feature that tells candidates of a request apart; {}: none does."""
        scored, request = self._scored.array(), self._request.array()
        for name, column in self._keys.items():
            keys = column.array()
            for part in request_parts(request, 0, len(keys), self._rows_max):
                if tells_apart(keys[part], request[part]):
                    return {name: metrics.exposure(self._kept(keys, scored))}
        return {}

    def report(self, scored: ScoredCandidates, top: int, window: int) -> Json:
        """Metrics of the model and of the baselines, for the report on one of several targets."""
        if not scored.count:
            return {"candidates": 0}
        metrics = Summaries.of_target(scored, top)
        return {"candidates": scored.count, **metrics.report(window), "baselines": self.summaries(metrics)}

    def summaries(self, metrics: Summaries) -> Json:
        """Metrics of each baseline over the scored candidates, overall and over the last half."""
        found: Json = {}
        for name, p in self.predictions().items():
            assert len(p) == len(metrics.candidates.y), "the model scores what the baselines score"
            found[name] = metrics.halves(p, metrics.density_of_mean if name == "rate" else None)
        return found

    def _kept(self, p: npt.NDArray[Number], scored: npt.NDArray[np.bool_]) -> npt.NDArray[Number]:
        kept: Growing[Number] = Growing(p.dtype.type, self._rows_max)
        for first in range(0, len(p), self._rows_max):
            part = slice(first, first + self._rows_max)
            kept.add(p[part][scored[part]])
        return kept.array()


def running_rate(
    y: Floats, request: npt.NDArray[np.int64], weight: Floats, candidates: float = 0.0, clicks: float = 0.0
) -> Floats:
    """The share of clicks before each candidate's request, (n,), from one half.

    Args:
        y: (n,), labels times weights; of a correction the change of the label.
        request: (n,), the number of each candidate's request, ascending.
        weight: (n,); 0 of what is no example of its own.
        candidates, clicks: how many came before the first of them, by weight.
    """
    first = np.searchsorted(request, request)
    clicked = np.r_[0.0, np.cumsum(y)] + clicks
    shown = np.r_[0.0, np.cumsum(weight)] + candidates
    return (clicked[first] + 0.5) / (shown[first] + 1.0)


def rate_by_key(
    keys: Keys, y: Floats, request: npt.NDArray[np.int64], rate: Floats, weight: Floats
) -> Floats:
    """The share of clicks of the same key before each candidate's request, drawn towards `rate` (n,).

    Arguments are as for `running_rate`.

    >>> y, request = np.array([1.0, 0.0, 1.0]), np.array([0, 1, 2])
    >>> rate_by_key(np.array([7, 7, 7], np.uint64), y, request, np.full(3, 0.5), np.ones(3)).round(3).tolist()
    [0.5, 0.545, 0.5]
    """
    order = np.lexsort((request, keys))
    k, r = keys[order], request[order]
    n = len(k)
    new_key = np.r_[True, k[1:] != k[:-1]]
    new_cell = new_key | np.r_[True, r[1:] != r[:-1]]  # candidates of one request with one key
    at = np.arange(n)
    key_first = np.maximum.accumulate(np.where(new_key, at, 0))
    cell_first = np.maximum.accumulate(np.where(new_cell, at, 0))
    clicks = np.r_[0.0, np.cumsum(y[order])]
    shown = np.r_[0.0, np.cumsum(weight[order])]
    seen = shown[cell_first] - shown[key_first]
    clicked = clicks[cell_first] - clicks[key_first]
    found = np.empty(n)
    found[order] = (clicked + PRIOR * rate[order]) / (seen + PRIOR)
    return found

"""Trivial predictors of the same requests, which a model must beat to be of use.

- `rate`: the share of clicks so far.
- `rate of F`, for the first id features: the share of clicks so far among the candidates with the same id of
  feature F, drawn towards the rate as if `PRIOR` candidates had had it: of the user, of the item.

They are progressive like the model: a request is predicted whole from the requests before it.
"""

import numpy as np
import numpy.typing as npt

from freshet.files import Json
from freshet.replay.scored import Candidates
from learner.features.labelled import Labelled
from learner.metrics import summarize
from learner.model.model import Model

Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

FEATURES_MAX = 4
"""Id features, in the order of the config, of which there is a baseline: 8 bytes a candidate each."""
PRIOR = 10.0


class Baselines:
    """Collects labels and ids; the predictions are made at the end.

    Args:
        model: whose features are used.
    """

    def __init__(self, model: Model) -> None:
        ids = [name for name, spec in model.features.items() if spec.kind == "id"][:FEATURES_MAX]
        self._columns = {name: model.encoder.names.index(name) for name in ids}
        self._y: list[Floats] = []
        self._request: list[npt.NDArray[np.int64]] = []
        self._scored: list[npt.NDArray[np.bool_]] = []
        self._keys: dict[str, list[Keys]] = {name: [] for name in ids}
        self._requests = 0

    def add(self, labelled: Labelled) -> None:
        """Append requests."""
        rows, per_request = labelled.batch.rows, np.diff(labelled.batch.requests)
        n = len(labelled.y)
        row = np.repeat(np.arange(n), np.diff(rows.start))
        for name, column in self._columns.items():
            keys = np.zeros(n, dtype=np.uint64)
            mine = rows.column == column
            keys[row[mine]] = rows.key[mine]
            self._keys[name].append(keys)
        self._y.append(labelled.y)
        self._request.append(np.repeat(np.arange(labelled.requests) + self._requests, per_request))
        self._scored.append(np.repeat(~labelled.late, per_request))
        self._requests += labelled.requests

    def predictions(self) -> dict[str, Floats]:
        """By name, of the candidates that are scored, (n,)."""
        if not self._y:
            return {}
        y, request = np.concatenate(self._y), np.concatenate(self._request)
        scored = np.concatenate(self._scored)
        rate = running_rate(y, request)
        found = {"rate": rate}
        for name, parts in self._keys.items():
            found[f"rate of {name}"] = rate_by_key(np.concatenate(parts), y, request, rate)
        return {name: p[scored] for name, p in found.items()}

    def summaries(self, candidates: Candidates, top: int) -> Json:
        """Metrics of each baseline over the scored candidates, overall and over the last half."""
        found: Json = {}
        half = len(candidates.y) // 2
        for name, p in self.predictions().items():
            assert len(p) == len(candidates.y), "the model scores what the baselines score"
            found[name] = {
                span: summarize(
                    p[part], candidates.y[part], candidates.user[part], candidates.request[part], top
                )
                for span, part in (("overall", slice(None)), ("last_half", slice(half, None)))
            }
        return found


def running_rate(y: Floats, request: npt.NDArray[np.int64]) -> Floats:
    """The share of clicks before each candidate's request, (n,), from one half.

    Args:
        y: (n,), labels.
        request: (n,), the number of each candidate's request, ascending.
    """
    first = np.searchsorted(request, request)
    clicks = np.r_[0.0, np.cumsum(y)]
    return (clicks[first] + 0.5) / (first + 1.0)


def rate_by_key(keys: Keys, y: Floats, request: npt.NDArray[np.int64], rate: Floats) -> Floats:
    """The share of clicks of the same key before each candidate's request, drawn towards `rate` (n,).

    >>> y, request = np.array([1.0, 0.0, 1.0]), np.array([0, 1, 2])
    >>> rate_by_key(np.array([7, 7, 7], np.uint64), y, request, np.full(3, 0.5)).round(3).tolist()
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
    seen = cell_first - key_first
    clicked = clicks[cell_first] - clicks[key_first]
    found = np.empty(n)
    found[order] = (clicked + PRIOR * rate[order]) / (seen + PRIOR)
    return found

"""`freshet.river.Classifier` and `Regressor`: the model with River's contract.

    from freshet.river import Classifier
    from river import datasets, evaluate, metrics

    evaluate.progressive_val_score(datasets.Phishing(), Classifier(), metrics.ROCAUC())

It needs River: `pip install 'freshet[river]'`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

try:
    from river import base
except ImportError as error:
    raise ImportError(
        f"freshet.river needs River, which cannot be imported ({error}): pip install 'freshet[river]'"
    ) from None

from freshet.errors import ModelError
from freshet.python.infer import features_by_type
from freshet.python.model import Features, OnlineModel
from freshet.python.rows import plain
from learner.features.spec import FeatureSpec
from stream.limits import VALUES_MAX

REST = "what came later"
"""Name of the feature that holds what the first example did not have, as a list of ids."""

_NO_TIME = "\0time"


class _Frame(Protocol):
    """What is used of a frame of pandas."""

    def __init__(self, data: Mapping[int, list[float]], index: object) -> None: ...
    def __getitem__(self, name: int) -> object: ...
    @property
    def index(self) -> object: ...
    def to_dict(self, orient: str) -> list[dict[object, object]]: ...


class _Series(Protocol):
    def tolist(self) -> list[object]: ...


class _RiverRows:
    """The model, and its reading of examples."""

    features: Features | None
    learner: dict[str, object] | None
    time: str | None
    _model: OnlineModel | None
    _targets: Mapping[str, Mapping[str, object]] | None = None

    def _start(self) -> None:
        self._model = None
        if self.features is not None:
            self._begin(self.features)
        else:
            OnlineModel({"any": FeatureSpec()}, learner=self.learner)  # refuses wrong settings now

    def _learn(self, xs: list[dict[object, object]], ys: list[object]) -> None:
        for y in ys:
            self._check(y)
        if self._model is None and xs:
            found = features_by_type({str(n): v for n, v in x.items()} for x in xs[:1])
            found.pop(self.time or _NO_TIME, None)
            self._begin({**found, REST: FeatureSpec(kind="ids", pairs=False)})
        if self._model is not None:
            self._model.learn([self._row(x) for x in xs], ys)

    def _check(self, y: object) -> None:
        """Raise a `ModelError` if it is no label."""
        raise NotImplementedError

    def _predict(self, xs: list[dict[object, object]], unknown: float) -> list[float]:
        """Predictions; `unknown` of each before anything was learned."""
        if self._model is None:
            return [unknown] * len(xs)
        found: list[float] = self._model.predict([self._row(x) for x in xs]).tolist()
        return found

    def _begin(self, features: Features) -> None:
        self._model = OnlineModel(
            features, learner=self.learner, time=self.time or _NO_TIME, targets=self._targets
        )

    def _row(self, x: dict[object, object]) -> dict[str, object]:
        """An example as a row of the model."""
        assert self._model is not None
        row = {str(name): plain(value) for name, value in x.items()}
        if self.features is not None:
            return row
        schema = self._model.features or {}
        rest = []
        for name in [*row]:
            value = row[name]
            spec = schema.get(name)
            if name == self.time or value is None:
                continue
            if spec is None or (spec.kind == "number") != isinstance(value, int | float) or name == REST:
                del row[name]
                if isinstance(value, bool | str):
                    rest.append(f"{name}={value}")
                elif value:
                    rest.append(name)
            elif isinstance(value, bool):
                row[name] = str(value)
        row[REST] = sorted(rest)[:VALUES_MAX]
        return row


class RiverClassifier(_RiverRows, base.MiniBatchClassifier):
    """A binary classifier: Freshet's model, which learns each example when it comes.

    Without `features`, the first example decides: numbers are of kind number, text and booleans of kind id,
    lists and sets of kind ids. A feature that appears later becomes an id in one list that all such features
    share, so it counts, but a number among them only as there or not. Declare the features for ids that are
    numbers, and for bags of words (one feature of kind ids).

    Args:
        features: the schema, as of `freshet.Model`. None: by the types of the first example.
        learner: settings as of a config's section `[learner]`, for example {"deep": "none", "seed": 1}.
        time: the key in x with the event time, Unix seconds or a datetime. None: examples are a second apart.

    Raises:
        ConfigError: a feature or setting is unknown or out of range.
        ModelError: a label is not boolean (or 0 or 1), or an example cannot be used.
        FeatureError: a value is not of its declared feature's kind.
    """

    def __init__(
        self,
        features: Features | None = None,
        learner: dict[str, object] | None = None,
        time: str | None = None,
    ) -> None:
        self.features = features
        self.learner = learner
        self.time = time
        self._start()

    def learn_one(self, x: dict[object, object], y: object) -> RiverClassifier:
        """Learn one example; y is True or False."""
        self._learn([x], [y])
        return self

    def learn_many(self, X: _Frame, y: _Series) -> RiverClassifier:
        """Learn the rows of a frame in their order."""
        self._learn(X.to_dict("records"), y.tolist())
        return self

    def predict_proba_one(self, x: dict[object, object]) -> dict[bool, float]:
        """The probabilities of False and True; one half each before anything was learned."""
        p = self._predict([x], 0.5)[0]
        return {False: 1.0 - p, True: p}

    def predict_proba_many(self, X: _Frame) -> _Frame:
        """The probabilities of the rows of a frame, with columns False and True."""
        p = self._predict(X.to_dict("records"), 0.5)
        return type(X)({False: [1.0 - one for one in p], True: p}, index=X.index)

    @property
    def _multiclass(self) -> bool:
        return False

    def _check(self, y: object) -> None:
        if plain(y) not in (True, False):
            raise ModelError(f"the label is {y!r}: this classifier is binary, and takes True or False")


class RiverRegressor(_RiverRows, base.MiniBatchRegressor):
    """Predicts numbers of at least 0, such as minutes or a price: the model of a target that is a value.

    Args:
        features, learner, time: as of `RiverClassifier`.
        scale: "log1p" for numbers of which a few are far larger than most; else "linear".

    Raises:
        ConfigError: a feature or setting is unknown or out of range.
        ModelError: a label is no finite number of at least 0, or an example cannot be used.
        FeatureError: a value is not of its declared feature's kind.
    """

    def __init__(
        self,
        features: Features | None = None,
        learner: dict[str, object] | None = None,
        time: str | None = None,
        scale: str = "linear",
    ) -> None:
        self.features = features
        self.learner = learner
        self.time = time
        self.scale = scale
        self._targets = {"value": {"kind": "value", "scale": scale}}
        self._start()

    def learn_one(self, x: dict[object, object], y: object) -> RiverRegressor:
        """Learn one example; y is a number of at least 0."""
        self._learn([x], [y])
        return self

    def learn_many(self, X: _Frame, y: _Series) -> RiverRegressor:
        """Learn the rows of a frame in their order."""
        self._learn(X.to_dict("records"), y.tolist())
        return self

    def predict_one(self, x: dict[object, object]) -> float:
        """What is expected; 0 before anything was learned."""
        return self._predict([x], 0.0)[0]

    def predict_many(self, X: _Frame) -> object:
        """What is expected of the rows of a frame, as a series of pandas."""
        return type(X)({0: self._predict(X.to_dict("records"), 0.0)}, index=X.index)[0]

    def _check(self, y: object) -> None:
        number = plain(y)
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0.0 <= number < math.inf:
            raise ModelError(f"the label is {y!r}: a value is a finite number of at least 0")


Classifier = RiverClassifier
Regressor = RiverRegressor

"""`freshet.sklearn.Classifier` and `Regressor`: the model with scikit-learn's contract.

    from freshet.sklearn import Classifier

    classifier = Classifier().partial_fit(frame, clicked)
    classifier.predict_proba(frame)[:, 1]

It needs scikit-learn: `pip install 'freshet[sklearn]'`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import assert_all_finite
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(
        f"freshet.sklearn needs scikit-learn, which cannot be imported ({error}): "
        "pip install 'freshet[sklearn]'"
    ) from None

from freshet.python.infer import features_by_type
from freshet.python.model import Features, OnlineModel
from freshet.python.rows import rows_of

if TYPE_CHECKING:
    import numpy.typing as npt
    from sklearn.utils import Tags

_NO_TIME = "\0time"


class _RowsEstimator(BaseEstimator):
    """Reads arrays and frames as rows of `freshet.Model`."""

    features: Features | None

    def _rows(self, X: object, *, reset: bool) -> list[dict[str, object]]:
        if (
            hasattr(X, "columns")
            and hasattr(X, "dtypes")
            and any(kind.kind not in "iuf" for kind in X.dtypes)
        ):
            validate_data(self, X, skip_check_array=True, reset=reset)
            return [dict(row) for row in rows_of(X).rows]
        names = [str(name) for name in X.columns] if hasattr(X, "columns") else None
        array = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=reset)
        names = names or [f"x{i}" for i in range(array.shape[1])]
        ids = self._ids()
        return [
            {n: int(v) if n in ids and v == v else v for n, v in zip(names, row, strict=True)}
            for row in array.tolist()
        ]

    def _ids(self) -> set[str]:
        """The declared features that are ids: their numbers are whole ones."""
        schema = {} if self.features is None else self.features
        kinds = {n: s["kind"] if isinstance(s, Mapping) else s.kind for n, s in schema.items()}
        return {n for n, kind in kinds.items() if kind in ("id", "hour")}


class SklearnClassifier(ClassifierMixin, _RowsEstimator):
    """A binary classifier: Freshet's model, which learns rows in their order.

    Columns of numbers are features of kind number; columns of a frame with text, categories or booleans are
    ids, columns of lists are of kind ids. NaN is a missing value.

    Args:
        features: the schema, as of `freshet.Model`; columns of arrays are named x0, x1, ... None: by the
            types of the columns.
        learner: settings as of a config's section `[learner]`.
        time: the column of a frame with the event time. None: rows are a second apart.
        epochs: how often `fit` learns the rows; `partial_fit` learns them once.

    Attributes:
        classes_: the two labels.
        model_: the `freshet.Model`.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.
    """

    def __init__(
        self,
        features: Features | None = None,
        learner: dict[str, object] | None = None,
        time: str | None = None,
        epochs: int = 1,
    ) -> None:
        self.features = features
        self.learner = learner
        self.time = time
        self.epochs = epochs

    def fit(self, X: object, y: object) -> SklearnClassifier:
        """Learn rows from nothing.

        Raises:
            ValueError: X or y cannot be used, or y has not two classes.
        """
        for name in ("classes_", "model_"):
            if hasattr(self, name):
                delattr(self, name)
        for _ in range(max(int(self.epochs), 1)):
            self.partial_fit(X, y)
        return self

    def partial_fit(self, X: object, y: object, classes: object = None) -> SklearnClassifier:
        """Learn rows on top of what was learned.

        Args:
            X: (n, features) numbers, or a frame.
            y: (n,) labels of two classes.
            classes: the two labels; needed in the first call if its y has only one of them.

        Raises:
            ValueError: X or y cannot be used, or there are not two classes.
        """
        first = not hasattr(self, "model_")
        rows = self._rows(X, reset=first)
        if y is None:
            raise ValueError("this classifier requires y to be passed, but the target y is None")
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        if len(labels) != len(rows):
            raise ValueError(
                f"X has {len(rows)} rows and y has {len(labels)} labels: inconsistent numbers of samples"
            )
        if first:
            self.classes_ = self._classes(labels if classes is None else np.asarray(classes))
            schema = features_by_type(rows) if self.features is None else self.features
            self.model_ = OnlineModel(schema, learner=self.learner, time=self.time or _NO_TIME)
        unknown = sorted(set(labels.tolist()) - set(self.classes_.tolist()), key=str)
        if unknown:
            raise ValueError(
                f"y has the label {unknown[0]!r}, which is not in classes {self.classes_.tolist()}"
            )
        self.model_.learn(rows, (labels == self.classes_[1]).astype(float))
        return self

    def predict_proba(self, X: object) -> npt.NDArray[np.float64]:
        """The probabilities of the two classes, (n, 2).

        Raises:
            NotFittedError: nothing was learned yet.
            ValueError: X cannot be used.
        """
        check_is_fitted(self, "model_")
        p = self.model_.predict(self._rows(X, reset=False))
        return np.column_stack([1.0 - p, p])

    def predict(self, X: object) -> npt.NDArray[np.generic]:
        """The likelier class of each row, (n,); raises as `predict_proba`."""
        likely = self.predict_proba(X)[:, 1] > 0.5
        return self.classes_[likely.astype(int)]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = True
        return tags

    def _classes(self, labels: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        classes = np.unique(labels)
        if len(classes) > 2:
            raise ValueError(
                "Only binary classification is supported. The type of the target is "
                f"{type_of_target(labels, input_name='y')}."
            )
        if len(classes) < 2:
            raise ValueError(
                "this classifier needs two classes; there is one class: give partial_fit both as `classes`"
            )
        return classes


class SklearnRegressor(RegressorMixin, _RowsEstimator):
    """Predicts numbers of at least 0, such as minutes or a price: the model of a target that is a value.

    Args:
        features, learner, time, epochs: as of `SklearnClassifier`.
        scale: "log1p" for numbers of which a few are far larger than most; else "linear".

    Attributes:
        model_: the `freshet.Model`.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.
    """

    def __init__(
        self,
        features: Features | None = None,
        learner: dict[str, object] | None = None,
        time: str | None = None,
        epochs: int = 1,
        scale: str = "linear",
    ) -> None:
        self.features = features
        self.learner = learner
        self.time = time
        self.epochs = epochs
        self.scale = scale

    def fit(self, X: object, y: object) -> SklearnRegressor:
        """Learn rows from nothing; raises as `partial_fit`."""
        if hasattr(self, "model_"):
            del self.model_
        for _ in range(max(int(self.epochs), 1)):
            self.partial_fit(X, y)
        return self

    def partial_fit(self, X: object, y: object) -> SklearnRegressor:
        """Learn rows on top of what was learned.

        Args:
            X: (n, features) numbers, or a frame.
            y: (n,) numbers of at least 0.

        Raises:
            ValueError: X or y cannot be used, or a number is below 0.
        """
        first = not hasattr(self, "model_")
        rows = self._rows(X, reset=first)
        if y is None:
            raise ValueError("this regressor requires y to be passed, but the target y is None")
        numbers = column_or_1d(y, warn=True, dtype=np.float64)
        assert_all_finite(numbers, input_name="y")
        if len(numbers) != len(rows):
            raise ValueError(
                f"X has {len(rows)} rows and y has {len(numbers)} numbers: inconsistent numbers of samples"
            )
        if (numbers < 0.0).any():
            raise ValueError(f"y has {numbers.min():g}; a value is a number of at least 0: shift y")
        if first:
            schema = features_by_type(rows) if self.features is None else self.features
            target = {"kind": "value", "scale": self.scale}
            self.model_ = OnlineModel(
                schema, learner=self.learner, time=self.time or _NO_TIME, targets={"value": target}
            )
        self.model_.learn(rows, numbers)
        return self

    def predict(self, X: object) -> npt.NDArray[np.float64]:
        """What is expected of each row, (n,).

        Raises:
            NotFittedError: nothing was learned yet.
            ValueError: X cannot be used.
        """
        check_is_fitted(self, "model_")
        return self.model_.predict(self._rows(X, reset=False))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.positive_only = True
        return tags


Classifier = SklearnClassifier
Regressor = SklearnRegressor

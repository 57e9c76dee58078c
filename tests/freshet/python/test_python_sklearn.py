"""`freshet.sklearn.Classifier` under scikit-learn's own checks, and what it does beyond them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import SkipTest

import numpy as np
import pytest

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils.estimator_checks import estimator_checks_generator

    from freshet.sklearn import Classifier, Regressor


@pytest.fixture(scope="module", autouse=True)
def _sklearn() -> None:
    """Import scikit-learn when a test here runs: at the collection it would cost every process a second."""
    global clone, make_pipeline, StandardScaler, estimator_checks_generator, Classifier, Regressor
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils.estimator_checks import estimator_checks_generator

    from freshet.sklearn import Classifier, Regressor


SKIPPED = {
    "check_array_api_input",
    "check_classifier_data_not_an_array",
    "check_regressor_data_not_an_array",
}
"""Checks that scikit-learn skips by itself where pandas or SciPy's array API is not there."""


def clicks(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(n, 3))
    return X, np.where(X[:, 0] + 0.3 * rng.normal(size=n) > 0, "yes", "no")


@pytest.mark.parametrize(
    "of",
    [pytest.param("Classifier", marks=pytest.mark.slow), pytest.param("Regressor", marks=pytest.mark.long)],
)
@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn_pass(of: str) -> None:
    failed, skipped, passed = {}, set(), 0
    for estimator, check in estimator_checks_generator(globals()[of]()):
        name = getattr(check, "func", check).__name__
        try:
            check(estimator)
            passed += 1
        except SkipTest:
            skipped.add(name)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    assert not failed
    assert skipped <= SKIPPED and passed > 40


@pytest.mark.slow
def test_classifier_learns_and_continues() -> None:
    X, y = clicks(600)
    whole, parts = Classifier().fit(X, y), Classifier()
    for first in range(0, 600, 150):
        parts.partial_fit(X[first : first + 150], y[first : first + 150], classes=["no", "yes"])
    assert np.array_equal(whole.predict_proba(X), parts.predict_proba(X))
    assert whole.score(X, y) > 0.85
    again = clone(whole)
    assert not hasattr(again, "model_")


def test_classifier_in_a_pipeline() -> None:
    X, y = clicks(300)
    pipeline = make_pipeline(StandardScaler(), Classifier(epochs=2)).fit(X, y)
    assert pipeline.score(X, y) > 0.8


def test_declared_ids_in_an_array() -> None:
    rng = np.random.default_rng(4)
    X = rng.integers(0, 50, size=(2000, 1))
    y = (X[:, 0] * 7 % 5 < 2).astype(int)
    ids = Classifier(features={"x0": {"kind": "id"}}).fit(X, y)
    assert ids.score(X, y) > 0.98


def test_labels_of_one_class_or_three_are_refused() -> None:
    X, _ = clicks(20)
    with pytest.raises(ValueError, match="needs two classes; there is one class"):
        Classifier().fit(X, np.ones(20))
    with pytest.raises(ValueError, match="Only binary classification is supported"):
        Classifier().fit(X, np.arange(20) % 3)
    first = Classifier().partial_fit(X, np.ones(20), classes=[0, 1])
    with pytest.raises(ValueError, match="label 5, which is not in classes"):
        first.partial_fit(X, np.full(20, 5))


def test_regressor_learns_numbers_of_at_least_0() -> None:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(500, 3))
    y = np.exp(X[:, 0] + 0.2 * rng.normal(size=500))
    regressor = Regressor(learner={"deep": "none"}, scale="log1p").partial_fit(X[:300], y[:300])
    regressor.partial_fit(X[300:], y[300:])
    error = np.abs(regressor.predict(X) - y).mean()
    assert error < 0.6 * np.abs(y - y.mean()).mean() and (regressor.predict(X) >= 0.0).all()
    with pytest.raises(ValueError, match="y has -1; a value is a number of at least 0"):
        regressor.partial_fit(X[:2], [1.0, -1.0])

"""Real frames of pandas and polars, and River's own checks, in an environment that the test makes."""

import subprocess
import sys
import sysconfig
import textwrap
import venv
from pathlib import Path

import pytest
from paths import ROOT

pytestmark = pytest.mark.timeout(1800)

PACKAGES = ("river>=0.22,<1", "polars>=1,<2", "pandas>=2.2,<4")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with River and frames, and behind them all that this one has."""
    folder = tmp_path_factory.mktemp("river")
    venv.create(folder, with_pip=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    (Path(packages) / "behind.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    interpreter = folder / "bin" / "python"
    done = subprocess.run(
        [interpreter, "-m", "pip", "install", "-q", *PACKAGES],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no package index can be reached: {done.stderr[-300:]}")
    return interpreter


def run(python: Path, code: str) -> str:
    done = subprocess.run(
        [python, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=900, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_classifier_passes_the_checks_of_river(python: Path) -> None:
    out = run(
        python,
        """
        import copy
        from river import checks
        from freshet.river import Classifier

        names = []
        for check in checks.yield_checks(Classifier()):
            check(copy.deepcopy(Classifier()))
            names.append(check.__name__)
        assert not Classifier()._unit_test_skips()
        print(len(names), *sorted(set(names)))
        """,
    )
    assert int(out.split()[0]) >= 18
    for name in ("check_pickling", "check_shuffle_features_no_impact", "check_predict_proba_one_binary"):
        assert name in out


@pytest.mark.long
def test_regressor_passes_the_checks_of_river(python: Path) -> None:
    out = run(
        python,
        """
        import copy
        from river import checks, datasets, evaluate, metrics
        from freshet.river import Regressor

        names = [check(copy.deepcopy(Regressor())) for check in checks.yield_checks(Regressor())]
        metric = evaluate.progressive_val_score(datasets.TrumpApproval(), Regressor(), metrics.MAE())
        print(len(names), metric.get())
        """,
    )
    count, error = out.split()
    assert int(count) >= 20 and float(error) < 0.5


@pytest.mark.long
def test_classifier_in_pipelines_evaluation_and_batches_of_river(python: Path) -> None:
    run(
        python,
        """
        from river import compose, datasets, evaluate, metrics, preprocessing, stream
        from freshet.river import Classifier

        alone = evaluate.progressive_val_score(datasets.Phishing(), Classifier(), metrics.ROCAUC())
        assert alone.get() > 0.9, alone
        model = compose.Select("empty_server_form_handler", "popup_window") | Classifier()
        metric = evaluate.progressive_val_score(datasets.Phishing().take(300), model, metrics.ROCAUC())
        assert metric.get() > 0.6, metric
        import pandas as pd
        xs, ys = zip(*datasets.Phishing().take(200))
        X, y = pd.DataFrame(xs), pd.Series(ys)
        many, one = Classifier(), Classifier()
        many.learn_many(X, y)
        for x, label in zip(xs, ys):
            one.learn_one(x, label)
        p = many.predict_proba_many(X)
        assert list(p.columns) == [False, True] and list(p.index) == list(X.index)
        assert abs(p[True].iloc[7] - one.predict_proba_one(xs[7])[True]) < 1e-6, p[True].iloc[7]
        assert len(many.predict_many(X)) == 200
        words = Classifier()
        for i in range(300):  # features that appear later count too
            spam = i % 2 == 1
            words.learn_one({"length": 10.0, **({"prize": 1} if spam and i > 20 else {})}, spam)
        assert words.predict_proba_one({"length": 10.0, "prize": 1})[True] > 0.8
        try:
            Classifier().learn_one({"a": 1}, "yes")
        except Exception as error:
            assert "binary" in str(error)
        else:
            raise AssertionError("a label that is not boolean was taken")
        """,
    )


@pytest.mark.long
def test_real_frames_are_their_rows(python: Path) -> None:
    run(
        python,
        """
        import pandas as pd, polars as pl, numpy as np
        from freshet import Model, ModelError

        rows = [{"user": f"u{i % 5}", "item": i % 3, "price": 0.5 * i, "time": 1e9 + i} for i in range(100)]
        rows[7]["item"] = None
        labels = [i * i % 7 < 3 for i in range(100)]
        features = {"user": {"kind": "id"}, "item": {"kind": "id"}, "price": {"kind": "number"}}
        timed = pd.DataFrame(rows)
        timed["time"] = pd.to_datetime(timed["time"], unit="s", utc=True)
        hashes = []
        for data, y in (
            (rows, labels),
            (pd.DataFrame(rows), pd.Series(labels)),
            (pl.DataFrame(rows), pl.Series(labels)),
            (timed, np.array(labels)),
        ):
            model = Model(features)
            model.learn(data, y)
            hashes.append(model.state_hash())
        assert len(set(hashes)) == 1, hashes
        found = Model()
        found.learn(pd.DataFrame(rows), labels)
        assert {"user", "item"} <= set(found.features)
        twice = pd.DataFrame([[1, 2]], columns=["user", "user"])
        try:
            model.predict(twice)
        except ModelError as error:
            assert "two columns of one name" in str(error)
        else:
            raise AssertionError("two columns of one name were taken")
        """,
    )


def test_module_for_river_without_river_says_the_command_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['river'] = None\n"
        "try:\n    import freshet.river\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "pip install 'freshet[river]'" in done.stdout

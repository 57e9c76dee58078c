"""Freshet's classifier for River beside River's own models and deep-river's networks, on data sets that River
carries or makes.

Each example is predicted, scored, then learned (`predict_proba_one`, `learn_one`), one by one. Nothing is
tuned: every model of River and Freshet has its defaults; those that want scaled numbers or one column per
category get River's usual pipeline. deep-river's network has two layers of 32 in place of its default of
five of 5, and Adam in place of SGD, at its default rate. AUC and log loss over the whole stream, and examples
for each second of processor time.

Run it by an interpreter with River (`pip install '.[river]' deep-river` into an environment of its own;
without deep-river its column is left out):

    PYTHON benchmarks/foreign/river_table.py [--quick] [--examples N] [--json OUT]
"""

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from river import compose, datasets, forest, linear_model, metrics, naive_bayes, preprocessing, tree
from river.datasets import synth

from freshet.river import Classifier

STREAMS: dict[str, Callable[[], Iterable[Any]]] = {
    "Phishing": datasets.Phishing,
    "Bananas": datasets.Bananas,
    "SEA with a drift": lambda: synth.ConceptDriftStream(
        synth.SEA(variant=0, noise=0.1, seed=1),
        synth.SEA(variant=3, noise=0.1, seed=1),
        seed=1,
        position=600,
        width=50,
    ),
    "Agrawal": lambda: synth.Agrawal(classification_function=4, seed=1),
    "Hyperplane that turns": lambda: synth.Hyperplane(seed=1, n_drift_features=2, mag_change=0.01),
}
AGRAWAL_IDS = ("elevel", "car", "zipcode")
"""Numbers that are categories: every model treats them so."""


WARM = Classifier()


def _numbers(model: Any) -> Any:
    """The usual pipeline of River: numbers scaled, categories one column each."""
    scaled = compose.SelectType(int, float) | preprocessing.StandardScaler()
    return (scaled + (compose.SelectType(str) | preprocessing.OneHotEncoder())) | model


MODELS: dict[str, Callable[[], Any]] = {
    "Freshet": Classifier,
    "LogisticRegression": lambda: _numbers(linear_model.LogisticRegression()),
    "GaussianNB": lambda: _numbers(naive_bayes.GaussianNB()),
    "HoeffdingAdaptiveTree": lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=1),
    "ARF, 10 trees": lambda: forest.ARFClassifier(seed=1),
}

if importlib.util.find_spec("deep_river") is not None:
    from deep_river.classification import MultiLayerPerceptron

    MODELS["deep-river MLP"] = lambda: _numbers(
        MultiLayerPerceptron(
            n_features=1, n_width=32, n_layers=2, n_init_classes=2, is_feature_incremental=True,
            loss_fn="cross_entropy", optimizer_fn="adam",
        )
    )  # fmt: skip


def examples(name: str, count: int) -> Iterator[tuple[dict[Any, Any], bool]]:
    """The first examples of a stream, categories as text."""
    for x, y in islice(STREAMS[name](), count):
        ids = AGRAWAL_IDS if name == "Agrawal" else ()
        yield {key: str(value) if key in ids else value for key, value in x.items()}, bool(y)


def measure(model: Any, stream: Iterable[tuple[dict[Any, Any], bool]]) -> dict[str, float]:
    """Predict, score and learn a stream."""
    auc, loss, n = metrics.RollingROCAUC(window_size=1_000_000), 0.0, 0
    took = 0.0
    for x, y in stream:
        began = time.process_time()
        p = model.predict_proba_one(x).get(True, 0.0 if n else 0.5)
        model.learn_one(x, y)
        took += time.process_time() - began
        auc.update(y, {True: p, False: 1.0 - p})
        loss -= math.log(min(max(p if y else 1.0 - p, 1e-6), 1.0))
        n += 1
    return {"auc": auc.get(), "logloss": loss / n, "examples": n, "examples_per_second": n / took}


def main() -> None:
    """Measure, and print for people and programs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="500 examples of each stream")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the results here")
    parser.add_argument("--examples", type=int, default=4_000, metavar="N", help="of each stream at most")
    options = parser.parse_args()
    count = 500 if options.quick else options.examples
    for x, y in examples("Phishing", 100):  # compiles the kernels
        WARM.learn_one(x, y)
        WARM.predict_proba_one(x)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for stream in STREAMS:
        data = list(examples(stream, count))
        for name, make in MODELS.items():
            found = results.setdefault(stream, {})[name] = measure(make(), data)
            print(
                f"{stream}, {name}: AUC {found['auc']:.4f}, log loss {found['logloss']:.4f}, "
                f"{found['examples_per_second']:,.0f} examples/s",
                flush=True,
            )
    text = json.dumps(results)
    print(text)
    if options.json:
        options.json.write_text(text)


if __name__ == "__main__":
    main()

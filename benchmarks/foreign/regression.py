"""Vowpal Wabbit and River on streams of numbers, for `benchmarks/values.py`; it runs in their environment.

python regression.py streams OUT       the streams that River carries, as JSON Lines in folder OUT
python regression.py play FILE OUT     progressive predictions of a stream, as an npz
"""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import vowpalwabbit
from river import compose, datasets, linear_model, preprocessing, tree
from river.datasets import synth

Line = dict[str, Any]
FRIEDMAN_LINES = 20_000
NO_MARKS = str.maketrans(": |", "___")


def streams() -> Iterator[tuple[str, list[Line]]]:
    """Regression streams of River, of labels of at least 0."""
    made = {
        "trump approval": datasets.TrumpApproval(),
        "chick weights": datasets.ChickWeights(),
        "friedman drift": itertools.islice(synth.FriedmanDrift(seed=1), FRIEDMAN_LINES),
    }
    for name, stream in made.items():
        lines = []
        for i, (x, y) in enumerate(stream):
            cells = {
                str(key): value if isinstance(value, int | float) else str(value) for key, value in x.items()
            }
            if name == "chick weights":
                cells["chick"], cells["diet"] = str(cells["chick"]), str(cells["diet"])
            if y >= 0.0:
                lines.append({"time": 1e9 + i, "y": float(y), "x": cells})
        yield name, lines


def vw_line(line: Line, y: float | None) -> str:
    """A line of Vowpal Wabbit: names as words, numbers as they are."""
    cells = " ".join(
        f"{key}:{value}" if isinstance(value, int | float) else f"{key}={value}".translate(NO_MARKS)
        for key, value in line["x"].items()
    )
    return f"{'' if y is None else y} |f {cells}"


def play_vw(lines: list[Line]) -> dict[str, np.ndarray]:
    """Twelve settings: two losses, three rates, with and without pairs."""
    found = {}
    for loss, rate, pairs in itertools.product(("squared", "quantile"), (0.1, 0.5, 2.0), ("", "-q ff")):
        vw = vowpalwabbit.Workspace(f"--quiet --loss_function {loss} -l {rate} -b 22 {pairs}")
        p = np.zeros(len(lines))
        for i, line in enumerate(lines):
            p[i] = vw.predict(vw_line(line, None))
            vw.learn(vw_line(line, line["y"]))
        vw.finish()
        found[f"vw {loss} {rate} {pairs}".strip()] = p
    return found


def play_river(lines: list[Line]) -> dict[str, np.ndarray]:
    """A linear model and a tree, words one-hot and numbers scaled."""

    def scaled() -> Any:
        numbers = compose.SelectType((int, float)) | preprocessing.StandardScaler()
        return numbers + (compose.SelectType(str) | preprocessing.OneHotEncoder())

    words = sorted({name for line in lines for name, value in line["x"].items() if isinstance(value, str)})
    models: dict[str, Callable[[], Any]] = {
        "river linear": lambda: scaled() | linear_model.LinearRegression(),
        "river tree": lambda: tree.HoeffdingAdaptiveTreeRegressor(
            seed=1, leaf_prediction="mean", nominal_attributes=words
        ),
    }
    found = {}
    for name, make in models.items():
        model, p = make(), np.zeros(len(lines))
        for i, line in enumerate(lines):
            p[i] = model.predict_one(line["x"]) or 0.0
            model.learn_one(line["x"], line["y"])
        found[name] = p
    return found


if __name__ == "__main__":
    if sys.argv[1] == "streams":
        for name, lines in streams():
            Path(sys.argv[2], f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    else:
        given = [json.loads(line) for line in Path(sys.argv[2]).read_text().splitlines()]
        np.savez(sys.argv[3], **play_vw(given), **play_river(given))

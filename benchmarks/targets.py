"""Several targets in one model: quality beside separate models, and what the further targets cost.

`nested`: MovieTweetings, ratings of at least 8 and among them of at least 9, in one model of two targets and
in two models of one target each. `delays`: conversions of which half come late, on a drifting world: learned
without bias, as one more positive, not at all, after waiting for all of them, and as if known at once.

    .venv/bin/python benchmarks/targets.py --data ../shared/data/movietweetings
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from table_parts.movies import parse_options

from freshet.config import Config, default_config
from learner.features.encoder import FeatureSpec
from learner.features.labelled import CHUNK_ROWS, Labelled
from learner.metrics import auc, losses
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.train.trainer import Learnt
from stream.files.sources import LeftOut, read_examples
from stream.records.targets import UNDECLARED, Target, Targets
from stream.records.types import Example

NESTED = Targets({"good": Target(), "great": Target(of="good")})


class Run(NamedTuple):
    """What one learner predicted, and what it took."""

    done: list[Learnt]
    seconds: float
    row_bytes: int
    examples: int

    def scored(self, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Predictions and labels of one target, in order."""
        mine = [group for group in self.done if (group.target == target).any()]
        keep = [group.measured & (group.target == target) for group in mine]
        return (
            np.concatenate([group.p[k] for group, k in zip(mine, keep, strict=True)]),
            np.concatenate([group.y[k] for group, k in zip(mine, keep, strict=True)]),
        )


def learn(
    features: Mapping[str, FeatureSpec],
    settings: LearnerSettings,
    targets: Targets,
    examples: Sequence[Example],
) -> Run:
    """Learn examples in order, with the deep part beside, as a replay does."""
    learner = Learner(features, settings, None, targets, beside=True)
    chunks = []
    for first in range(0, len(examples), CHUNK_ROWS):
        chunks.append(Labelled.of(learner.model.encoder, examples[first : first + CHUNK_ROWS], targets))
    done: list[Learnt] = []
    began = time.perf_counter()
    for chunk in chunks:
        done += learner.learn_labelled(chunk)
    done += learner.finish()
    seconds = time.perf_counter() - began
    row_bytes = sum(
        len(table) * 4 * (spec.width + 2)
        for table, spec in zip(learner.model.tables, learner.model.specs.values(), strict=True)
    )
    learner.close()
    return Run(done, seconds, row_bytes, len(examples))


def last_half(p: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """AUC, log loss and calibration of the last half."""
    p, y = p[len(p) // 2 :], y[len(y) // 2 :]
    return {
        "auc": auc(p, y) or 0.5,
        "logloss": float(losses(p, y).mean()),
        "calibration": float(p.sum() / y.sum()),
    }


def nested(folder: Path, limit: int | None) -> dict[str, object]:
    """Ratings of at least 8, and among them of at least 9."""
    config = default_config("movietweetings")
    ratings = list(_ratings(folder, config, limit))
    both, good, great = [], [], []
    for example, rating in ratings:
        one = msgspec.structs.replace(example, labels=[float(rating >= 8)])
        both.append(one)
        good.append(one)
        if rating >= 8:
            other = msgspec.structs.replace(example, labels=[float(rating >= 9)])
            both.append(msgspec.structs.replace(other, target="great"))
            great.append(other)
    runs = {
        "together": learn(config.features, config.learner, NESTED, both),
        "good alone": learn(config.features, config.learner, UNDECLARED, good),
        "great alone": learn(config.features, config.learner, UNDECLARED, great),
    }
    together, alone = runs["together"], runs["good alone"]
    found = {
        "good, together": last_half(*together.scored(0)),
        "good, alone": last_half(*alone.scored(0)),
        "great, together": last_half(*together.scored(1)),
        "great, alone": last_half(*runs["great alone"].scored(0)),
    }
    for name, part in found.items():
        print(f"{name:<18}" + "  ".join(f"{key} {value:.4f}" for key, value in part.items()))
    times = {name: run.seconds for name, run in runs.items()}
    print(
        f"seconds: together {times['together']:.2f}, one target {times['good alone']:.2f} "
        f"(times {times['together'] / times['good alone']:.2f} for "
        f"{together.examples / alone.examples:.2f} times the rows), "
        f"bytes of rows times {together.row_bytes / alone.row_bytes:.3f}"
    )
    return {
        **found,
        "seconds": times,
        "bytes": {name: run.row_bytes for name, run in runs.items()},
        "rows": {name: run.examples for name, run in runs.items()},
    }


def delays(n: int) -> dict[str, dict[str, dict[str, float]]]:
    """Conversions of which half come later than the window: n clicks in a world that drifts.

    Each is scored against its true label, as it is predicted when it is clicked.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for p in (0.03, 0.1, 0.3):
        world = _Conversions(n, p)
        found[f"{p}"] = {name: world.play(name) for name in HOW}
        for name, part in found[f"{p}"].items():
            print(f"p {p:<5} {name:<10}" + "  ".join(f"{key} {value:.4f}" for key, value in part.items()))
    return found


HOW = ("unbiased", "biased", "drop", "wait", "at once")
"""What is done about conversions after the window: the difference of two losses, one more positive, nothing,
a window that all of them are in; and what would be known if they did not come late."""


class _Conversions:
    """n clicks of 200 people on 50 items, one a minute; whether they buy drifts over the stream.

    Half of the purchases come within OBSERVE minutes, the other half within days.
    """

    OBSERVE, WINDOW = 30, 3 * 1_440

    def __init__(self, n: int, p: float) -> None:
        rng = np.random.default_rng(int(1_000 * p))
        self.user, self.item = rng.integers(0, 200, n), rng.integers(0, 50, n)
        drift = np.cumsum(rng.normal(0.0, 0.35, (n // 2_000 + 1, 50)), axis=0)
        taste = rng.normal(0.0, 0.7, 200)
        z = taste[self.user] + rng.normal(0.0, 0.7, 50)[self.item] + drift[np.arange(n) // 2_000, self.item]
        z += np.log(p / (1.0 - p)) - 0.6
        self.label = (rng.random(n) < 1.0 / (1.0 + np.exp(-z))).astype(np.float64)
        late = rng.random(n) < 0.5
        delay = np.where(late, rng.uniform(self.OBSERVE + 1, self.WINDOW, n), rng.uniform(0, self.OBSERVE, n))
        self.delay = delay.astype(np.int64)

    def play(self, how: str) -> dict[str, float]:
        """Metrics of the last half."""
        wait = {"wait": self.WINDOW, "at once": 0}.get(how, self.OBSERVE)
        on_time = (self.delay <= wait) | (how == "at once")
        n = len(self.label)
        events = [(i + wait, i, False) for i in range(n)]
        if how in ("unbiased", "biased"):
            events += [
                (i + int(self.delay[i]), i, True) for i in range(n) if self.label[i] and not on_time[i]
            ]
        events.sort()
        learner = Learner({"user": FeatureSpec(), "item": FeatureSpec()}, LearnerSettings())
        predicted = np.zeros(n)
        at = 0
        waiting: list[Example] = []
        for click in range(n):
            while at < len(events) and events[at][0] <= click:
                minute, i, correction = events[at]
                waiting.append(self._example(minute, i, correction, bool(on_time[i]), how))
                at += 1
            if click % 32 == 0:  # as servers have it, a little behind
                learner.learn(waiting)
                waiting = []
                asked = range(click, min(click + 32, n))
                predicted[asked] = learner.model.score_requests(
                    [self._example(j, j, False, True, "") for j in asked]
                ).p
        return last_half(predicted, self.label)

    def _example(self, minute: int, i: int, correction: bool, on_time: bool, how: str) -> Example:
        label = float(self.label[i] if correction or on_time else 0.0)
        before = [0.0] if correction and how == "unbiased" else None
        at = 1e9 + 60.0 * minute
        return Example(
            str(i), at, at, [{"item": int(self.item[i])}], [label], {"user": int(self.user[i])},
            late=correction, before=before,
        )  # fmt: skip


def _ratings(folder: Path, config: Config, limit: int | None) -> Iterator[tuple[Example, int]]:
    """The examples with their ratings, by reading the data once for each cut."""
    cuts = [
        read_examples(
            folder, msgspec.structs.replace(config.data, positive_from=cut), LeftOut(), config.features
        )
        for cut in (8.0, 9.0)
    ]
    for i, (eight, nine) in enumerate(zip(*cuts, strict=True)):
        if limit is not None and i >= limit:
            return
        yield eight, 9 if nine.labels[0] else 8 if eight.labels[0] else 1


def main() -> None:
    """Run, print lines for people, write JSON if asked."""
    options = parse_options(__doc__, "20,000 ratings, and shorter worlds")
    limit = 20_000 if options.quick else None
    report = {"nested": nested(options.data, limit), "delays": delays(6_000 if options.quick else 30_000)}
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

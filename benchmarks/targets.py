"""Several targets in one model: quality beside separate models, and what the further targets cost.

`nested`: MovieTweetings, ratings of at least 8 and among them of at least 9, in one model of two targets and
in two models of one target each. `delays`: conversions of which half come late, on a drifting world: learned
without bias, as one more positive, not at all, after waiting for all of them, and as if known at once; and
what an oracle predicts that knows the world's laws (`targets_parts/oracle.py`).

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
from targets_parts.conversions import Conversions
from targets_parts.oracle import oracle

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


def last_half(p: np.ndarray, y: np.ndarray, truth: np.ndarray | None = None) -> dict[str, float]:
    """AUC, log loss and calibration of the last half; the latter by the true probabilities, if they are
    known, whose sum has less noise than that of the labels."""
    half = slice(len(p) // 2, None)
    return {
        "auc": auc(p[half], y[half]) or 0.5,
        "logloss": float(losses(p[half], y[half]).mean()),
        "calibration": float(p[half].sum() / (y if truth is None else truth)[half].sum()),
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
    learn(config.features, config.learner, NESTED, both[: 4 * CHUNK_ROWS])  # the first loads the kernels
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


def delays(n: int, seeds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Conversions of which half come later than the window: n clicks in a world that drifts.

    Each is scored against its true label, as it is predicted when it is clicked. Means over worlds; `gained`
    is how much of what labels at once gain over waiting, for the model and for an oracle that knows the law
    of the delays.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for p in (0.03, 0.1, 0.3):
        worlds = [Conversions(n, p, seed) for seed in range(seeds)]
        means: dict[str, dict[str, float]] = {}
        for name in HOW:
            means[name] = _tell(f"p {p:<5} {name:<15}", [play(world, name) for world in worlds])
        for how in ("wait", "seen", "at once"):
            runs = [_scored(world, oracle(world, how)) for world in worlds]
            means[f"oracle, {how}"] = _tell(f"p {p:<5} {'oracle, ' + how:<15}", runs)
        for name, least, most in (
            ("unbiased", "wait", "at once"),
            ("oracle, seen", "oracle, wait", "oracle, at once"),
        ):
            gained = {
                f"gained_{key}": (means[name][key] - means[least][key])
                / (means[most][key] - means[least][key])
                for key in ("auc", "logloss")
            }
            means[name] |= gained
            told = "  ".join(f"{key[7:]} {value:.2f}" for key, value in gained.items())
            print(f"p {p:<5} {name} gains of what labels at once gain over waiting: {told}", flush=True)
        found[f"{p}"] = means
    return found


def _tell(name: str, runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The means of several runs, printed."""
    means = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
    print(name + "  ".join(f"{key} {value:.4f}" for key, value in means.items()), flush=True)
    return means


def _scored(world: Conversions, p: np.ndarray) -> dict[str, float]:
    """`last_half` of predictions that are of the last half alone."""
    half = world.n - len(p)
    return last_half(np.concatenate([np.zeros(half), p]), world.label, world.truth)


HOW = ("unbiased", "biased", "drop", "wait", "at once")
"""What is done about conversions after the window: the difference of two losses, one more positive, nothing,
a window that all of them are in; and what would be known if they did not come late."""


def play(world: Conversions, how: str) -> dict[str, float]:
    """Metrics of the last half of a world, by how the late purchases are learned."""
    wait = {"wait": world.WINDOW, "at once": 0}.get(how, world.OBSERVE)
    on_time = (world.delay <= wait) | (how == "at once")
    n = world.n
    events = [(i + wait, i, False) for i in range(n)]
    if how in ("unbiased", "biased"):
        events += [(i + int(world.delay[i]), i, True) for i in range(n) if world.label[i] and not on_time[i]]
    events.sort()
    learner = Learner({"user": FeatureSpec(), "item": FeatureSpec()}, LearnerSettings())
    predicted = np.zeros(n)
    at = 0
    waiting: list[Example] = []
    for click in range(n):
        while at < len(events) and events[at][0] <= click:
            minute, i, correction = events[at]
            waiting.append(_example(world, minute, i, correction, bool(on_time[i]), how))
            at += 1
        if click % 32 == 0:  # as servers have it, a little behind
            learner.learn(waiting)
            waiting = []
            asked = range(click, min(click + 32, n))
            examples = [_example(world, j, j, False, True, "") for j in asked]
            predicted[asked] = learner.model.score_requests(examples).p
    return last_half(predicted, world.label, world.truth)


def _example(world: Conversions, minute: int, i: int, correction: bool, on_time: bool, how: str) -> Example:
    label = float(world.label[i] if correction or on_time else 0.0)
    before = [0.0] if correction and how == "unbiased" else None
    at = 1e9 + 60.0 * minute
    return Example(
        str(i), at, at, [{"item": int(world.item[i])}], [label], {"user": int(world.user[i])},
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
    report = {
        "nested": nested(options.data, limit),
        "delays": delays(6_000, 1) if options.quick else delays(30_000, 3),
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

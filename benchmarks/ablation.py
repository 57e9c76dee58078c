"""What each part of the learner is worth: the default configuration with one part switched off at a time.

    .venv/bin/python benchmarks/ablation.py [--movies FOLDER] [--streams A,B] [--seeds N] [--quick]
                                            [--json OUT]

Progressive AUC and log loss (whole requests are predicted before any of them is learnt) over the first
6,000 examples, where priors matter, and over the last half of each stream; the streams are those of
`quality.py`, each drawn with every seed; MovieTweetings is one stream, of which a seed is the learner's.
Then the means over all streams, and how far each is from the default.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from quality_parts import streams

from learner.features.encoder import FeatureSpec
from learner.metrics import summarize
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from stream.records.types import Example

FIRST = 6_000
CHUNK = 32
STREAMS = (
    "stationary", "sudden", "slow", "recurring", "bursts", "newcomers", "2 % clicks", "50 % clicks",
    "2 features", "30 features",
)  # fmt: skip

Features = dict[str, FeatureSpec]
Settings = LearnerSettings
Change = Callable[[Features, Settings], tuple[Features, Settings]]


def _settings(**changes: Any) -> Change:
    return lambda features, settings: (features, msgspec.structs.replace(settings, **changes))


def _features(**changes: Any) -> Change:
    def change(features: Features, settings: Settings) -> tuple[Features, Settings]:
        return {n: msgspec.structs.replace(s, **changes) for n, s in features.items()}, settings

    return change


VARIANTS: dict[str, Change] = {
    "default": _settings(),
    "no deep part": _settings(deep="none"),
    "no pairs": _settings(pairs_max=0),
    "no counts": _features(counts=False),
    "slow speed alone": _settings(speeds=(1.0,), speed_tau=(0.3,)),
    "slow pairs alone": _settings(pair_speeds=(1.0,), pair_tau=(0.02,)),
    "all embeddings at full scale": _settings(),  # see `play`
    "fixed priors": _settings(),  # see `play`
    "large first priors": _settings(speed_tau=(0.3, 0.1, 0.1), count_tau=0.05),
    "groups of 128": _settings(group=128),
    "deepfm": _settings(deep="deepfm"),
    "dlrm": _settings(deep="dlrm"),
    "logistic": _settings(deep="logistic"),
    "self-correction 0.1": _settings(self_correction=0.1),
    "self-correction 0.3": _settings(self_correction=0.3),
}


def play(name: str, features: Features, examples: Sequence[Example], seed: int) -> dict[str, float]:
    """Learn a stream with one variant: figures of the first examples and of the last half."""
    learner = Learner(*VARIANTS[name](features, LearnerSettings(seed=seed)))
    fast = learner.model.fast
    priors = fast.priors
    if name == "all embeddings at full scale":
        fast.scale_columns = fast.scale_columns._replace(scale_at=np.zeros_like(fast.scale_columns.scale_at))
    done = []
    for first in range(0, len(examples), CHUNK):
        done += learner.learn(examples[first : first + CHUNK])
        if name == "fixed priors":
            # What a chunk has moved is put back: within one, priors move by next to nothing.
            priors.theta[:] = 0.0
            priors.tau[:] = priors.tau0
    done += learner.finish()
    p, y, group = (np.concatenate([getattr(g, field) for g in done]) for field in ("p", "y", "group"))
    result = {}
    for part, rows in (("first", slice(0, FIRST)), ("last", slice(len(y) // 2, None))):
        figures = summarize(p[rows], y[rows], group[rows])
        result[f"{part}_auc"] = float(figures["auc"] or np.nan)
        result[f"{part}_logloss"] = float(figures["logloss"] or np.nan)
    return result


def _line(name: str, result: dict[str, float], against: dict[str, float]) -> str:
    keys = ("first_auc", "first_logloss", "last_auc", "last_logloss")
    return f"  {name:20s}" + "".join(f"  {result[k]:.4f} ({result[k] - against[k]:+.4f})" for k in keys)


def main() -> None:
    """Run, print a table for people, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--movies", type=Path, metavar="FOLDER", help="MovieTweetings")
    parser.add_argument("--streams", default=",".join(STREAMS), help="simulated worlds, by name")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="what to run; default is always")
    parser.add_argument("--movie-streams", default="movietweetings 8,movietweetings 9", help="of --movies")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one short stream")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers here")
    options = parser.parse_args()
    names = options.movie_streams.split(",") if options.movies else []
    names += ["sudden"] if options.quick else [n for n in options.streams.split(",") if n]
    variants = ["default", *[v for v in options.variants.split(",") if v != "default"]]
    by_stream: dict[str, dict[str, dict[str, float]]] = {}
    print("differences to the default in brackets; first 6,000: AUC, log loss; last half: AUC, log loss")
    for name, seed in product(names, range(options.seeds)):
        drawn = 0 if name.startswith("movietweetings") else seed
        requests = 1500 if options.quick else None
        stream = streams.make_stream(name, drawn, options.movies, requests)
        result = {v: play(v, stream.features, stream.shown, seed) for v in variants}
        by_stream[f"{name}, seed {seed}"] = result
        print(f"{name}, seed {seed}")
        for variant in variants:
            print(_line(variant, result[variant], result["default"]), flush=True)
    played = list(by_stream.values())
    means = {
        v: {k: float(np.mean([result[v][k] for result in played])) for k in played[0][v]} for v in variants
    }
    print(f"mean over {len(played)} streams and seeds")
    for variant in variants:
        print(_line(variant, means[variant], means["default"]))
    if options.json:
        options.json.write_text(
            json.dumps({"benchmark": "ablation", "streams": by_stream, "mean": means}, indent=1)
        )


if __name__ == "__main__":
    main()

"""Warnings about suspicious replays: an AUC near 1, or an AUC over shuffled labels that is not 0.5.

A column that contains the label in another form (`nonclk` beside `clk`, a date of purchase) makes every
metric excellent and the model useless, because its value is not known when the model must predict.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from freshet.config import Config
from freshet.files import JsonView
from freshet.replay.tape import ReplayOptions, open_tape
from learner.metrics import auc

AUC_MAX = 0.99
"""AUC above which a feature is assumed to contain the label."""
CANDIDATES_MIN = 500
LOOKED_AT = 20_000  # examples used to find the feature
ALONE_MAX = 0.97  # AUC of one feature alone
DEVIATIONS_MAX = 5.0  # standard deviations of an AUC over shuffled labels from 0.5


ADVICE = (
    "its features do not predict the label, or there are too few data; features that tell nothing can be "
    "removed, and admit_after keeps rare ids out"
)


def warnings_of(report: JsonView, config: Config, options: ReplayOptions) -> list[str]:
    """Warnings about a finished replay, each a sentence or two."""
    beaten = [] if options.shuffle_labels is not None else [*_distrusted(report)] or [*_beaten(report)]
    return [*_suspicions(report, config, options), *beaten]


def _distrusted(report: JsonView) -> Iterator[str]:
    """Of each target whose predictions are not the model's alone at the end."""
    for name, share in report["trust"].items():
        if share < 1.0:
            yield (
                f"the model of {name} has lost to the running rate: until it wins again its predictions keep "
                f"{share:.0%} of their distance from the rate (learner.trust_margin); {ADVICE}"
            )


def _beaten(report: JsonView) -> Iterator[str]:
    """Whether a constant predicts better than the model."""
    mine = report["corrected"]["last_half"]
    constant = report.get("baselines", {}).get("rate")
    if constant is None or mine["examples"] < CANDIDATES_MIN:
        return
    loss = constant["last_half"]["logloss"]
    if loss is not None and loss < mine["logloss"]:  # None: of a value
        yield (
            f"the rate of clicks alone has a log loss of {loss:.4f} over the last half, the model "
            f"{mine['logloss']:.4f}: {ADVICE}"
        )


def _suspicions(report: JsonView, config: Config, options: ReplayOptions) -> list[str]:
    last = report["base"]["last_half"]
    if last["auc"] is None or last["examples"] < CANDIDATES_MIN:
        return []
    if options.shuffle_labels is not None:
        return _shuffled(last)
    if last["auc"] < AUC_MAX:
        return []
    alone = dict(_alone(config, options))
    if alone:
        named = ", ".join(f"{name} (AUC {value:.4f} by itself)" for name, value in alone.items())
        which = f"these features tell the label by themselves: {named}. If they are known only afterwards, "
        which += "remove them from the config"
    else:
        which = "look for a feature that is known only afterwards, and remove it from the config"
    return [
        f"AUC {last['auc']:.4f} over the last half is too good to be true for people's choices; {which}. "
        "What is known only afterwards is missing when the model answers"
    ]


def _shuffled(last: JsonView) -> list[str]:
    positives = last["positives"]
    negatives = last["examples"] - positives
    deviation = np.sqrt((1.0 / positives + 1.0 / negatives) / 12.0)
    if abs(last["auc"] - 0.5) <= DEVIATIONS_MAX * deviation:
        return []
    return [
        f"AUC {last['auc']:.4f} over shuffled labels, where 0.5 ± {DEVIATIONS_MAX * deviation:.4f} is "
        "expected: the labels reach the predictions in some other way than by learning"
    ]


def _alone(config: Config, options: ReplayOptions) -> Iterator[tuple[str, float]]:
    """Features that predict the label on their own: fitted on one half of a sample, tested on the other."""
    tape = open_tape(config, options)
    values: dict[str, list[object]] = {name: [] for name in config.features}
    labels: list[float] = []
    try:
        for example in islice(tape, LOOKED_AT):
            for candidate, label in zip(example.candidates, example.labels, strict=True):
                labels.append(label)
                for name, column in values.items():
                    found = candidate.get(name, example.context.get(name))
                    column.append(repr(found) if isinstance(found, list) else found)
    finally:
        tape.close()
    y = np.array(labels)
    half = len(y) // 2
    for name, column in values.items():
        sums: dict[object, list[float]] = {}
        for value, label in zip(column[:half], labels[:half], strict=True):
            known = sums.setdefault(value, [0.0, 0.0])
            known[0] += label
            known[1] += 1.0
        rate = y[:half].mean()
        rates = ((sums.get(value, [0.0, 0.0])) for value in column[half:])
        p = np.array([(clicks + rate) / (seen + 1.0) for clicks, seen in rates])
        by_itself = auc(p, y[half:])
        if by_itself is not None and by_itself >= ALONE_MAX:
            yield name, by_itself

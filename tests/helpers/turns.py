"""Requests for shards to learn, and what is done with them."""

import msgspec
import numpy as np
import numpy.typing as npt

from learner.features.encoder import FeatureSpec
from learner.features.labelled import Labelled
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.shards.together import ShardedLearner
from learner.train.trainer import Learnt, Trainer
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Example

FEATURES = {
    "user": FeatureSpec(dim=4),
    "item": FeatureSpec(dim=4),
    "tags": FeatureSpec(kind="ids", dim=4, optimizer="adam"),
    "price": FeatureSpec(kind="number", dim=4),
    "recent": FeatureSpec(kind="sequence", of="item", dim=4),
}
KEPT = {
    "user": FeatureSpec(dim=4),
    "item": FeatureSpec(dim=4),
    "past": FeatureSpec(kind="history", by="user", of="item", length=5, dim=4),
    "of_item": FeatureSpec(kind="history", by="item", of="user", length=4, dim=2),
    "ctr": FeatureSpec(kind="rate", of="item", window_s=3000.0),
    "here": FeatureSpec(kind="rate", of=["user", "item"], window_s=6000.0, measure="count"),
}
SETTINGS = LearnerSettings(group=16)


def examples_of(n: int, *, slate: int = 1, seed: int = 0, targets: bool = False) -> list[Example]:
    """n requests of users with tastes, with labels by user and item; some have no user."""
    rng = np.random.default_rng(seed)
    users, items = rng.normal(0.0, 1.0, 40), rng.normal(0.0, 1.0, 50)
    found = []
    for i in range(n):
        user, shown = int(rng.integers(40)), rng.integers(0, 50, slate)
        odds = items[shown] + users[user]
        at = 1e9 + 20.0 * i
        context = {"user": f"u{user}"} if rng.random() < 0.95 else {}
        candidates = [
            {
                "item": int(item),
                "tags": [int(item) % 7, f"t{item % 3}"],
                "price": float(item),
                "recent": [int(item) + 1],
            }
            for item in shown
        ]
        labels = (rng.random(slate) < 1.0 / (1.0 + np.exp(-odds))).astype(float).tolist()
        example = Example(f"r{i}", at, at, candidates, labels, context)  # type: ignore[arg-type]
        found.append(example)
        clicked = [c for c, label in zip(candidates, labels, strict=True) if label]
        if targets and clicked:
            bought = [float(rng.random() < 0.3) for _ in clicked]
            minutes = [float(rng.gamma(4.0, 2.0)) for _ in clicked]
            for name, said in (("buy", bought), ("minutes", minutes)):
                found.append(msgspec.structs.replace(example, candidates=clicked, labels=said, target=name))
    return found


def chunks_of(
    examples: list[Example],
    cut: int,
    features: dict[str, FeatureSpec] = FEATURES,
    targets: Targets = UNDECLARED,
) -> list[Labelled]:
    encoder = Model(features, SETTINGS, targets).encoder
    return [Labelled.of(encoder, examples[i : i + cut], targets) for i in range(0, len(examples), cut)]


def learn(learner: ShardedLearner | Trainer, chunks: list[Labelled]) -> list[Learnt]:
    done = [learnt for chunk in chunks for learnt in learner.learn_labelled(chunk)]
    return [*done, *learner.finish()]


def predicted(learnt: list[Learnt]) -> npt.NDArray[np.float64]:
    return np.concatenate([one.p for one in learnt])

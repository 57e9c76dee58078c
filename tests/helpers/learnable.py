"""Streams of examples that only some models can learn."""

from typing import Literal

import numpy as np

from learner.features.encoder import FeatureSpec
from learner.metrics import auc
from learner.role.learner import Learner
from stream.records.types import Example

ALONE = FeatureSpec(pairs=False, dim=8)
Attention = Literal["decoupled", "shared"]


def xor_examples(n: int) -> list[Example]:
    """Clicks where exactly one of two ids is odd, nine times in ten: no sum over ids can tell."""
    rng = np.random.default_rng(3)
    a, b, noise = rng.integers(0, 30, n), rng.integers(0, 30, n), rng.random(n) < 0.1
    return [
        Example(
            str(i),
            1e9 + i,
            1e9 + i,
            [{"b": int(b[i])}],
            [float((a[i] + b[i]) % 2 != noise[i])],
            {"a": int(a[i])},
        )
        for i in range(n)
    ]


def last_auc(learner: Learner, examples: list[Example]) -> float:
    """AUC over the last fifth of progressive predictions."""
    done = learner.learn(examples) + learner.finish()
    p, y = np.concatenate([g.p for g in done]), np.concatenate([g.y for g in done])
    last = len(p) // 5
    value = auc(p[-last:], y[-last:])
    assert value is not None
    return value


def history_examples(n: int) -> list[Example]:
    """Clicks where the item's kind (of 5) is that of something seen before, nine times in ten."""
    rng = np.random.default_rng(6)
    found = []
    for i in range(n):
        past = rng.integers(0, 40, rng.integers(1, 4)).tolist()
        item = int(rng.integers(0, 40))
        likes = any(p % 5 == item % 5 for p in past)
        y = float(likes != (rng.random() < 0.1))
        found.append(Example(str(i), 1e9 + i, 1e9 + i, [{"item": item}], [y], {"past": past}))
    return found


def history_schema(attention: Attention) -> dict[str, FeatureSpec]:
    """An item and a sequence of items."""
    past = FeatureSpec(kind="sequence", of="item", attention=attention, dim=8)
    return {"item": ALONE, "past": past}

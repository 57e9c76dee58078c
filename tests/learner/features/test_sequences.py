"""Candidates that share a sequence need not repeat it: they are predicted with the same bits."""

import numpy as np
import pytest

from learner.features.encoder import FeatureSpec, Request
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from stream.records.types import Example, Features

SCHEMA = {
    "user": FeatureSpec(),
    "item": FeatureSpec(),
    "clicked": FeatureSpec(kind="sequence", of="item", length=4),
    "saved": FeatureSpec(kind="sequence", of="item", length=3, attention="shared"),
}

LEARNED = 48


def stream(count: int) -> list[Example]:
    rng = np.random.default_rng(4)
    found = []
    for q in range(count):
        candidates: list[Features] = [{"item": int(i)} for i in rng.choice(12, size=6, replace=False)]
        del candidates[4]["item"]  # nothing attends
        if q >= LEARNED:
            candidates[1] = {"item": 3, "clicked": [1, 2]}  # one's own
            candidates[3] = {"item": 99}  # which the model does not know
        context: Features = {
            "user": int(rng.integers(5)),
            "clicked": rng.integers(14, size=rng.integers(7)).tolist(),
            "saved": [str(i) for i in rng.integers(3, size=2)],
        }
        labels = (rng.random(6) < 0.4).astype(float).tolist()
        found.append(Example(str(q), 100.0 * q, 100.0 * q, candidates, labels, context))
    return found


@pytest.mark.parametrize("apart", [False, True])
def test_predictions_of_candidates_that_share_a_sequence_have_the_bits_of_those_that_repeat_it(
    apart: bool,
) -> None:
    """One request alone, which is encoded the quick way, and several; rows read in one call, and apart."""
    examples = stream(LEARNED + 12)
    trainer = Trainer(Model(SCHEMA, LearnerSettings(group=8), learning=True))
    trainer.learn(examples[:LEARNED])
    trainer.finish()
    model = trainer.model
    if apart:
        model.readers = None
    asked = [Request(e.time, e.context, e.candidates) for e in examples[LEARNED:]]
    for some in ([asked[0]], [asked[1]], asked):
        repeated, shared = model.encoder.encode(some), model.encoder.encode(some, shared=True)
        assert shared.rows.start[-1] < repeated.rows.start[-1]
        assert model.score(shared).p.tobytes() == model.score(repeated).p.tobytes()
    assert len({p.tobytes() for p in model.score(shared).p}) > 12, "lists are read"

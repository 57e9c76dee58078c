"""Scores with histories and rates: what was logged and what was used are one thing, to the bit."""

import msgspec
import numpy as np
import pytest

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from serving.replica.answering import LiveModel
from stream.records.types import Example, Features, Impression

START = 1_700_000_000.0
SCHEMA = {
    "user": FeatureSpec(),
    "item": FeatureSpec(),
    "land": FeatureSpec(pairs=False),
    "tags": FeatureSpec(kind="ids"),
    "past": FeatureSpec(kind="history", by="user", of="item", length=3),
    "ctr": FeatureSpec(kind="rate", of="item", window_s=800.0),
    "here": FeatureSpec(kind="rate", of=["item", "land"], window_s=800.0, measure="count"),
}


def stream(requests: int) -> list[Example]:
    """Few people and items, so that histories fill; a tenth of the requests says nobody's name."""
    rng = np.random.default_rng(4)
    found = []
    for q in range(requests):
        time = START + 7.25 * q
        candidates: list[Features] = [
            {"item": int(i), "tags": rng.integers(5, size=2).tolist()}
            for i in rng.choice(12, size=3, replace=False)
        ]
        context: Features = {"user": int(rng.integers(4))} if rng.random() < 0.9 else {}
        context["land"] = "de"
        labels = (rng.random(3) < 0.4).astype(float).tolist()
        found.append(Example(str(q), time, time, candidates, labels, context))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("deep", ["none", "dcn"])
def test_a_score_uses_what_was_filled_in_and_logged(deep: str) -> None:
    """The batch that a server filled in, the logged request encoded again, its tables read one by one:
    the same bits. The history of a first click holds an id that nothing was learned of as a history yet."""
    settings = LearnerSettings(deep=deep, group=4)
    trainer = Trainer(Model(SCHEMA, settings, learning=True))
    live = LiveModel(trainer.model, MemorySettings())
    for e in [*stream(60), Example("n", START + 9e5, 0.0, [{"item": 70}], [1.0], {"user": 77})]:
        asked = Impression("r", e.time + 1.0, [*e.candidates, {"item": 1}], context=e.context)
        filled = live.filled(asked)
        (scored,) = live.score([filled])
        logged = msgspec.json.decode(msgspec.json.encode(filled), type=Impression)
        assert logged is not filled
        (again,) = live.score([logged])
        readers, trainer.model.readers = trainer.model.readers, None
        by_table = trainer.model.score(trainer.model.encoder.encode([logged]))
        trainer.model.readers = readers
        assert scored.base == again.base == by_table.p.tolist()
        trainer.learn([e])
    first = live.filled(Impression("r", START + 1e6, [{"item": 1}, {"item": 70}], context={"user": 77}))
    assert first.context["past.keys"] == [70]
    assert np.isfinite(live.score([first])[0].base).all()

"""Explanations show the histories and rates that a score read, by value."""

import msgspec
import pytest

from error_memory import MemorySettings
from ground.keys import key_of
from learner.features.encoder import FeatureSpec
from learner.features.known.given import as_signed
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from serving.replica.answering import LiveModel
from serving.replica.explaining import ExplainedCandidate, with_filled
from stream.records.types import Example, Features, Impression

START = 1_700_000_000.0
SCHEMA = {
    "user": FeatureSpec(),
    "item": FeatureSpec(),
    "past": FeatureSpec(kind="history", by="user", of="item", length=30),
    "ctr": FeatureSpec(kind="rate", of="item", window_s=3600.0, smooth=10.0),
}


@pytest.fixture(scope="module")
def live() -> LiveModel:
    """Ann took 15 items: a, then 1 to 14, one every ten seconds. One of two candidates is taken each time."""
    trainer = Trainer(Model(SCHEMA, LearnerSettings(deep="none"), learning=True))
    for i, item in enumerate(["a", *range(1, 15)]):
        time = START + 10.0 * i
        trainer.learn(
            [Example(str(i), time, time, [{"item": item}, {"item": 99}], [1.0, 0.0], {"user": "ann"})]
        )
    return LiveModel(trainer.model, MemorySettings())


def explained(live: LiveModel, asked: Impression) -> list[ExplainedCandidate]:
    filled = live.filled(asked)
    return with_filled(live.explain(filled).candidates, asked, filled)


def test_history_and_rate_are_shown_by_value_beside_what_they_contribute(live: LiveModel) -> None:
    asked = Impression("r", START + 150.5, [{"item": 14}, {"item": 99}, {"item": "new"}], {"user": "ann"})
    first, second, third = explained(live, asked)
    assert isinstance(first.histories, dict) and isinstance(first.rates, dict)
    past = first.histories["past"]
    assert [(one.id, one.age_s) for one in past.ids] == [(i, 150 - 10 * i) for i in range(14, 4, -1)]
    assert past.more == 5
    assert first.rates["ctr"].of_all == pytest.approx(0.5)
    assert first.rates["ctr"].value == pytest.approx((1 + 10 * 0.5) / (1 + 10))
    assert isinstance(second.rates, dict) and isinstance(third.rates, dict)
    assert second.rates["ctr"].value == pytest.approx((0 + 10 * 0.5) / (15 + 10))
    assert third.rates["ctr"].value == pytest.approx(0.5)  # of an item that nobody saw
    assert "past.seen" in first.weights and "past.seen" in third.weights and "ctr" in first.weights
    assert first.filled is msgspec.UNSET  # not a second time, in pieces
    (bare,) = live.explain(msgspec.structs.replace(asked, candidates=[{"item": 14}])).candidates
    assert (bare.histories, bare.rates, bare.base) == (first.histories, first.rates, first.base)


def test_text_of_a_history_is_named_if_the_request_names_it(live: LiveModel) -> None:
    at = START + 5.0
    (named,) = explained(live, Impression("r", at, [{"item": "a"}], {"user": "ann"}))
    (other,) = explained(live, Impression("r", at, [{"item": 1}], {"user": "ann"}))
    assert isinstance(named.histories, dict) and isinstance(other.histories, dict)
    assert [(one.id, one.age_s) for one in named.histories["past"].ids] == [("a", 5)]
    assert msgspec.to_builtins(other.histories["past"].ids) == [{"key": as_signed(key_of("a")), "age_s": 5}]


def test_values_of_the_request_are_shown_as_they_were_sent(live: LiveModel) -> None:
    context: Features = {
        "user": "ann",
        "past": ["x" * 99, 7],
        "past.at": [int(START) - 60, int(START) - 1],
        "ctr": 0.25,
    }
    (one,) = explained(live, Impression("r", START, [{"item": 1}], context))
    assert msgspec.to_builtins(one.histories) == {
        "past": {"ids": [{"id": 7, "age_s": 1}, {"id": "x" * 64 + "…", "age_s": 60}]}
    }
    assert msgspec.to_builtins(one.rates) == {"ctr": {"value": 0.25}}
    (one,) = explained(live, Impression("r", START, [{"item": 1}], {"user": "ann", "past": [7]}))
    assert msgspec.to_builtins(one.histories) == {"past": {"ids": [{"id": 7}]}}
    (one,) = explained(live, Impression("r", START, [{"item": 1}], {}))
    assert one.histories is msgspec.UNSET

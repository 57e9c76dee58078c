"""Weights from logged propensities: as if all orders had been equally likely."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from freshet.config import load_config
from freshet.errors import ConfigError
from learner.features.labelled import lessons_of
from learner.features.spec import FeatureSpec
from learner.model.identity import fingerprint
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from stream.errors import RecordError
from stream.records.decoding import check
from stream.records.targets import UNDECLARED, Target, Targets
from stream.records.types import Example, Impression

CLIP = 4.0
WEIGHED = Targets({"click": Target(propensity_clip=CLIP), "buy": Target(of="click")})


def example(**more: object) -> Example:
    plain = Example("r", 1e9, 1e9, [{"item": i} for i in range(3)], [1.0, 0.0, 0.0])
    return msgspec.structs.replace(plain, **more)


def test_candidates_count_by_how_unlikely_their_place_was() -> None:
    drawn = example(propensity=[0.8, 1.0 / 3.0, 0.01])
    plain = example()
    corrects = example(propensity=[0.8, 0.5, 0.5], before=[0.0, 0.0, 0.0])
    of_click = example(target="buy", candidates=[{"item": 0}], labels=[1.0], propensity=None)
    weighed = example(propensity=[0.8, 1.0 / 3.0, 0.01], weight=[2.0, 0.0, 0.5])
    of_more = example(propensity=[0.8, 1.0 / 3.0, 0.01], candidate_count=6)  # three of six were shown
    found = lessons_of([drawn, plain, corrects, of_click, weighed, of_more], WEIGHED).weight.tolist()
    first = 1.0 / 2.4
    expected = [first, 1.0, CLIP, 1.0, 1.0, 1.0, first, 2 / 3, 2 / 3, 1.0, 2.0 * first, 0.0, 0.5 * CLIP]
    assert found == pytest.approx([*expected, first / 2, 0.5, CLIP])
    # without the setting, propensities mean what they meant
    assert lessons_of([drawn, plain]).weight.tolist() == [1.0] * 6
    assert lessons_of([drawn], Targets({"click": Target()})).weight.tolist() == [1.0] * 3


def test_what_was_always_on_top_is_not_taken_for_better() -> None:
    rng = np.random.default_rng(0)
    examples = []
    for q in range(1_500):  # item 0 comes first nine times in ten; item 1 is better
        first = int(rng.random() < 0.1)
        place = [first, 1 - first]
        looked = [1.0 if p == 0 else 0.3 for p in place]
        labels = [float(rng.random() < share * p) for share, p in zip((0.4, 0.6), looked, strict=True)]
        q_of = [0.9 if p == i else 0.1 for i, p in enumerate(place)]
        items = [{"item": 0}, {"item": 1}]
        examples.append(Example(str(q), 1e9 + q, 1e9 + q, items, labels, place=place, propensity=q_of))
    asked = Impression("r", 2e9, [{"item": 0}, {"item": 1}])
    best = {}
    for targets in (UNDECLARED, Targets({"click": Target(propensity_clip=10.0)})):
        model = Model({"item": FeatureSpec()}, LearnerSettings(deep="none"), targets, learning=True)
        trainer = Trainer(model)
        trainer.learn(examples)
        trainer.finish()
        p = model.score_requests([asked]).p
        best[targets is UNDECLARED] = int(np.argmax(p))
    assert best == {True: 0, False: 1}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("propensity_clip = 0.5", "propensity_clip is 0.5; expected 0"),
        ("propensity_clip = -1.0", "expected 0, for no weights, or the largest weight, from 1 to"),
        ("propensity_clip = 1e9", "from 1 to 1e"),
        ("propensity_clip = nan", "expected a finite number"),
        ("propensity_clip = 5.0\n[targets.buy]\nof = 'click'\npropensity_clip = 5.0", "without `of`"),
        ("propensity_clip = 5.0\n[join]\nnegative_rate = 0.5", "join.negative_rate = 1"),
    ],
)
def test_bad_clip_is_refused(tmp_path: Path, settings: str, why: str) -> None:
    path = tmp_path / "freshet.toml"
    path.write_text(f"[features.item]\n[targets.click]\n{settings}\n")
    with pytest.raises(ConfigError, match=why):
        load_config(path)


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.5, math.nan, math.inf])
def test_bad_propensity_is_refused(wrong: float) -> None:
    with pytest.raises(RecordError, match="propensity has a value that is not above 0 and at most 1"):
        check(Impression("r", 1e9, [{"item": 1}, {"item": 2}], propensity=[0.5, wrong]))
    with pytest.raises(RecordError, match="propensity has 1 entries for 2 candidates"):
        check(Impression("r", 1e9, [{"item": 1}, {"item": 2}], propensity=[0.5]))


def test_state_that_was_begun_with_another_clip_is_another() -> None:
    features, settings = {"item": FeatureSpec()}, LearnerSettings()
    assert fingerprint(features, settings, Targets({"click": Target()})) == fingerprint(features, settings)
    with_clip = fingerprint(features, settings, Targets({"click": Target(propensity_clip=5.0)}))
    assert with_clip != fingerprint(features, settings)

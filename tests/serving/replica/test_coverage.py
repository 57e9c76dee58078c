"""What a model knows of the requests that it scores, counted by feature and listed where it is asked for."""

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec, Request
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from serving.replica.answering import LiveModel
from serving.replica.coverage import LISTED_MAX, FeatureCounts, Listed
from stream.records.types import Example

FEATURES = {
    "user": FeatureSpec(),
    "item": FeatureSpec(),
    "tags": FeatureSpec(kind="ids"),
    "price": FeatureSpec(kind="number"),
    "hour": FeatureSpec(kind="hour"),
}


def live() -> LiveModel:
    """A model that knows user ann, items 1 and 2, and tag a."""
    settings = LearnerSettings(deep="none")
    model = Model(FEATURES, settings, learning=True)
    trainer = Trainer(model)
    shown = [{"item": item, "tags": ["a"], "price": 1.0} for item in (1, 2)]
    for n in range(5):
        example = Example(f"r{n}", 10.0, 10.0, shown, [1.0, 0.0], {"user": "ann"})
        trainer.learn([example])
    return LiveModel(model, MemorySettings())


def test_known_request_has_nothing_unknown() -> None:
    scorer = live()
    candidates = [{"item": 1, "tags": ["a"], "price": 1.0}, {"item": 2, "tags": ["a"], "price": 1.0}]
    (scored,) = scorer.score([Request(10.0, {"user": "ann"}, candidates)])
    assert scored.coverage is not None
    said = scored.coverage.of({"user": "ann"}, candidates)
    assert (said.ids, said.missing, said.undeclared) == ({}, {}, [])
    assert scorer.coverage.totals()["item"] == FeatureCounts(2, 0, 0)
    assert scorer.coverage.totals()["price"] == scorer.coverage.totals()["hour"] == FeatureCounts(0, 0, 0)


def test_unknown_ids_and_missing_features_are_found_by_candidate() -> None:
    scorer = live()
    context = {"usr": "ann"}
    candidates = [{"item": 1, "tags": ["a", "b"]}, {"item": "1", "price": 3.0}, {"item": 2, "colour": 1}]
    for answer in (
        scorer.score([Request(10.0, {}, [{"item": 1}]), Request(10.0, context, candidates)])[1],
        scorer.explore(Request(10.0, context, candidates), 1, 10),
    ):
        assert answer.coverage is not None
        said = answer.coverage.of(context, candidates)
        assert said.ids == {"item": Listed([1]), "tags": Listed([0])}
        assert said.missing == {"user": Listed([0, 1, 2]), "tags": Listed([1, 2]), "price": Listed([0, 2])}
        assert said.undeclared == ["colour", "usr"]
    counts = scorer.coverage.totals()
    assert counts["item"] == FeatureCounts(7, 2, 0) and counts["tags"] == FeatureCounts(4, 2, 5)
    assert counts["user"] == FeatureCounts(0, 0, 7)


def test_lists_of_an_answer_are_bounded() -> None:
    candidates = [{"item": 100 + n, f"x{n}": "y" * 1000} for n in range(150)]
    (scored,) = live().score([Request(10.0, {}, candidates)])
    assert scored.coverage is not None
    said = scored.coverage.of({}, candidates)
    assert said.ids["item"] == Listed(list(range(LISTED_MAX)), 50)
    assert len(said.undeclared) == LISTED_MAX

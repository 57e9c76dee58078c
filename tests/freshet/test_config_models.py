"""[models.NAME]: each model's own config, and what is refused."""

from pathlib import Path

import pytest

from freshet.config import all_features, each_model, load_config, parse_config
from freshet.errors import ConfigError
from freshet.roles.opening import topics_of

FEATURES = {"user": {}, "item": {}}


def test_each_model_has_its_own_settings_topics_and_folders(tmp_path: Path) -> None:
    table = {
        "features": FEATURES,
        "models": {
            "challenger": {
                "share": 0.1,
                "set": ["learner.deep=none", "features.user.dim=4", "features.age.kind=number"],
                "metrics_port": 9104,
            }
        },
    }
    config = parse_config(table, "test")
    main, challenger = each_model(config).values()
    assert (main.learner.deep, challenger.learner.deep) == ("dcn", "none")
    assert (main.features["user"].dim, challenger.features["user"].dim) == (16, 4)
    assert list(all_features(config)) == ["user", "item", "age"]
    assert (str(main.state_of("learn")), str(main.snapshots)) == (".freshet/learn", ".freshet/snapshots")
    assert str(challenger.state_of("learn")) == ".freshet/learn.challenger"
    assert str(challenger.snapshots) == ".freshet/snapshots.challenger"
    assert challenger.state_of("join") == main.state_of("join")
    # what was served may be another model's prediction
    assert main.learner.score == challenger.learner.score == "own"
    assert challenger.metrics_of_learner.learn_port == 9104 and main.metrics_of_learner.learn_port == 0
    assert config.shares == {"main": 0.9, "challenger": 0.1} and config.route_by == "user"
    assert {"updates.challenger", "snapshots.challenger", "models"} <= set(topics_of(config))
    chosen = parse_config(table, "test", ["model=challenger"])
    assert chosen.learner.deep == "none" and chosen.state_of("learn") == challenger.state_of("learn")


def test_examples_are_sharded_if_any_model_is_learned_in_shards() -> None:
    table = {"features": FEATURES, "models": {"wide": {"set": ["learner.shards.count = 2"]}}}
    main, wide = each_model(parse_config(table, "test")).values()
    assert (main.learner.shards.count, wide.learner.shards.count) == (1, 2)
    assert main.joining == wide.joining and main.joining.shard_by == "user"
    table["models"] = {"wide": {"set": ["learner.shards={count=1}"]}}
    assert parse_config(table, "test").joining.shard_by == ""
    main, wide = each_model(parse_config(table, "test", ["learner.shards.count=3"])).values()
    assert (main.learner.shards.count, wide.learner.shards.count) == (3, 1)
    assert main.joining.shard_by == "user"


def test_one_model_is_as_before() -> None:
    config = parse_config({"features": FEATURES}, "test")
    assert each_model(config) == {"main": config}
    assert config.learner.score == "served" and not config.takes_orders
    assert "models" not in topics_of(config) and config.shares == {"main": 1.0}
    assert parse_config({"features": FEATURES}, "test", ["model=main"]).state_of("learn") == config.state_of(
        "learn"
    )


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ({"main": {}}, "models.main: that is the name of the model of [features] and [learner] themselves"),
        ({"Main": {}}, "models.Main: a name has 1 to 32 of a-z"),
        ({"a.b": {}}, "models.a.b: a name has"),
        *(({name: {}}, f"models.{name}: a name has") for name in ("..", "a/b", "", "-a", "ä", "a\n")),
        ({"freshet": {}}, "models.freshet: clients of the Open Inference Protocol call"),
        ({"a" * 33: {}}, "a name has 1 to 32"),
        ({"a": {"share": 0.7}, "b": {"share": 0.4}}, "add up to 1.1, more than 1: a 0.7, b 0.4; main has"),
        ({"a": {"share": -0.1}}, "section [models.a]: share is -0.1; expected 0 to 1"),
        ({"a": {"share": float("nan")}}, "models.a.share: expected a finite number"),
        ({"a": {"shares": 0.1}}, "models.a.shares is unknown; did you mean models.a.share?"),
        ({"a": {"set": ["server.port=1"]}}, "'server.port=1': a model may differ in features, learner"),
        ({"a": {"set": ["learner.dep=none"]}}, "models.a.set: key learner.dep is unknown; did you mean"),
        ({"a": {"set": ["learner.deep"]}}, "expected section.key=value"),
        ({"a": {"set": ["learner.group=0"]}}, "models.a.set: section [learner]: group must be"),
        ({"a": {"set": ["features.user.kind=number"]}}, "events are read once, for all models"),
        ({"a": {"set": ["learner.self_correction=0.5"]}}, "self_correction of model a needs"),
        ({f"m{i}": {} for i in range(8)}, "8 sections [models.NAME]; expected at most 7"),
        ({"a": {"metrics_port": 70_000}}, "metrics_port must be 0 to 65535"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_models_is_named(models: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"features": FEATURES, "models": models}, "test.toml")
    assert said in str(caught.value) and str(caught.value).startswith("test.toml")


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[features.user]\n[models.a]\n[models.a]\n")
    with pytest.raises(ConfigError, match=r"c\.toml: this is not TOML: Cannot declare .*models.*a"):
        load_config(tmp_path / "c.toml")


def test_unknown_model_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"model is 'b'; there are main, a: add a section \[models\.b\]"):
        parse_config({"features": FEATURES, "models": {"a": {}}}, "test.toml", ["model=b"])

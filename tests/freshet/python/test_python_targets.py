"""`freshet.Model` with several targets: the bits of a replay, later labels, saved, refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freshet import Model, ModelError
from freshet.config import parse_config
from freshet.replay.replay import Replay
from learner.features.labelled import Labelled
from stream.limits import VALUE_MAX, WEIGHT_MAX
from stream.records.types import Example

FEATURES = {"user": {"kind": "id"}, "item": {"kind": "id"}}
TARGETS: dict[str, dict[str, Any]] = {
    "click": {},
    "buy": {"of": "click"},
    "minutes": {"kind": "value", "of": "click", "scale": "log1p"},
}
PLAIN = {"deep": "none"}


def made(n: int) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    """People who click on even items, buy the first ones, and watch the others for long."""
    rng = np.random.default_rng(2)
    items = rng.integers(0, 6, n)
    rows = [{"user": int(u), "item": int(i), "time": 1e9 + t} for t, (u, i) in enumerate(zip(rng.integers(0, 9, n), items, strict=True))]  # fmt: skip  # noqa: E501
    click = rng.random(n) < np.where(items % 2 == 0, 0.7, 0.2)
    buy = rng.random(n) < np.where(items < 3, 0.6, 0.1)
    minutes = 10.0 * (items + 1) * rng.random(n)
    return rows, {
        "click": click.astype(int).tolist(),
        "buy": [int(b) if c else None for b, c in zip(buy, click, strict=True)],
        "minutes": [float(m) if c else None for m, c in zip(minutes, click, strict=True)],
    }


def test_labels_by_target_give_the_state_of_a_replay() -> None:
    rows, labels = made(400)
    model = Model(FEATURES, learner=PLAIN, targets=TARGETS)
    for first, last in ((0, 3), (3, 150), (150, 400)):  # in any cut
        model.learn(rows[first:last], {name: given[first:last] for name, given in labels.items()})
    replay = Replay(parse_config({"features": FEATURES, "learner": PLAIN, "targets": TARGETS}, "test"))
    examples = []
    for n, row in enumerate(rows):
        for name in TARGETS:
            if labels[name][n] is not None:
                said = [{key: row[key] for key in FEATURES}], [float(labels[name][n])]
                target = "" if name == "click" else name
                examples.append(Example(str(n), row["time"], row["time"], *said, target=target))
    learner = replay.learner
    replay.take(Labelled.of(learner.model.encoder, examples, learner.model.targets))
    assert model.state_hash() == replay.finish()

    said = model.predict_targets(rows[:60])
    assert list(said) == list(TARGETS) and all(
        np.array_equal(said[t], model.predict(rows[:60], t)) for t in said
    )
    assert np.array_equal(said["click"], model.predict(rows[:60]))
    assert (said["buy"] < said["click"]).all()  # a purchase needs a click
    items = np.array([row["item"] for row in rows[:60]])
    assert said["buy"][items == 0].mean() > 3.0 * said["buy"][items == 4].mean()
    assert said["minutes"][items == 4].mean() > 2.0 * said["minutes"][items == 0].mean()
    assert model.metrics("buy")["examples"] == sum(labels["click"]) < model.metrics()["examples"] == 400
    assert model.metrics("minutes")["mae"] > 0.0  # type: ignore[typeddict-item]


@pytest.mark.slow
def test_later_labels_are_learned_by_themselves_and_corrected() -> None:
    rows, labels = made(200)
    at_once, later = (Model(FEATURES, learner=PLAIN, targets=TARGETS) for _ in range(2))
    clicked = [n for n, label in enumerate(labels["click"]) if label]
    for n, row in enumerate(rows):
        at_once.learn([row], {"click": [labels["click"][n]], "buy": [labels["buy"][n]]})
        later.learn([row], [labels["click"][n]])
        if n in clicked:
            later.learn([row], [labels["buy"][n]], "buy")
    assert at_once.state_hash() == later.state_hash()
    before = later.predict(rows[:1], "buy")
    later.learn([rows[clicked[0]]] * 5, [1] * 5, "buy", before=[0] * 5)
    assert later.predict(rows[:1], "buy") > before
    assert len(clicked) - 16 < later.metrics("buy")["examples"] <= len(clicked)  # corrections are not scored
    state = later.predict(rows)
    later.learn(rows, labels["click"], weight=[0.0] * len(rows))
    assert np.abs(later.predict(rows) - state).max() < 0.02  # only that they were seen


def test_saved_with_its_targets_and_of_a_config(tmp_path: Path) -> None:
    rows, labels = made(120)
    file = tmp_path / "freshet.toml"
    file.write_text(
        "[features.user]\n[features.item]\n[learner]\ndeep = 'none'\n[targets.click]\n[targets.buy]\n"
        "of = 'click'\nwindow_s = 600\n[targets.minutes]\nkind = 'value'\nof = 'click'\nscale = 'log1p'\n"
    )
    model = Model.from_config(file)
    assert list(model.targets) == list(TARGETS) and model.targets["buy"].window_s == 600
    model.learn(rows[:80], {name: given[:80] for name, given in labels.items()})
    again = Model.from_bytes(model.to_bytes())
    for one in (model, again):
        one.learn(rows[80:], {name: given[80:] for name, given in labels.items()})
    assert again.targets == model.targets and again.state_hash() == model.state_hash()


@pytest.mark.parametrize(
    ("labels", "given", "why"),
    [
        ({"click": [1], "like": [1]}, {}, "'like' is no target; declared: click, buy, minutes"),
        ({"buy": [1]}, {}, "those of the first, click, are missing"),
        ({"click": [1], "buy": [2]}, {}, "a label of buy is 2; expected 0 or 1"),
        ({"click": [1], "buy": [0.5]}, {}, "a label of buy is 0.5; expected 0 or 1"),
        ({"click": [1], "minutes": [-1.0]}, {}, "a label of minutes is -1.0; expected a finite number"),
        ({"click": [1], "minutes": [True]}, {}, "a label of minutes is True; expected a finite number"),
        ({"click": [1], "minutes": ["1e400"]}, {}, "a label of minutes is '1e400'"),
        ({"click": [1], "minutes": [float("inf")]}, {}, "a label of minutes is inf"),
        ({"click": [None]}, {}, "a label of click is None; expected 0 or 1"),
        ({"click": [1, 0]}, {}, "2 labels came for 1 candidates"),
        ({"click": [1]}, {"target": "buy"}, "`target` and `before` are for those of one target"),
        ([1], {"target": "like"}, "'like' is no target"),
        ([None], {"target": "buy"}, "a label of buy is None"),
        ([1], {"weight": [-1]}, "a number in weight is -1; expected a finite one of at least 0"),
        ([1], {"weight": [1, 1]}, "2 numbers in weight came for 1 candidates"),
        ([1], {"target": "minutes", "before": ["a"]}, "a number in before is 'a'"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_and_nothing_is_learned(
    labels: object, given: dict[str, Any], why: str
) -> None:
    model = Model(FEATURES, learner=PLAIN, targets=TARGETS)
    before = model.state_hash()
    with pytest.raises(ModelError, match=why.replace("`", ".")):
        model.learn([{"user": 1, "item": 1}], labels, **given)
    with pytest.raises(ModelError, match="'like' is no target"):
        model.predict([{"user": 1}], "like")
    assert model.state_hash() == before


@pytest.mark.parametrize("scale", ["linear", "log1p"])
def test_model_stays_finite_with_the_largest_values_and_weights(scale: str) -> None:
    targets = {"value": {"kind": "value", "scale": scale}}
    model = Model({"item": {"kind": "id"}}, learner=PLAIN, targets=targets)
    rows = [{"item": i % 4} for i in range(200)]
    for value, weight in (
        (3.0, 1.0),
        (VALUE_MAX, 1.0),
        (0.0, WEIGHT_MAX),
        (VALUE_MAX, WEIGHT_MAX),
        (3.0, 1.0),
    ):
        model.learn(rows, [value] * 200, weight=[weight] * 200)
        assert np.isfinite(model.predict(rows[:4])).all()
    assert all(np.isfinite(v) for v in model.metrics().values() if isinstance(v, float))
    with pytest.raises(ModelError, match=r"at most 1e\+15"):
        model.learn(rows[:1], [1e16])

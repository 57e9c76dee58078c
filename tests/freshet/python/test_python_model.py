"""`freshet.Model`: the bits of a replay, every front the same, saved and restored, and what is refused."""

import datetime
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freshet import ConfigError, Model, ModelError
from freshet.config import parse_config
from freshet.replay.replay import Replay
from ground import FreshetError
from learner.errors import FeatureError
from learner.features.labelled import Labelled
from stream.records.types import Example

FEATURES = {
    "user": {"kind": "id"},
    "item": {"kind": "id"},
    "tags": {"kind": "ids"},
    "price": {"kind": "number"},
}
Rows = list[dict[str, Any]]


def made(n: int, seed: int = 0) -> tuple[Rows, list[int]]:
    """Rows with a pattern that can be learned, and their labels."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for i in range(n):
        user, item = int(rng.integers(20)), int(rng.integers(10))
        row = {"user": f"u{user}", "item": item, "tags": ["a", "b"][: 1 + item % 2], "price": 1.5 * item}
        rows.append({**row, "time": 1e9 + 60.0 * i})
        labels.append(int(rng.random() < (0.8 if (user + item) % 3 == 0 else 0.2)))
    return rows, labels


@pytest.mark.slow
def test_learned_rows_give_the_state_of_a_replay() -> None:
    rows, labels = made(500)
    model = Model(FEATURES)
    for first in (0, 1, 40, 333):  # in any cut
        last = {0: 1, 1: 40, 40: 333, 333: 500}[first]
        model.learn(rows[first:last], labels[first:last])
    config = parse_config({"features": FEATURES}, "test")
    replay = Replay(config)
    examples = [
        Example(str(i), row["time"], row["time"], [{n: row[n] for n in FEATURES}], [float(label)])
        for i, (row, label) in enumerate(zip(rows, labels, strict=True))
    ]
    replay.take(Labelled.of(replay.learner.model.encoder, examples))
    assert model.state_hash() == replay.finish()
    expected = replay.learner.model.score_requests(examples[:50]).p
    replay.learner.close()
    # the replay has also learned the last rows of the deep part by now, which a live model has not
    assert np.abs(model.predict(rows[:50]) - expected).max() < 0.05


def test_predicting_changes_nothing() -> None:
    rows, labels = made(100)
    model = Model(FEATURES)
    model.learn(rows, labels)
    before = model.state_hash()
    first = model.predict([*rows, {"user": "new", "item": 99}])
    assert np.array_equal(first, model.predict([*rows, {"user": "new", "item": 99}]))
    assert model.state_hash() == before and ((first > 0) & (first < 1)).all()


def test_requests_of_several_candidates_are_predicted_before_one_is_learned() -> None:
    slates = [
        {"context": {"user": f"u{i % 7}"}, "candidates": [{"item": i % 5}, {"item": 5}], "time": 1e9 + i}
        for i in range(200)
    ]
    labels = [[1, 0] if i % 5 == 0 else [0, 0] for i in range(200)]
    whole, rows = Model(FEATURES), Model(FEATURES, request="visit")
    whole.learn(slates, labels)
    flat = [
        {**slate["context"], **candidate, "time": slate["time"], "visit": i}
        for i, slate in enumerate(slates)
        for candidate in slate["candidates"]
    ]
    rows.learn(flat, [label for each in labels for label in each])
    assert rows.state_hash() == whole.state_hash()
    assert np.array_equal(whole.predict(slates), rows.predict(flat)) and len(whole.predict(slates)) == 400


def test_metrics_are_of_predictions_before_learning() -> None:
    rows, labels = made(2000)
    model = Model(FEATURES)
    model.learn(rows, labels)
    assert 0.65 < model.metrics()["auc"] < 0.85


def test_time_may_be_a_datetime_or_left_out() -> None:
    rows, labels = made(50)
    seconds, datetimes, without = Model(FEATURES), Model(FEATURES), Model(FEATURES)
    seconds.learn(rows, labels)
    utc = datetime.UTC
    datetimes.learn([{**r, "time": datetime.datetime.fromtimestamp(r["time"], utc)} for r in rows], labels)
    assert seconds.state_hash() == datetimes.state_hash()
    for row, label in zip(rows, labels, strict=True):
        without.learn([{n: row[n] for n in FEATURES}], [label])
    assert without.metrics()["examples"] > 0


def test_features_are_found_in_the_first_rows() -> None:
    rows, labels = made(400)
    model = Model()
    with pytest.raises(ModelError, match="no features are known yet"):
        model.predict(rows)
    model.learn(rows, labels)
    kinds = {name: spec.kind for name, spec in (model.features or {}).items()}
    assert kinds["user"] == "id" and kinds["tags"] == "ids" and kinds["hour"] == "hour"
    assert "time" not in kinds
    assert model.predict(rows).std() > 0.0


def test_saved_model_continues_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    rows, labels = made(300)
    model = Model(FEATURES, learner={"group": 16})
    model.learn(rows[:150], labels[:150])
    model.save(tmp_path / "m")
    for twin in (Model.load(tmp_path / "m"), pickle.loads(pickle.dumps(model))):
        assert twin.state_hash() == model.state_hash()
        assert np.array_equal(twin.predict(rows), model.predict(rows))
        assert twin.metrics() == model.metrics()
    again = Model.load(tmp_path / "m")
    model.learn(rows[150:], labels[150:])
    again.learn(rows[150:], labels[150:])
    again.save(tmp_path / "m")  # over the file that it came from
    assert Model.load(tmp_path / "m").state_hash() == model.state_hash() == again.state_hash()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.slow
def test_saving_changes_nothing_and_gives_the_same_bytes() -> None:
    model = Model({**FEATURES, "user": {"kind": "id", "ttl_s": 600.0, "admit_after": 2}})
    model.learn(*made(200))
    before = model.state_hash()
    assert model.to_bytes() == model.to_bytes()
    assert model.state_hash() == before == Model.from_bytes(model.to_bytes()).state_hash()


def test_model_without_features_yet_is_saved_too(tmp_path: Path) -> None:
    Model(time="at").save(tmp_path / "m")
    rows, labels = made(50)
    model = Model.load(tmp_path / "m")
    model.learn([{**row, "at": row["time"]} for row in rows], labels)
    assert "at" not in (model.features or {})


def test_model_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    model = Model(FEATURES)
    model.learn(*made(4))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelError, match="folder: the model cannot be written"):
        model.save(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_file_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with pytest.raises(ModelError, match="m: the model cannot be read: No such file"):
        Model.load(path)
    path.write_bytes(b"something else")
    with pytest.raises(ModelError, match="holds no model"):
        Model.load(path)
    path.write_bytes(b"freshet model 9\n...")
    with pytest.raises(ModelError, match="later Freshet"):
        Model.load(path)
    model = Model(FEATURES)
    model.learn(*made(40))
    model.save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="checksum"):
        Model.load(path)
    with pytest.raises(ModelError, match="cannot be written: No such file"):
        model.save(tmp_path / "no" / "m")


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ("abc", [1], "requests are a str"),
        (7, [1], "requests are a int"),
        ([1], [1], "a row is a int"),
        ([{"user": "a"}, {"user": "b"}], [1], "1 labels came for 2 candidates"),
        ([{"user": "a"}], [2], "a label is 2; expected 0 or 1"),
        ([{"user": "a"}], [None], "a label is None"),
        ([{"user": "a"}], [float("nan")], "a label is nan"),
        ([{"user": "a"}, {"user": 1 << 64}], [0, 0], "row 1: row.user is 18446744073709551616"),
        ([{"user": {"id": 1}}], [0], "row 0: row.user is an object"),
        ([{"price": float("inf")}], [0], "row 0: row.price is inf"),
        ([{"user": "a", "time": 1.7e12}], [0], "milliseconds"),
        ([{"user": "a", "time": "noon"}], [0], "time is 'noon'"),
        ([{"candidates": []}], [0], "at least one dict"),
        ([{"candidates": [1]}], [0], "must be dicts"),
        ([{"candidates": [{}], "context": [1]}], [0], "must be dicts"),
    ],
)  # fmt: skip
def test_row_or_label_that_cannot_be_used_is_refused_and_nothing_learned(
    rows: Any, labels: Any, message: str
) -> None:
    model = Model(FEATURES)
    model.learn(*made(10))
    before = model.state_hash()
    with pytest.raises(ModelError, match=message):
        model.learn(rows, labels)
    assert model.state_hash() == before


def test_value_of_another_kind_is_refused_and_nothing_learned() -> None:
    model = Model(FEATURES)
    rows, labels = made(10)
    before = model.state_hash()
    with pytest.raises(FeatureError, match="feature price"):
        model.learn([*rows, {"price": "dear"}], [*labels, 0])
    with pytest.raises(FeatureError, match="feature item"):
        model.predict([{"item": 2.5}])
    assert model.state_hash() == before


def test_missing_values_and_other_columns_are_no_features() -> None:
    model = Model(FEATURES)
    model.learn(*made(100))
    row = {"user": "u1", "item": 3}
    p = model.predict([{**row, "price": None, "other": object()}, {**row, "price": float("nan")}, row])
    assert p[0] == p[1] == p[2]
    assert model.predict([{"user": "u1", "item": np.int64(3)}])[0] == p[0]
    assert model.predict([]).shape == (0,)
    assert model.predict({"user": "u1", "item": 3})[0] == p[0]
    model.learn([], [])


def test_settings_are_checked_when_the_model_is_made() -> None:
    with pytest.raises(ConfigError, match=r"Model: key features.user.kind"):
        Model({"user": {"kind": "color"}})
    with pytest.raises(ConfigError, match=r"learner.dep is unknown; did you mean learner.deep"):
        Model(FEATURES, learner={"dep": "none"})
    assert repr(Model(FEATURES)) == "freshet.Model(features: user, item, tags, price; 0 rows learned)"


def test_model_of_a_config_file(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text('[features.user]\n[features.item]\n[learner]\ndeep = "none"\n')
    model = Model.from_config(tmp_path / "f.toml")
    model.learn([{"user": 1, "item": 2}], [1])
    assert list(model.features or {}) == ["user", "item"]


class _Polars:
    """What a polars frame has."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def to_dicts(self) -> Rows:
        return self._rows


def test_frame_of_polars_is_its_rows() -> None:
    rows, labels = made(60)
    frame, dicts = Model(FEATURES), Model(FEATURES)
    frame.learn(_Polars(rows), np.array(labels))
    dicts.learn(rows, labels)
    assert frame.state_hash() == dicts.state_hash()


def test_attributes_that_were_told_need_not_be_in_rows_and_are_saved() -> None:
    features = {"user": {}, "item": {}, "brand": {"of": "item"}}
    told, said = Model(features=features), Model(features=features)
    for item in range(6):
        told.tell("item", item, {"brand": f"b{item % 2}"}, time=10.0)
    rows = [{"user": "ann", "item": item, "time": 20.0 + item} for item in range(6)]
    full = [row | {"brand": f"b{row['item'] % 2}"} for row in rows]  # type: ignore[operator]
    labels = [row["item"] % 2 for row in rows]  # type: ignore[operator]
    for _ in range(5):
        told.learn(rows, labels)
        said.learn(full, labels)
    assert told.predict(rows).tolist() == said.predict(full).tolist()
    early = [row | {"time": 5.0} for row in rows]  # before anything was true
    assert told.predict(early).tolist() == said.predict(early).tolist() != told.predict(rows).tolist()
    again = Model.from_bytes(told.to_bytes())
    assert again.predict(rows).tolist() == told.predict(rows).tolist()
    assert again.state_hash() == told.state_hash() != said.state_hash()
    with pytest.raises(FreshetError, match="feature brand"):
        told.tell("item", 1, {"brand": 3.5})
    with pytest.raises(FreshetError, match="not declared"):
        told.tell("itm", 1, {"brand": "b"})
    with pytest.raises(FreshetError, match="entity item 1"):
        told.tell("item", 1, {"brand": {"name": "b"}})

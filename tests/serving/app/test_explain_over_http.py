"""What Freshet knows by itself, as POST /v1/explain shows it: by name and value."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from error_memory import MemorySettings
from learner.features.spec import FeatureSpec
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from serving.app.app import App
from serving.app.server import run_app
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.log.base import DEAD_LETTERS, EXAMPLES, Log, Outgoing
from stream.records.entities.record import EntityEvent
from stream.records.types import Example, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

T = 1_700_000_000.0  # a Tuesday, 23:13 in Berlin
FEATURES = {
    "user": FeatureSpec(),
    "item": FeatureSpec(),
    "shelf": FeatureSpec(of="item"),
    "price": FeatureSpec(kind="number", of="item"),
    "title": FeatureSpec(kind="text", of="item"),
    "look": FeatureSpec(kind="vector", length=3, of="item"),
    "since": FeatureSpec(kind="age", of="item"),
    "when": FeatureSpec(kind="calendar", zone="Europe/Berlin"),
    "where": FeatureSpec(kind="geo", latitude="lat", longitude="lon"),
    "place": FeatureSpec(kind="place"),
    "seen": FeatureSpec(kind="history", by="user", of="item", length=5),
    "ctr": FeatureSpec(kind="rate", of="item", window_s=3600.0),
}
SETTINGS = LearnerSettings(deep="none")
AT = {"lat": 52.5, "lon": 13.4}
TEXT = "red shoes, " + "very " * 30 + "fine"


@pytest.fixture
def client(request: pytest.FixtureRequest, running, log: Log, tmp_path: Path) -> Iterator[httpx.Client]:
    """A server that knows two items and what Ann took: item 1, three times, 10, 20 and 30 seconds ago. With
    a parameter: what she took each time (0: nothing), and the learner's settings."""
    taken, settings = getattr(request, "param", ((1, 1, 1), SETTINGS))
    told: list[EntityEvent | Example] = [
        EntityEvent("item", 1, 0.0, {"shelf": "s1", "price": 5.0, "title": TEXT, "look": [1.0, 0.5, -2.0]}),
        EntityEvent("item", 1, T - 40.0, {"price": "five"}),  # changes its kind in the middle
        EntityEvent("item", 1, T - 50.0, {"since": T - 86_400.0}),
        EntityEvent("item", 2, T + 500.0, {"shelf": "later"}),
    ]
    for i, item in zip((3, 2, 1), taken, strict=True):
        when, labels = T - 10.0 * i, [float(item == 1), float(item == 2)]
        told.append(Example(str(i), when, when, [{"item": 1}, {"item": 2}], labels, {"user": "ann", **AT}))
    log.append(EXAMPLES, [Outgoing(b"k", encode(one)) for one in told])
    with RoleState(tmp_path / "l", "learner", {}) as state:
        learner = Learner(FEATURES, settings, state)
        paces = RunnerSettings(commit_every_s=0.0, wait_s=0.0)
        runner = Runner(log, state, learner, Subscription(EXAMPLES, "learn"), paces).open()
        while runner.step():
            pass
        runner.commit()
    own = ServerSettings(port=0, read_timeout_s=60.0, stop_s=1.0)
    replica = Replica(log, FEATURES, settings, MemorySettings(), own)
    while replica.step():
        pass

    def serve(stop: threading.Event, on_listening) -> None:
        run_app(App(replica, log, own), own, stop.is_set, on_listening)

    with running(serve) as url, httpx.Client(base_url=url, timeout=60.0) as opened:
        yield opened


def test_all_that_is_known_is_explained_by_name_and_value(client: httpx.Client, log: Log) -> None:
    body = {"time": T, "context": {"user": "ann", **AT}, "candidates": [{"item": 1}, {"item": 2}]}
    answer = client.post("/v1/explain", json=body).json()
    first, second = answer["candidates"]
    assert first["filled"] == {
        "shelf": "s1", "price": 5.0, "title": TEXT[:64] + "…", "look": [1.0, 0.5, -2.0],
        "since": T - 86_400.0,
    }  # fmt: skip
    assert "filled" not in second  # its shelf is true later only
    assert first["histories"]["seen"]["ids"] == [{"id": 1, "age_s": age} for age in (10.0, 20.0, 30.0)]
    assert first["histories"] == second["histories"]
    assert "rate" not in answer  # the model has not lost to the running rate
    of_all = first["rates"]["ctr"]["of_all"]
    assert of_all == pytest.approx(0.5)
    for one, y in ((first, 3.0), (second, 0.0)):
        assert one["rates"]["ctr"]["value"] == pytest.approx((y + 10.0 * of_all) / (3.0 + 10.0))
        total = (answer["bias"] + sum(one["weights"].values())) * one["share"] + one["deep"]
        assert one["base_logit"] == pytest.approx(total, abs=1e-4)
        assert {"user", "item", "when.hour", "when.week", "where.city", "seen.seen", "ctr"} <= set(
            one["weights"]
        )
    content = {"shelf", "price", "title", "look", "look.code4", "since", "user*shelf", "user*title"}
    assert content <= set(first["weights"]) and not content & set(second["weights"])
    assert "place" not in first["weights"]
    said = {**body, "candidates": [{"item": 1, "shelf": "s2", "title": "unheard", "seen": [7], "ctr": 0.25}]}
    (one,) = client.post("/v1/explain", json=said).json()["candidates"]
    assert set(one["filled"]) == {"price", "look", "since"}  # what a caller says goes first
    assert one["histories"]["seen"] == {"ids": [{"id": 7}]} and one["rates"]["ctr"] == {"value": 0.25}
    unknown = {found["feature"]: found["values"] for found in one["unknown"]}
    assert unknown["shelf"] == ["s2"] and unknown["title"] == ["unheard"]
    assert log.ends(DEAD_LETTERS)[0][1] == 1  # the price that is no number


@pytest.mark.parametrize(
    "client", [((2, 0, 1), LearnerSettings(deep="none", group=1, trust_margin=1e-6))], indirect=True
)
def test_running_rate_has_a_part_once_the_model_has_lost_to_it(client: httpx.Client) -> None:
    body = {"time": T, "context": {"user": "ann", **AT}, "candidates": [{"item": 1}, {"item": 2}]}
    assert client.get("/v1/model").json()["trust"]["click"] < 1.0
    answer = client.post("/v1/explain", json=body).json()
    assert answer["rate"] < 0.0  # of six candidates two were taken
    for one in answer["candidates"]:
        total = (answer["bias"] + sum(one["weights"].values())) * one["share"] + one["deep"]
        assert one["base_logit"] == pytest.approx(total + answer["rate"], abs=1e-4)

"""Attributes over HTTP: told by two routes, filled into scores, and logged as they were used."""

import json
import threading
from collections.abc import Iterator

import httpx
import msgspec
import pytest
from known_scorer import Known

from learner.entities.filling import filled
from learner.entities.store import EntityStore
from learner.features.columns import declared_by
from learner.features.spec import FeatureSpec
from learner.settings import LearnerSettings
from serving.app.app import App
from serving.app.server import run_app
from serving.settings import ServerSettings
from stream.limits import RECORD_BYTES_MAX
from stream.log.base import EVENTS, Log
from stream.records.decoding import split_batch
from stream.records.entities.record import AnyEvent, EntityEvent
from stream.records.fast_decoding import EventDecoder
from stream.records.types import Impression

FEATURES = {
    "p": FeatureSpec(kind="number", of="item"),
    "item": FeatureSpec(),
    "title": FeatureSpec(kind="text", of="item"),
    "user": FeatureSpec(),
    "country": FeatureSpec(of="user"),
}


class Filling(Known):
    """A scorer that knows attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = FEATURES
        self.store = EntityStore(FEATURES, LearnerSettings())

    @property
    def attributes(self) -> list[str]:
        return self.store.attributes

    def filled(self, request: Impression) -> Impression:
        return filled(self.store, request)


@pytest.fixture
def scorer() -> Filling:
    found = Filling()
    found.store.tell(EntityEvent("item", 1, 100.0, {"p": 0.25}))
    found.store.tell(EntityEvent("item", 2, 100.0, {"p": 0.75}))
    found.store.tell(EntityEvent("user", "ann", 100.0, {"country": "it"}))
    return found


@pytest.fixture
def client(running, log: Log, scorer: Filling) -> Iterator[httpx.Client]:
    settings = ServerSettings(port=0, read_timeout_s=60.0, stop_s=1.0)

    def serve(stop: threading.Event, on_listening) -> None:
        run_app(App(scorer, log, settings), settings, stop.is_set, on_listening)

    with running(serve) as url, httpx.Client(base_url=url, timeout=60.0) as opened:
        yield opened


def events(log: Log) -> list[AnyEvent]:
    decode = EventDecoder(declared_by(FEATURES)).decode
    records = [record for p in range(log.partitions(EVENTS)) for record in log.read(EVENTS, p, 0)]
    return [decode(part) for record in records for part in split_batch(record.value)]  # type: ignore[misc]


ASKED = {
    "request_id": "r",
    "time": 200.0,
    "context": {"user": "ann"},
    "candidates": [{"item": 1}, {"item": 2}],
}


def test_score_uses_logs_and_explains_what_is_known(client: httpx.Client, log: Log) -> None:
    said = client.post("/v1/score", json=ASKED).json()
    assert said["base"] == [0.25, 0.75]
    assert client.post("/v1/score", json=ASKED | {"time": 50.0, "log": False}).json()["base"] == [0.5, 0.5]
    (logged,) = events(log)
    assert isinstance(logged, Impression) and logged.served is not None
    assert logged.candidates == [{"p": 0.25, "item": 1}, {"p": 0.75, "item": 2}]
    assert logged.context == {"country": "it", "user": "ann"}
    assert logged.served.filled == ["country", "p", "title"]
    explained = client.post("/v1/explain", json=ASKED).json()["candidates"]
    assert [c["filled"] for c in explained] == [{"p": 0.25, "country": "it"}, {"p": 0.75, "country": "it"}]
    complete = ASKED | {"context": {"user": "bob"}, "candidates": [{"item": 1, "p": 0.5}]}
    assert "filled" not in client.post("/v1/explain", json=complete).json()["candidates"][0]


def test_request_that_is_too_large_with_its_attributes_is_logged_as_it_was_asked(
    client: httpx.Client, log: Log, scorer: Filling
) -> None:
    for item in range(1, 11):
        scorer.store.tell(EntityEvent("item", item, 150.0, {"title": "x" * (RECORD_BYTES_MAX // 9)}))
    candidates = [{"item": item} for item in range(1, 11)]
    assert client.post("/v1/score", json=ASKED | {"candidates": candidates}).json()["logged"]
    (logged,) = events(log)
    assert isinstance(logged, Impression) and logged.served is not None
    assert logged.candidates == candidates and logged.served.filled == []


@pytest.mark.parametrize("path", ["/v1/entities", "/v1/events"])
def test_entities_are_told_one_by_one_and_bad_ones_get_a_reason(
    client: httpx.Client, log: Log, path: str
) -> None:
    good = {"type": "entity", "feature": "item", "id": 7, "time": 1e9, "set": {"p": 0.5, "title": None}}
    bad = [
        good | {"set": {"p": "half"}},
        good | {"feature": "itm"},
        good | {"set": {"country": "it"}},
        good | {"set": {}},
        good | {"time": 1e12},
        good | {"id": 0.5},
    ]
    answer = client.post(path, content="\n".join(json.dumps(one) for one in (good, *bad)))
    assert answer.status_code == 207 and (answer.json()["accepted"], answer.json()["rejected"]) == (1, 6)
    reasons = [verdict["error"] for verdict in answer.json()["records"][1:]]
    for reason, why in zip(
        reasons,
        ("feature p (kind number)", "'itm' is not declared", "set names country", "set names nothing",
         "divide by 1000", "no entity" if path == "/v1/entities" else "does not fit its type"),
        strict=True,
    ):  # fmt: skip
        assert why in reason
    assert events(log) == [EntityEvent("item", 7, 1e9, {"p": 0.5, "title": None})]
    assert client.post(path, json=bad[0]).status_code == 400
    assert client.post(path, content=b"x" * (10 << 20)).status_code == 413


def test_entity_without_a_time_is_true_from_now_on_and_may_be_messagepack(
    client: httpx.Client, log: Log
) -> None:
    told = {"feature": "user", "id": "ann", "set": {"country": "fr"}}
    assert client.post("/v1/entities", content=msgspec.msgpack.encode([told])).status_code == 202
    (event,) = events(log)
    assert isinstance(event, EntityEvent) and event.time > 1.7e9

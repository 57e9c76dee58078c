"""Feedback where targets are declared: it says which one it is of, and how much."""

import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
from known_scorer import Known

from serving.app.app import App
from serving.app.server import run_app
from serving.settings import ServerSettings
from stream.log.base import EVENTS, Log
from stream.records.decoding import Decoder
from stream.records.targets import Target, Targets
from stream.records.types import Action

TARGETS = Targets({"click": Target(), "minutes": Target(kind="value", of="click")})


@pytest.fixture
def client(running: Callable[..., Iterator[str]], log: Log) -> Iterator[httpx.Client]:
    settings = ServerSettings(port=0, stop_s=1.0)

    def serve(stop: threading.Event, on_listening: Callable[[str], None]) -> None:
        run_app(App(Known(), log, settings, TARGETS), settings, stop.is_set, on_listening)

    with running(serve) as url, httpx.Client(base_url=url, timeout=60.0) as opened:  # type: ignore[attr-defined]
        yield opened


def test_feedback_carries_a_value(client: httpx.Client, log: Log) -> None:
    said = {"request_id": "r", "candidate": 1, "time": 1e9, "name": "minutes", "value": 3.5}
    assert client.post("/v1/feedback", json=said).status_code == 202
    decode = Decoder(Action, targets=TARGETS).decode
    found = [decode(r.value) for p in range(log.partitions(EVENTS)) for r in log.read(EVENTS, p, 0)]
    assert found == [Action("r", 1e9, 1, name="minutes", value=3.5)]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "like"}, "'like' is of no target; known actions: click, minutes"),
        ({"name": "minutes"}, "there is no value for minutes"),
        ({"name": "minutes", "value": -1}, "value is -1"),
        ({"name": "minutes", "value": "long"}, "`$.value`"),
        ({"value": 2}, "value is 2"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/feedback", "/v1/events"])
def test_feedback_that_fits_no_target_is_refused(
    client: httpx.Client, log: Log, path: str, wrong: dict[str, object], says: str
) -> None:
    said = {"request_id": "r", "candidate": 1, "time": 1e9, **wrong}
    answer = client.post(path, json={**said, "type": "action"} if path == "/v1/events" else said)
    assert answer.status_code == 400 and says in answer.json()["error"]
    assert not any(log.read(EVENTS, p, 0) for p in range(log.partitions(EVENTS)))

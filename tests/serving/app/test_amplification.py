"""What a caller can make large or slow by a small request, and how far."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from known_scorer import Known

from serving.app.app import App
from serving.app.bodies import EVENTS_MAX
from serving.app.server import run_app
from serving.app.taking import REASON_CHARACTERS_MAX, REASONS_MAX
from serving.http.frame import ERROR_CHARACTERS_MAX
from serving.settings import ServerSettings
from stream.log.base import EVENTS, Log

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def scorer() -> Known:
    return Known()


@pytest.fixture
def client(running, log: Log, scorer: Known) -> Iterator[httpx.Client]:
    settings = ServerSettings(port=0, stop_s=1.0)

    def serve(stop: threading.Event, on_listening) -> None:
        run_app(App(scorer, log, settings), settings, stop.is_set, on_listening)

    with running(serve) as url, httpx.Client(base_url=url, timeout=60.0) as opened:
        yield opened


def zeros(records: int, between: bytes = b",") -> bytes:
    joined = between.join([b"0"] * records)
    return b"[" + joined + b"]" if between == b"," else b"{}\n" + joined


@pytest.mark.parametrize("between", [b",", b"\n"])
def test_a_body_of_too_many_records_is_refused_by_one_sentence(client: httpx.Client, between: bytes) -> None:
    answer = client.post("/v1/events", content=zeros(520_000, between), headers=JSON)
    assert answer.status_code == 413 and len(answer.content) < 500
    assert f"over the limit of {EVENTS_MAX:,}; send fewer at once" in answer.json()["error"]


def test_answer_to_the_most_bad_records_has_few_reasons_and_says_how_many_more(client: httpx.Client) -> None:
    answer = client.post("/v1/events", content=zeros(EVENTS_MAX), headers=JSON)
    said = answer.json()
    assert answer.status_code == 400 and len(answer.content) < 400_000
    assert (said["rejected"], said["untold"]) == (EVENTS_MAX, EVENTS_MAX - REASONS_MAX)
    assert len(said["records"]) == EVENTS_MAX
    assert "does not fit its type" in said["records"][REASONS_MAX - 1]["error"]
    assert said["records"][REASONS_MAX:] == [{"error": "untold"}] * (EVENTS_MAX - REASONS_MAX)


def test_good_records_among_many_bad_ones_are_told_where_they_are(client: httpx.Client, log: Log) -> None:
    action = {"type": "action", "request_id": "r", "time": 1e9, "candidate": 0}
    body = json.dumps([0] * 300 + [action]).encode()
    answer = client.post("/v1/events", content=body, headers=JSON)
    said = answer.json()
    assert (answer.status_code, said["accepted"], said["rejected"], said["untold"]) == (207, 1, 300, 200)
    assert set(said["records"][300]) == {"partition", "offset"}
    assert sum(end for _, end in log.ends(EVENTS)) == 1


def test_what_an_error_repeats_of_a_body_is_cut(client: httpx.Client) -> None:
    name = "n" * 500_000
    answer = client.post("/v1/events", json={"type": name, "request_id": "r", "time": 1e9})
    assert answer.status_code == 400 and len(answer.content) < 3 * REASON_CHARACTERS_MAX
    answer = client.post("/v1/score", json={"candidates": [{}], name: 1})
    assert answer.status_code == 400 and len(answer.json()["error"]) <= ERROR_CHARACTERS_MAX


def test_explaining_takes_few_candidates(client: httpx.Client) -> None:
    most = ServerSettings().explain_candidates_max
    assert client.post("/v1/explain", json={"candidates": [{}] * most}).status_code == 200
    answer = client.post("/v1/explain", json={"candidates": [{}] * (most + 1)})
    assert answer.status_code == 413
    assert answer.json()["error"] == "candidates has 101 entries; expected 1 to 100 (explain_candidates_max)"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/explain", {"candidates": [{}]}),
        ("/v1/score", {"candidates": [{}] * 2_000, "explore": "thompson", "log": False}),
    ],
)
def test_others_are_answered_while_one_is_explained_or_drawn(
    client: httpx.Client, scorer: Known, path: str, body: dict[str, object]
) -> None:
    scorer.go.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.post, path, json=body)
        assert scorer.asked.wait(60.0)
        assert client.get("/v2/health/live").status_code == 200
        assert not slow.done()
        scorer.go.set()
        assert slow.result().status_code == 200

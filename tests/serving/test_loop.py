"""The whole loop with real roles: asked, shown, clicked, joined, learnt, answered better."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from waiting import WAIT_S, wait_until

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from serving.app.server import serve
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.join.joiner import Joiner, JoinSettings
from stream.log.base import EVENTS, EXAMPLES, Log
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

FEATURES = {"user": FeatureSpec(dim=4), "item": FeatureSpec(dim=4)}
LEARNER = LearnerSettings(deep="none")
JOIN = JoinSettings(window_s=10.0)
LIKED = (1, 4)


@pytest.fixture
def roles(log: Log, tmp_path: Path) -> Iterator[None]:
    """A joiner and a learner, each in a thread."""
    stop = threading.Event()
    fingerprint = Learner.fingerprint(FEATURES, LEARNER)
    with (
        RoleState(tmp_path / "join", "joiner", {}, sync=False) as join_state,
        RoleState(tmp_path / "learn", "learner", fingerprint, sync=False) as learn_state,
    ):
        settings = RunnerSettings(commit_every_s=0.05)
        runners = [
            Runner(log, join_state, Joiner(join_state, JOIN), Subscription(EVENTS, "join"), settings).open(),
            Runner(
                log,
                learn_state,
                Learner(FEATURES, LEARNER, learn_state),
                Subscription(EXAMPLES, "learn"),
                settings,
            ).open(),
        ]
        with ThreadPoolExecutor(len(runners)) as pool:
            ends = [pool.submit(runner.run, stop) for runner in runners]
            yield
            stop.set()
            for end in ends:
                end.result()


@pytest.fixture
def client(roles: None, running, log: Log) -> Iterator[httpx.Client]:
    settings = ServerSettings(port=0, stop_s=1.0)
    replica = Replica(log, FEATURES, LEARNER, MemorySettings(), settings)

    def run(stop: threading.Event, on_listening) -> None:
        serve(replica, log, settings, stop, on_listening)

    with running(run) as url, httpx.Client(base_url=url, timeout=60.0) as opened:
        assert replica.wait_ready(WAIT_S)
        yield opened


def ask(client: httpx.Client, number: int, when: float) -> dict:
    body = {
        "request_id": f"r{number}",
        "time": when,
        "context": {"user": f"u{number % 3}"},
        "candidates": [{"item": item} for item in range(6)],
    }
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.slow
def test_feedback_comes_back_as_better_answers(client: httpx.Client) -> None:
    began = time.time()
    start = began - 10_000.0
    first = ask(client, 0, start)
    assert first["logged"] and len(set(first["corrected"])) == 1  # it knows nothing of them
    for number in range(1, 60):
        when = start + 11.0 * number
        ask(client, number, when)
        for item in LIKED:
            body = {"request_id": f"r{number}", "candidate": item, "time": when + 1.0}
            assert client.post("/v1/feedback", json=body).status_code == 202
    wait_until(lambda: client.get("/v1/model").json()["examples_learnt"] >= 6 * 50, every_s=0.05)
    last = ask(client, 60, start + 11.0 * 60)
    assert set(last["order"][:2]) == set(LIKED)
    assert last["model_version"] != first["model_version"]
    assert last["freshness_s"] is not None and last["freshness_s"] <= time.time() - began
    model = client.get("/v1/model").json()
    assert model["ready"] and model["base"]["overall"]["examples"] + 6 * model["examples_skipped"] >= 6 * 50
    metrics = client.get("/metrics").text
    assert 'freshet_quality{metric="auc",prediction="corrected",span="overall"}' in metrics
    assert 'freshet_table_rows{table="item"} 6.0' in metrics
    assert client.get("/v2/health/ready").status_code == 200


def test_unusual_requests_leave_the_server_and_its_answers_whole(client: httpx.Client) -> None:
    now = time.time() - 100.0
    unknown = client.post(
        "/v1/score",
        json={
            "time": now,
            "context": {"user": 2**63 - 1, "new": "x"},
            "candidates": [{"item": "never seen"}, {}, {"item": -(2**63)}],
        },
    )
    assert unknown.status_code == 200 and len(unknown.json()["base"]) == 3
    wrong_kind = client.post("/v1/score", json={"candidates": [{"item": [1, 2]}]})
    assert wrong_kind.status_code == 400 and "feature item (kind id)" in wrong_kind.json()["error"]
    assert client.post("/v1/score", json={"candidates": []}).status_code == 400
    assert client.post("/v1/score", json={"candidates": [{"item": 1}] * 10_000}).status_code == 413
    assert client.post("/v1/score", content=b'{"candidates":[{"item":NaN}]}').status_code == 400
    assert client.post("/v1/score", content=b"x" * (2 << 20)).status_code == 413
    whole = client.post("/v1/score", json={"time": now, "candidates": [{"item": i} for i in range(2_000)]})
    assert whole.status_code == 200 and sorted(whole.json()["order"]) == list(range(2_000))

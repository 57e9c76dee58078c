"""The API's document: it says what the server does, and a stranger's fuzzer finds no difference."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec
from learner.settings import LearnerSettings
from serving.app import routes
from serving.app.server import serve
from serving.http.frame import Route
from serving.http.openapi import document
from serving.nearest.index import Nearest
from serving.nearest.settings import NearestSettings
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.log.base import Log
from stream.records.decoding import Decoder
from stream.records.types import Forget

FEATURES = {
    "user": FeatureSpec(),
    "item": FeatureSpec(),
    "tags": FeatureSpec(kind="ids"),
    "price": FeatureSpec(kind="number"),
    "hour": FeatureSpec(kind="hour"),
    "brand": FeatureSpec(of="item"),
}
HERE = Path(__file__).parent / "schemathesis"


@pytest.fixture
def url(running, log: Log) -> Iterator[str]:
    """A server with a real replica that has learnt nothing yet, and an index of items."""
    settings = ServerSettings(port=0, stop_s=1.0, nearest=NearestSettings(of="item"))
    replica = Replica(log, FEATURES, LearnerSettings(), MemorySettings(), settings)
    index = Nearest(log, replica.live, settings.nearest, lambda: replica.loaded)
    replica.attach(index)
    with running(
        lambda stop, listening: serve(replica, log, settings, stop, listening, nearest=index)
    ) as found:
        assert replica.wait_ready(120.0)  # it may compile
        yield found


@pytest.mark.slow
def test_document_names_every_route_and_what_this_server_declares(url: str) -> None:
    found = httpx.get(f"{url}/openapi.json").json()
    assert found["openapi"] == "3.1.0"
    for path, operations in found["paths"].items():
        for method in operations:
            answer = httpx.request(method, url + path, json={} if method == "post" else None)
            assert str(answer.status_code) in operations[method]["responses"], path
    candidate = found["components"]["schemas"]["ScoreRequest"]["properties"]["candidates"]["items"]
    assert set(candidate["properties"]) == set(FEATURES)
    for kind in ("EntityRequest", "EntityEvent"):
        assert found["components"]["schemas"][kind]["properties"]["feature"]["enum"] == ["item"]
    assert candidate["properties"]["price"] == {"anyOf": [{"type": "number"}, {"type": ["boolean", "null"]}]}


def test_document_has_what_servers_fill_in() -> None:
    known = {
        "seen": FeatureSpec(kind="history", by="user", of="item"),
        "ctr": FeatureSpec(kind="rate", of="item", window_s=1e5),
    }
    every = [one for one in vars(routes).values() if isinstance(one, Route)]
    every += routes.inference_routes("m")
    said = json.loads(document(every, FEATURES | known, 100))
    context = said["components"]["schemas"]["ScoreRequest"]["properties"]["context"]["properties"]
    assert set(context) == set(FEATURES | known)
    ready = [path for path in said["paths"] if path.endswith("/ready")]
    assert set(ready) == {"/v2/health/ready", "/v2/models/m/ready"}
    for path in ready:
        assert {"200", "503"} <= set(said["paths"][path]["get"]["responses"]), path


@pytest.mark.slow
def test_forget_is_written_into_every_partition(url: str, log: Log) -> None:
    answer = httpx.post(f"{url}/v1/forget", json={"entity": {"user": ["ann", 7]}}).json()
    assert [record["partition"] for record in answer["records"]] == [0, 1]
    for record in answer["records"]:
        (found,) = log.read("events", record["partition"], record["offset"])
        request = Decoder(Forget).decode(found.value)
        assert (request.entity, request.forget_id) == ({"user": ["ann", 7]}, answer["forget_id"])
    for body, why in (
        ({"entity": {"price": [1]}}, "of kind number and holds no ids"),
        ({"entity": {"user": list(range(101))}}, "101 ids of 'user'; expected 1 to 100"),
        ({"entity": {"user": ["ann"] * 101}}, "101 ids of 'user'; expected 1 to 100"),
        ({"entity": {"user": []}}, "0 ids of 'user'; expected 1 to 100"),
        ({"entity": {}}, "names nothing to forget"),
        ({"entity": {"user": [1 << 63]}}, "send larger ones as text"),
    ):
        refused = httpx.post(f"{url}/v1/forget", json=body)
        assert refused.status_code == 400 and why in refused.json()["error"]


def fuzz(url: str, tmp_path: Path, examples: int, *more: str) -> str:
    """Run schemathesis with all its checks; its output, once it has found nothing."""
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run",
        f"{url}/openapi.json", "--checks", "all", "--max-examples", str(examples), "--no-color",
        # how fast the machine is, is no verdict
        "--suppress-health-check", "too_slow", "--request-timeout", "240", *more,
    ]  # fmt: skip
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=850)
    shown = [line[:400] for line in done.stdout.splitlines()]
    assert done.returncode == 0, "\n".join(shown[-60:]) + done.stderr[-2000:]
    return done.stdout


@pytest.mark.process
@pytest.mark.timeout(900)
def test_fuzzer_finds_no_difference_between_document_and_server(url: str, tmp_path: Path) -> None:
    assert "No issues found" in fuzz(url, tmp_path, 5, "--seed", "1", "--phases", "examples,fuzzing")


# Long: 2,500 requests at the bounds of what the document says take half a minute of a processor.
@pytest.mark.long
@pytest.mark.process
@pytest.mark.timeout(900)
def test_fuzzer_finds_no_difference_in_many_tries(url: str, tmp_path: Path) -> None:
    assert "No issues found" in fuzz(url, tmp_path, 200)

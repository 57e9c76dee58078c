"""The API's document: it says what the server does, and a stranger's fuzzer finds no difference."""

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
from serving.app.server import serve
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
}
HERE = Path(__file__).parent / "schemathesis"


@pytest.fixture
def url(running, log: Log) -> Iterator[str]:
    """A server with a real replica that has learnt nothing yet."""
    settings = ServerSettings(port=0, stop_s=1.0)
    replica = Replica(log, FEATURES, LearnerSettings(), MemorySettings(), settings)
    with running(lambda stop, listening: serve(replica, log, settings, stop, listening)) as found:
        assert replica.wait_ready(120.0)  # it may compile
        yield found


def test_document_names_every_route_and_what_this_server_declares(url: str) -> None:
    document = httpx.get(f"{url}/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    for path, operations in document["paths"].items():
        for method in operations:
            answer = httpx.request(method, url + path, json={} if method == "post" else None)
            assert str(answer.status_code) in operations[method]["responses"], path
    candidate = document["components"]["schemas"]["ScoreRequest"]["properties"]["candidates"]["items"]
    assert set(candidate["properties"]) == set(FEATURES)
    assert candidate["properties"]["price"] == {"anyOf": [{"type": "number"}, {"type": ["boolean", "null"]}]}


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
        f"{url}/openapi.json", "--checks", "all", "--max-examples", str(examples), "--no-color", *more,
    ]  # fmt: skip
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    shown = [line[:400] for line in done.stdout.splitlines()]
    assert done.returncode == 0, "\n".join(shown[-60:]) + done.stderr[-2000:]
    return done.stdout


@pytest.mark.process
def test_fuzzer_finds_no_difference_between_document_and_server(url: str, tmp_path: Path) -> None:
    assert "No issues found" in fuzz(url, tmp_path, 10, "--seed", "1")


@pytest.mark.long
@pytest.mark.process
def test_fuzzer_finds_no_difference_in_many_tries(url: str, tmp_path: Path) -> None:
    assert "No issues found" in fuzz(url, tmp_path, 200)

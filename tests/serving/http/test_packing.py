"""Bodies packed by gzip, and HEAD on the paths that take GET."""

import gzip
import json
import threading
import tracemalloc
import zlib
from collections.abc import Iterator

import httpx
import pytest
from known_scorer import Known

from serving.app.app import App
from serving.app.server import run_app
from serving.errors import MediaTypeError, RequestError, TooLargeError
from serving.http.packing import MEMBERS_MAX, unpack
from serving.settings import ServerSettings
from stream.log.base import EVENTS, Log

GZIP = {b"content-encoding": b"gzip"}
ACTION = json.dumps({"type": "action", "request_id": "r", "time": 1e9, "candidate": 0}).encode()


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


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/score", b'{"candidates": [{"p": 0.2}]}'),
        ("/v1/explain", b'{"candidates": [{"p": 0.2}]}'),
        ("/v1/feedback", b'{"request_id": "r", "candidate": 0}'),
        ("/v1/events", b"\n".join([ACTION] * 1_000)),
    ],
)
def test_packed_body_is_answered_as_the_plain_one_is(client: httpx.Client, path: str, body: bytes) -> None:
    json_type = {"Content-Type": "application/json"}
    plain = client.post(path, content=body, headers=json_type)
    packed = client.post(path, content=gzip.compress(body), headers=json_type | {"Content-Encoding": "gzip"})
    assert packed.status_code == plain.status_code < 300
    assert packed.json().keys() == plain.json().keys()


def test_body_packed_otherwise_or_badly_is_told(client: httpx.Client, log: Log) -> None:
    for packing in ("br", "zstd", "deflate", "gzip, gzip"):
        answer = client.post("/v1/events", content=ACTION, headers={"Content-Encoding": packing})
        assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip")
        assert "gzip" in answer.json()["error"]
    whole = gzip.compress(ACTION)
    for bad, said in ((ACTION, "not gzip"), (whole[:-9], "ends too soon"), (b"", "ends too soon")):
        answer = client.post("/v1/events", content=bad, headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 400 and said in answer.json()["error"]
    assert sum(end for _, end in log.ends(EVENTS)) == 0


@pytest.mark.slow
def test_bomb_is_413_and_takes_no_memory(client: httpx.Client) -> None:
    bomb = gzip.compress(b" " * 100_000_000, 9)
    assert len(bomb) < 1 << 20
    answer = client.post("/v1/events", content=bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 413 and "when unpacked" in answer.json()["error"]
    tracemalloc.start()
    with pytest.raises(TooLargeError):
        unpack(bomb, GZIP, 1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_limit_is_that_of_the_unpacked_body_to_the_byte() -> None:
    assert unpack(gzip.compress(b"x" * 1_000), GZIP, 1_000) == b"x" * 1_000
    with pytest.raises(TooLargeError):
        unpack(gzip.compress(b"x" * 1_001), GZIP, 1_000)
    two = gzip.compress(b"a" * 600) + gzip.compress(b"b" * 400)
    assert unpack(two, GZIP, 1_000) == b"a" * 600 + b"b" * 400
    with pytest.raises(TooLargeError):
        unpack(two, GZIP, 999)
    with pytest.raises(RequestError, match="members"):
        unpack(gzip.compress(b"") * (MEMBERS_MAX + 1), GZIP, 1_000)
    with pytest.raises(RequestError, match="not gzip"):
        unpack(zlib.compress(b"x"), GZIP, 1_000)
    with pytest.raises(MediaTypeError):
        unpack(b"x", {b"content-encoding": b"br"}, 1_000)
    assert unpack(b"x", {b"content-encoding": b"identity"}, 1_000) == b"x"


@pytest.mark.parametrize(
    "path", ["/v2/health/ready", "/v2/health/live", "/metrics", "/v1/model", "/", "/openapi.json"]
)
def test_head_is_answered_as_get_without_the_body(client: httpx.Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert int(head.headers["content-length"]) > 0
    assert client.get("/v2/health/live").status_code == 200, "the connection goes on"


def test_head_tells_that_a_server_is_not_ready(client: httpx.Client, scorer: Known) -> None:
    scorer.why_not = "the model is still loading"
    assert client.head("/v2/health/ready").status_code == 503


def test_what_a_path_takes_is_said_where_it_does_not_take_the_method(client: httpx.Client) -> None:
    answer = client.put("/v2/health/ready")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert client.head("/v1/score").headers["allow"] == "POST"

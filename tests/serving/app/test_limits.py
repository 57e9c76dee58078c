"""What a server does at each of its limits, over real sockets."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from known_scorer import EVENT, Known

from serving.app.app import App
from serving.app.bodies import BoundedScoreRequest, ScoreRequest
from serving.app.server import run_app
from serving.replica.begun import Begun
from serving.settings import ServerSettings
from stream.limits import TEXT_MAX, TIME_MAX_S, VALUES_MAX
from stream.log.base import EVENTS, Log
from stream.records.decoding import check, split_batch
from stream.records.types import Action, Impression, encode, join_batch

SLOW_S = 1.0
slow = pytest.mark.parametrize("read_timeout_s", [SLOW_S])
"""For tests of the limit; the others shall not fail on a machine that is slower than that."""


@pytest.fixture
def read_timeout_s() -> float:
    return 60.0


@pytest.fixture
def settings(read_timeout_s: float) -> ServerSettings:
    return ServerSettings(
        port=0, read_timeout_s=read_timeout_s, keep_alive_s=60.0, stop_s=1.0, header_bytes_max=4096,
        candidates_max=10, connections_max=20, idempotency_max=50, idempotency_bytes_max=200_000,
    )  # fmt: skip


@pytest.fixture
def url(running, log: Log, settings: ServerSettings) -> Iterator[str]:
    def serve(stop: threading.Event, on_listening) -> None:
        run_app(App(Known(), log, settings), settings, stop.is_set, on_listening)

    with running(serve) as found:
        yield found


def connect(url: str) -> socket.socket:
    return socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=60.0)


def told(peer: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """The answer on a connection that the server closes: status, headers, body."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := peer.recv(65_536):
            data += part
    peer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def written(log: Log) -> list[Impression | Action]:
    messages = [r.value for p in range(log.partitions(EVENTS)) for r in log.read(EVENTS, p, 0)]
    return [EVENT.decode(event) for message in messages for event in split_batch(message)]


HEAD = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\n"


@slow
@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"Content-Length: 30\r\n\r\n{"])
def test_slow_client_is_answered_408_and_let_go(url: str, sent: bytes) -> None:
    began = time.monotonic()
    peer = connect(url)
    for byte in [sent[i : i + 1] for i in range(len(sent))]:
        peer.sendall(byte)
    for _ in range(2):  # a byte now and then keeps nothing alive
        time.sleep(SLOW_S / 4)
        if sent == HEAD and time.monotonic() - began < SLOW_S * 0.75:  # or the answer may be on its way
            peer.sendall(b"X")
    status, headers, body = told(peer)
    assert status == 408 and headers["connection"] == "close"
    assert "read_timeout_s" in msgspec.json.decode(body)["error"]
    assert time.monotonic() - began > SLOW_S * 0.9


@slow
def test_second_head_on_a_connection_is_as_limited_as_the_first(url: str) -> None:
    peer = connect(url)
    peer.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert peer.recv(65_536).startswith(b"HTTP/1.1 200")
    peer.sendall(b"GET /v2/health/live HT")
    assert told(peer)[0] == 408


@slow
def test_many_slow_clients_keep_nobody_else_out(url: str) -> None:
    slow = [connect(url) for _ in range(15)]
    for peer in slow:
        peer.sendall(HEAD)
    assert httpx.post(f"{url}/v1/score", json={"candidates": [{}]}).status_code == 200
    assert {told(peer)[0] for peer in slow} == {408}


@pytest.mark.parametrize("whole", [True, False])
def test_head_over_the_limit_is_431(url: str, whole: bool) -> None:
    peer = connect(url)
    end = b"\r\n\r\n" if whole else b""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        peer.sendall(b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 5000 + end)
    status, _, body = told(peer)
    assert status == 431
    answer = msgspec.json.decode(body)
    assert "header_bytes_max" in answer["error"] and answer["request_id"]
    assert httpx.get(f"{url}/v1/model", headers={"X-Long": "a" * 3500}).status_code == 200


def test_connections_over_the_limit_are_told_when_to_come_again(url: str) -> None:
    idle = [connect(url) for _ in range(20)]
    answer = httpx.get(f"{url}/v2/health/live")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert "connections_max" in answer.json()["error"]
    more = [connect(url) for _ in range(40)]  # far beyond, they are cut
    deadline = time.monotonic() + 60.0
    while sum(map(is_closed, more)) < 15:
        assert time.monotonic() < deadline
    for peer in idle + more:
        peer.close()
    while httpx.get(f"{url}/v2/health/live").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_closed(peer: socket.socket) -> bool:
    """Whether the server has closed this connection."""
    peer.settimeout(0.02)
    try:
        return peer.recv(1, socket.MSG_PEEK) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


@slow
def test_client_that_does_not_read_is_let_go(url: str) -> None:
    with connect(url) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(0.2)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50
        deadline = time.monotonic() + 60.0
        sent = 0
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    sent += peer.send(request)
                time.sleep(0.005)
        assert sent < 8 << 20  # it is not read to be kept
    assert httpx.get(f"{url}/v2/health/live").status_code == 200


def test_candidates_over_the_limit_are_413_and_the_connection_stays(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        answer = client.post("/v1/score", json={"candidates": [{}] * 11})
        assert answer.status_code == 413 and "connection" not in answer.headers
        assert "expected 1 to 10" in answer.json()["error"]
        assert client.post("/v1/score", json={"candidates": []}).status_code == 400


def test_what_is_no_http_is_answered_in_the_shape_of_all_errors(url: str) -> None:
    peer = connect(url)
    peer.sendall(b"\x16\x03\x01\x02\x00 what is this\r\n\r\n")
    status, headers, body = told(peer)
    assert status == 400 and headers["content-type"] == "application/json"
    assert set(msgspec.json.decode(body)) == {"error", "request_id"}


@pytest.mark.parametrize("pieces", [1, 7, 10_000])
@pytest.mark.parametrize("wish", [b"h2c", b"websocket"])
def test_request_that_asks_for_another_protocol_is_read_as_it_is(
    url: str, wish: bytes, pieces: int, caplog: pytest.LogCaptureFixture
) -> None:
    body = b'{"candidates": [{"item": 7}], "log": false, "request_id": "upgrade: r"}'
    post = (
        b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAEAAEAA\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (wish, len(body), body)
    )
    get = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n" % wish
    last = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    sent = post + get + post + last
    with connect(url) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        step = len(sent) // pieces + 1
        for start in range(0, len(sent), step):
            raw.sendall(sent[start : start + step])
        answers = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 200 OK") == 4, answers
    assert answers.count(b'"request_id":"upgrade: r"') == 2
    assert not caplog.records, "nobody writes into the log of a server by what they send"


def test_events_come_one_or_many_in_json_lines_or_messagepack(url: str, log: Log) -> None:
    def action(name: str) -> Action:
        return Action(name, 1e9, 0)

    bodies = {
        "one": msgspec.json.encode(action("a")),
        "array": msgspec.json.encode([action("b"), action("c")]),
        "lines": b"\n".join(msgspec.json.encode(action(name)) for name in "de"),
        "packed": encode(action("f")),
        "packed array": join_batch([encode(action("g")), encode(action("h"))]),
    }
    for name, body in bodies.items():
        answer = httpx.post(f"{url}/v1/events", content=body)
        assert answer.status_code == 202, (name, answer.text)
    assert sorted(event.request_id for event in written(log)) == list("abcdefgh")
    assert httpx.post(f"{url}/v1/events", content=b"\x92\x01").status_code == 400


def test_retry_under_a_key_gets_the_same_answer_and_writes_nothing(url: str, log: Log) -> None:
    body = {"request_id": "r", "candidate": 0}
    key = {"Idempotency-Key": "k-1"}
    first = httpx.post(f"{url}/v1/feedback", json=body, headers=key)
    again = httpx.post(f"{url}/v1/feedback", json=body, headers=key)
    assert first.status_code == again.status_code == 202
    assert again.content == first.content
    assert "idempotent-replayed" not in first.headers and again.headers["idempotent-replayed"] == "true"
    assert len(written(log)) == 1
    other = httpx.post(f"{url}/v1/feedback", json={**body, "candidate": 1}, headers=key)
    assert other.status_code == 422 and "another body" in other.json()["error"]
    event = {"type": "action", "time": 1e9, **body}
    assert httpx.post(f"{url}/v1/events", json=event, headers=key).status_code == 202  # a path of its own
    assert len(written(log)) == 2
    bad = httpx.post(f"{url}/v1/events", json=event, headers={"Idempotency-Key": "k k" * 100})
    assert bad.status_code == 400 and "Idempotency-Key" in bad.json()["error"]
    text = httpx.get(f"{url}/metrics").text
    assert "freshet_requests_repeated_total 1.0" in text


@pytest.mark.slow
def test_duplicates_at_one_moment_are_written_once(url: str, log: Log) -> None:
    body = {"type": "action", "request_id": "r", "time": 1e9, "candidate": 0}

    def post(i: int) -> httpx.Response:
        return httpx.post(f"{url}/v1/events", json=body, headers={"Idempotency-Key": f"k{i % 3}"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(24)))
    assert {answer.status_code for answer in answers} == {202}
    answers_by_key = {(answer.request.headers["Idempotency-Key"], answer.content) for answer in answers}
    assert len(answers_by_key) == 3  # events of two keys may have travelled as one message, to one place
    assert len(written(log)) == 3


def test_keys_beyond_the_limit_are_forgotten_oldest_first(url: str, log: Log) -> None:
    with httpx.Client() as client:

        def post(i: int) -> httpx.Response:
            body = {"request_id": f"r{i}", "candidate": 0}
            return client.post(f"{url}/v1/feedback", json=body, headers={"Idempotency-Key": f"k{i}"})

        for i in range(60):
            post(i)
        assert post(59).headers.get("idempotent-replayed") == "true"
        assert "idempotent-replayed" not in post(0).headers
    assert len(written(log)) == 61


def feature_values() -> st.SearchStrategy[object]:
    edges = st.sampled_from([1 << 63, (1 << 63) - 1, -(1 << 63), 1 << 64, 1.5, -0.0, 1e308, 7])
    texts = st.sampled_from(["", "a", "é" * TEXT_MAX, "b" * (TEXT_MAX + 1)])
    ids = st.lists(edges.filter(lambda v: isinstance(v, int)) | texts, max_size=3)
    return edges | texts | ids | st.sampled_from([[1] * VALUES_MAX, [1] * (VALUES_MAX + 1)])


@pytest.mark.slow
@given_settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), feature_values(), max_size=3),
    st.none() | st.sampled_from([-1, 0, 1e9, TIME_MAX_S, 1e12]),
    st.none() | st.sampled_from(["", "r", "r" * 128, "r" * 129]),
)
def test_what_the_quick_decoder_takes_is_what_the_checks_would_take(
    features: dict[str, object], when: float | None, request_id: str | None
) -> None:
    body = msgspec.json.encode(
        {"candidates": [features, {}], "context": features, "time": when, "request_id": request_id}
    )
    try:
        taken = msgspec.json.decode(body, type=BoundedScoreRequest)
    except msgspec.ValidationError:
        return  # the checks say what is wrong, if anything is
    plain = msgspec.json.decode(body, type=ScoreRequest)
    assert msgspec.structs.astuple(taken) == msgspec.structs.astuple(plain)
    said = "x" if taken.request_id is None else taken.request_id
    check(Impression(said, 0.0 if taken.time is None else taken.time, taken.candidates, taken.context))


def test_begun_coroutine_goes_on_where_it_waited() -> None:
    async def ready(value: int) -> int:
        return value

    async def waits(log: list[str]) -> str:
        try:
            await asyncio.sleep(0.001)
            await asyncio.sleep(30.0)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        return "never"

    async def fails() -> None:
        await asyncio.sleep(0.001)
        raise ValueError("as it should")

    async def run() -> None:
        begun = Begun(ready(3))
        assert begun.done and begun.result() == 3 and await begun == 3
        log: list[str] = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await Begun(waits(log))
        assert log == ["cancelled"]
        with pytest.raises(ValueError, match="as it should"):
            await Begun(fails())

    asyncio.run(run())

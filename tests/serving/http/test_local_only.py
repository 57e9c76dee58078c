"""What a server without tokens takes, and what it refuses of web pages and under foreign names."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from known_scorer import Known
from topics import opened_topics

from serving.app.app import App
from serving.app.server import run_app
from serving.errors import ForbiddenError, MediaTypeError
from serving.http.local_only import HOSTS_KEPT_MAX, LocalOnly
from serving.settings import ServerSettings
from stream.log.base import EVENTS, Log

ACTION = json.dumps({"type": "action", "request_id": "r", "time": 1e9, "candidate": 0}).encode()
FORGET = json.dumps({"entity": {"p": [1]}}).encode()
BODIES = {
    "/v1/score": b'{"candidates": [{}]}',
    "/v1/explain": b'{"candidates": [{}]}',
    "/v1/feedback": b'{"request_id": "r", "candidate": 0}',
    "/v1/events": ACTION,
    "/v1/forget": FORGET,
}
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"}


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """The log that the server writes into."""
    with opened_topics(tmp_path_factory.mktemp("log")) as log:
        yield log


@pytest.fixture(scope="module")
def url(running, topics: Log) -> Iterator[str]:
    """A server that all tests here ask: none of them changes how it answers the next."""
    settings = ServerSettings(port=0, stop_s=1.0, hosts=("Shop.Test",))

    def serve(stop: threading.Event, on_listening) -> None:
        run_app(App(Known(), topics, settings), settings, stop.is_set, on_listening)

    with running(serve) as found:
        yield found


def ask(
    url: str, method: str, path: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, dict[str, str]]:
    """Status and answer; only the headers given are sent, and Host where they have none."""
    where = urlsplit(url)
    assert where.hostname is not None
    peer = http.client.HTTPConnection(where.hostname, where.port, timeout=10.0)
    peer.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        peer.putheader(name, value)
    if method == "POST":
        peer.putheader("Content-Length", str(len(body)))
    peer.endheaders(body)
    answer = peer.getresponse()
    data = answer.read()
    peer.close()
    kind = answer.headers["content-type"]
    return answer.status, json.loads(data) if kind == "application/json" else {"text": data.decode()}


def written(log: Log) -> int:
    return sum(end for _, end in log.ends(EVENTS))


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "text/plain;charset=UTF-8", "Origin": "http://evil.test"}, 403),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        (FORM | {"Origin": "http://evil.test"}, 403),
        (FORM | {"Origin": "null"}, 403),
        (JSON | {"Origin": "http://localhost:3000"}, 403),
        (JSON | {"Sec-Fetch-Site": "cross-site"}, 403),
        (JSON | {"Sec-Fetch-Site": "same-site"}, 403),
        (JSON | LINK, 403),
        (FORM | {"Referer": "http://evil.test/"}, 415),
        (BROWSER, 415),  # sendBeacon of bytes that have no type
        (FORM | BROWSER, 415),
        (JSON | {"Host": "evil.test"}, 403),
        (JSON | {"Host": "evil.test:8470"}, 403),
        (JSON | {"Host": "127.0.0.1.evil.test"}, 403),
        (JSON | {"Host": "localhost.evil.test"}, 403),
        (JSON | {"Host": "0.0.0.0"}, 403),
        (JSON | {"Host": "192.168.1.5:8470"}, 403),
        (JSON | {"Host": ""}, 403),
    ],
)  # fmt: skip
def test_what_a_web_page_can_send_is_refused(
    url: str, topics: Log, path: str, headers: dict[str, str], status: int
) -> None:
    before = written(topics)
    got, answer = ask(url, "POST", path, headers, BODIES[path])
    assert (got, "error" in answer) == (status, True)
    assert written(topics) == before


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "headers",
    [
        JSON,
        JSON | {"Content-Type": "application/json; charset=utf-8"},
        FORM | {"User-Agent": "curl/8.5.0"},  # curl -d
        {},  # a client that names no type
        JSON | {"Host": "localhost:8470"},
        JSON | {"Host": "LOCALHOST"},
        JSON | {"Host": "[::1]:8470"},
        JSON | {"Host": "127.0.0.53"},
        JSON | {"Host": "shop.test:80"},  # [server] hosts
        JSON | BROWSER | {"Host": "localhost:8470", "Origin": "http://localhost:8470"},
        JSON | BROWSER | {"Sec-Fetch-Site": "same-origin"},
    ],
)
def test_what_programs_and_the_servers_own_page_send_is_taken(
    url: str, path: str, headers: dict[str, str]
) -> None:
    status, answer = ask(url, "POST", path, headers, BODIES[path])
    assert status in ((200, 202) if path != "/v1/forget" else (400,)), answer  # there is no feature to forget


@pytest.mark.parametrize(
    "path", ["/v1/model", "/metrics", "/v1/live", "/v1/live/history", "/", "/openapi.json"]
)
def test_nothing_is_told_to_a_page_that_rebinds_its_name_nor_to_one_of_another_site(
    url: str, path: str
) -> None:
    assert ask(url, "GET", path, {"Host": "evil.test"})[0] == 403
    assert ask(url, "GET", path, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})[0] == 403
    assert ask(url, "GET", path, LINK)[0] == 200, "a link from a wiki opens the page"
    framed = LINK | {"Sec-Fetch-Dest": "iframe"}
    assert ask(url, "GET", path, framed)[0] == 403
    assert ask(url, "GET", path, {})[0] == 200


def test_refused_by_a_sentence_that_says_what_to_do(url: str) -> None:
    _, answer = ask(url, "GET", "/v1/model", {"Host": "evil.test"})
    assert "'evil.test', which is not a name of this machine" in answer["error"]
    assert "[server] hosts" in answer["error"]
    _, answer = ask(url, "POST", "/v1/events", {"Content-Type": "text/plain"}, ACTION)
    assert answer["error"].startswith("Content-Type is 'text/plain'; send JSON as application/json")


def test_tokens_stand_in_for_all_of_this(running, log: Log, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("shop score+write 0123456789abcdef")
    settings = ServerSettings(port=0, stop_s=1.0, tokens=str(tmp_path / "tokens"))

    def serve(stop: threading.Event, on_listening) -> None:
        run_app(App(Known(), log, settings), settings, stop.is_set, on_listening)

    with running(serve) as url:
        headers = {"Host": "freshet.example", "Content-Type": "text/plain"}
        assert ask(url, "POST", "/v1/events", headers, ACTION)[0] == 401
        headers["Authorization"] = "Bearer 0123456789abcdef"
        assert ask(url, "POST", "/v1/events", headers, ACTION)[0] == 202


def test_many_names_and_odd_bytes_are_told_apart() -> None:
    local = LocalOnly()
    for port in range(2 * HOSTS_KEPT_MAX):
        local.check("GET", {b"host": b"localhost:%d" % port})
    with pytest.raises(ForbiddenError):
        local.check("GET", {b"host": b"\xff" * 1000})
    with pytest.raises(MediaTypeError):
        local.check("POST", {b"host": b"localhost", b"content-type": b"\xff" * 1000})


@pytest.mark.parametrize(
    "host", [b"localhost:80@b.org", b"b.org@localhost", b"[::1", b"[::1]x", b"localhost:b.org", b":80"]
)
def test_host_that_is_no_name_and_port_is_refused(host: bytes) -> None:
    with pytest.raises(ForbiddenError):
        LocalOnly().check("GET", {b"host": host})

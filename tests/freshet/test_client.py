"""The client against a real server, and behind a proxy that loses answers."""

import asyncio
import inspect
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from known_scorer import EVENT, Known

from freshet import CallFailedError, CallRefusedError
from freshet.client import AsyncClient, Client
from freshet.client.asks import ASKS
from ground.retry import Pauses
from serving.app.app import App
from serving.app.server import run_app
from serving.settings import ServerSettings
from stream.log.base import DEAD_LETTERS, EVENTS, Log
from stream.log.testing import MemoryLog
from stream.records.decoding import split_batch
from stream.records.types import Action

QUICK = Pauses(first_s=0.01, longest_s=0.05, give_up_s=60.0)
SOON = Pauses(first_s=0.01, longest_s=0.02, give_up_s=0.2)


@pytest.fixture
def log() -> Log:
    made = MemoryLog()
    made.create_topic(EVENTS, 1)
    made.create_topic(DEAD_LETTERS, 1)
    return made


@pytest.fixture
def url(log: Log) -> Iterator[str]:
    settings = ServerSettings(port=0, stop_s=1.0)
    stop, listening, urls = threading.Event(), threading.Event(), []

    def on_listening(found: str) -> None:
        urls.append(found)
        listening.set()

    thread = threading.Thread(
        target=lambda: run_app(App(Known(), log, settings), settings, stop.is_set, on_listening)
    )
    thread.start()
    assert listening.wait(60.0)
    yield urls[0]
    stop.set()
    thread.join(60.0)


def request_of(client: socket.socket) -> bytes:
    """One whole request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(1 << 20)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(1 << 20)
    return head + b"\r\n\r\n" + body


@contextmanager
def losing(url: str, answers: list[bytes | None]) -> Iterator[str]:
    """A proxy that forwards requests, but gives these answers, or none, in place of the first ones."""
    port = int(url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def work() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, socket.create_connection(("127.0.0.1", port)) as server:
                    server.sendall(request_of(client).replace(b"keep-alive", b"close"))
                    kept = b"".join(iter(lambda: server.recv(1 << 20), b""))
                    answer = answers.pop(0) if answers else kept
                    if answer:
                        client.sendall(answer)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60.0)


def logged(log: Log) -> list[object]:
    return [EVENT.decode(part) for r in log.read(EVENTS, 0, 0) for part in split_batch(r.value)]


AWAY = b"HTTP/1.1 503 Away\r\nretry-after: 0\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def test_every_method_has_a_typed_answer(url: str, log: Log) -> None:
    with Client(url) as client:
        answer = client.score([{"p": np.float32(0.25)}, {"p": 0.75}], {"user": "ann"}, show=1)
        assert answer.base == [0.25, 0.75] and answer.order == [1, 0] and answer.shown == [1]
        assert client.explain([{"p": 0.5}]).candidates[0].base == 0.5
        place = client.feedback(answer.request_id, 1)
        assert client.events([Action(answer.request_id, 1e9, 0)]).accepted == 1
        assert place.partition == 0 and client.model().version == "1-2" and client.ready().ready
        assert [type(event).__name__ for event in logged(log)] == ["Impression", "Action", "Action"]
        with pytest.raises(CallRefusedError, match=r"POST /v1/score: 400: candidates has 0 entries"):
            client.score([])
        with pytest.raises(CallRefusedError, match="no ids"):
            client.forget({"p": [1]})
        with pytest.raises(CallRefusedError, match="type object cannot be sent"):
            client.score([{"p": object()}])  # type: ignore[dict-item]
        assert repr(client) == f"freshet.client.Client({url!r})"


IGNORED = {
    "score": {"target"},
    "explain": {"log", "explore", "unknown", "show", "rank"},
}
"""Fields of a body that two routes share and one of them does not read."""


@pytest.mark.slow
def test_client_has_every_field_of_every_route(url: str) -> None:
    paths = httpx.get(f"{url}/openapi.json").json()
    schemas = paths["components"]["schemas"]
    methods = {
        path.rpartition("/")[2]: schemas[body["$ref"].rpartition("/")[2]]["properties"]
        for path, operations in paths["paths"].items()
        if path.startswith("/v1/") and "post" in operations
        for body in [operations["post"]["requestBody"]["content"]["application/json"]["schema"]]
        if "$ref" in body  # not of events: records, which the client takes as they are
    }
    assert {"score", "explain", "feedback", "forget"} <= set(methods)
    for name, fields in methods.items():
        taken = inspect.signature(getattr(Client(url), name)).parameters
        assert set(taken) == set(fields) - IGNORED.get(name, set()), name
        assert inspect.signature(getattr(AsyncClient, name)) == inspect.signature(getattr(Client, name))


def test_arguments_arrive_as_fields_of_their_names() -> None:
    """Each argument gets a value of its own, and the body has it under the argument's name."""
    values = {
        "score": {"explore": "thompson", "log": False, "unknown": True, "show": 1, "time": 2.0, "rank": "p"},
        "nearest": {"k": 3, "exclude": ["a"], "rank": "p", "log": True, "feature": "p", "explain": True},
        "explain": {"request_id": "r", "time": 2.0, "target": "buy"},
        "feedback": {"candidate": 1, "label": 0.0, "name": "buy", "value": 2.5, "shown": [1], "examined": 3},
    }
    for name, given in values.items():
        first = {"feedback": ("r",), "nearest": ({"user": "ann"},)}.get(name, ([{"p": 0.5}], {"user": "ann"}))
        body = json.loads(getattr(ASKS, name)(*first, **given).body)
        given = given | ({"rank": {"by": "p"}} if "rank" in given else {})
        assert {field: body[field] for field in given} == given


def asking(kind: type[Client] | type[AsyncClient], url: str, pauses: Pauses) -> Callable[..., object]:
    """`feedback` of either client, for plain calls."""
    if kind is Client:

        def call(*arguments: object) -> object:
            with Client(url, pauses=pauses) as client:
                return client.feedback(*arguments)  # type: ignore[arg-type]

        return call

    async def ask(*arguments: object) -> object:
        async with AsyncClient(url, pauses=pauses) as client:
            return await client.feedback(*arguments)  # type: ignore[arg-type]

    return lambda *arguments: asyncio.run(ask(*arguments))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_retry_writes_once_and_gives_up_with_a_sentence(
    kind: type[Client] | type[AsyncClient], url: str, log: Log
) -> None:
    with losing(url, [None, AWAY, None]) as lossy:
        asking(kind, lossy, QUICK)("r", 3)
    assert [(e.request_id, e.candidate) for e in logged(log)] == [("r", 3)]  # type: ignore[attr-defined]
    with (
        losing(url, [AWAY] * 100) as away,
        pytest.raises(CallFailedError, match="tried again: 503"),
    ):
        asking(kind, away, SOON)("r", 4)
    with pytest.raises(CallFailedError, match=r"POST /v1/feedback failed.*ConnectError"):
        asking(kind, "http://127.0.0.1:9", SOON)("r", 5)
    with pytest.raises(CallFailedError, match="is no server's URL"):
        asking(kind, "localhost:8470", SOON)("r", 5)


def test_score_that_is_tried_again_keeps_its_request_id(url: str, log: Log) -> None:
    async def ask() -> str:
        with losing(url, [None, None]) as lossy:
            async with AsyncClient(lossy, pauses=QUICK) as client:
                return (await client.score([{"p": 0.5}])).request_id

    request_id = asyncio.run(ask())
    ids = [event.request_id for event in logged(log)]  # type: ignore[attr-defined]
    assert len(ids) >= 3 and set(ids) == {request_id}

"""The HTTP frame around the routes: enforces limits, formats errors as JSON, counts requests.

Plain ASGI without a framework. Every error is answered with `{"error": "...", "request_id": "..."}` and a
status: 4xx for errors of the caller, 503 for temporary ones, 500 for bugs of Freshet. The request id is
the caller's (`X-Request-ID`) or a new one; it is in a header of every answer and in the lines of the
server's log.
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec

from ground import FreshetError
from serving.errors import (
    AccessError,
    BusyTokenError,
    MediaTypeError,
    MethodError,
    NotFoundError,
    SlowRequestError,
    TooLargeError,
    UnavailableError,
)
from serving.http.access import Access, Scope
from serving.http.idempotency import KeptAnswer, KeptAnswers, key_of
from serving.http.local_only import LocalOnly
from serving.http.packing import unpack
from serving.replica.begun import Begun

Connection = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = b"application/json"
DRAIN_FACTOR = 16
"""A body over the limit is read and discarded up to this many times the limit, because a client
that is still sending would not see the answer."""

ERROR_CHARACTERS_MAX = 2_000
"""Length limit of an error message: it may contain names and values of the caller, as long as a body."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

log = logging.getLogger("freshet.serving")


class Response(NamedTuple):
    """One answer."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Call(NamedTuple):
    """One admitted request."""

    body: bytes
    headers: Mapping[bytes, bytes]  # by lower-case name; the last one if sent twice
    request_id: str
    caller: str  # the name of its token; "" if no token is needed


class Route(NamedTuple):
    """One path: its method, its access rules, and the types of its bodies."""

    method: str
    path: str
    scope: Scope | None = None  # the scope that a token needs; None: any token
    bounded: bool = True  # counted against the limit of concurrent requests
    open: bool = False  # needs no token
    writes: bool = False  # a retry with the same idempotency key gets the first answer again
    about: str = ""  # one sentence, for the OpenAPI document
    takes: Any = None  # the type of the request body
    gives: Mapping[int, Any] = MappingProxyType({})  # the type of the answer, by status
    media: str = "text/plain"  # the media type of an answer of type str


Handler = Callable[[Call], Awaitable[Response]]


class Watch(Protocol):
    """Receives a call for every finished request."""

    def request_ended(self, path: str, status: int, seconds: float) -> None:
        """A request has ended; `path` is a known path, or "other"."""

    def request_repeated(self) -> None:
        """A retry was answered with the first answer."""


class _GoneError(Exception):
    """The client disconnected before its request was complete."""


def json_response(status: int, answer: object, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
    """An answer as JSON; NaN becomes null."""
    # msgspec does not encode numpy scalars: convert them to float
    return Response(status, msgspec.json.encode(answer, enc_hook=float), headers=headers)


def error_response(error: Exception, request_id: str = "") -> Response:
    """The answer to a request that failed."""
    if not isinstance(error, FreshetError):
        text = "the server failed at this request; its log has the details under the request id"
        return json_response(500, {"error": text, "request_id": request_id})
    status = getattr(error, "status", 400)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if isinstance(error, MethodError):
        headers = ((b"allow", error.allow.encode()),)
    elif isinstance(error, MediaTypeError):
        headers = ((b"accept-encoding", b"gzip"),)
    elif isinstance(error, AccessError):
        headers = ((b"www-authenticate", b"Bearer"),)
    elif isinstance(error, BusyTokenError):
        headers = ((b"retry-after", str(error.retry_after_s).encode()),)
    elif isinstance(error, UnavailableError):
        headers = ((b"retry-after", b"1"),)
    elif isinstance(error, SlowRequestError) or (isinstance(error, TooLargeError) and error.unread):
        # the unread rest of the body would be parsed as the next request
        headers = ((b"connection", b"close"),)
    answer = {"error": shortened(str(error)), "request_id": request_id}
    return Response(status, msgspec.json.encode(answer), headers=headers)


def shortened(text: str, characters_max: int = ERROR_CHARACTERS_MAX) -> str:
    """Cut a text to at most `characters_max` characters, because it may contain input of the caller."""
    return text if len(text) <= characters_max else f"{text[: characters_max - 1]}…"


class Frame:
    """An ASGI application made of routes.

    Args:
        routes: each with the function that answers it.
        access: admits requests.
        local: checks requests when `access` requires no token.
        body_bytes_max: a longer body is answered with 413, with or without a Content-Length.
        read_timeout_s: a body that takes longer to arrive is answered with 408.
        concurrency_max: concurrent bounded requests above this number are answered with 503.
        answers: the answers kept by idempotency key.
        watch: called for every finished request.
    """

    def __init__(
        self,
        routes: Iterable[tuple[Route, Handler]],
        *,
        access: Access,
        local: LocalOnly,
        body_bytes_max: int,
        read_timeout_s: float,
        concurrency_max: int,
        answers: KeptAnswers,
        watch: Watch,
    ) -> None:
        self._handlers = {route.path: (route, handle) for route, handle in routes}
        self.access = access
        self.local = local
        self.body_bytes_max = body_bytes_max
        self.read_timeout_s = read_timeout_s
        self.concurrency_max = concurrency_max
        self.answers = answers
        self.watch = watch
        self.at_work = 0

    async def started(self) -> None:
        """Called in the event loop before the first request."""

    async def stopped(self) -> None:
        """Called in the event loop after the last request."""

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            raise RuntimeError(f"this application does not speak {scope['type']}")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.started()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stopped()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Connection, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        path = scope["path"]
        path = path[:-1] if path[1:].endswith("/") else path  # the Open Inference Protocol has /v2/
        found = self._handlers.get(path)
        bounded = found is not None and found[0].bounded
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        response = None
        self.at_work += bounded
        try:
            if not self.access.required:
                self.local.check(scope["method"], headers)
            route, handle = self._check(scope, found)
            caller = "" if route.open else self.access.admit(route.scope, headers)
            body = await self._body(scope, receive)
            if b"content-encoding" in headers and route.method == "POST":
                body = unpack(body, headers, self.body_bytes_max)
            response = await self._handle(route, handle, Call(body, headers, request_id, caller))
        except _GoneError:
            return
        except Exception as error:
            response = error_response(error, request_id)
            if response.status == 500:
                log.exception("request %s to %s failed", request_id, path)
        finally:
            self.at_work -= bounded
            status = response.status if response is not None else 499  # 499: the client disconnected
            self.watch.request_ended(
                path if found is not None else "other", status, time.perf_counter() - began
            )
        answered = [
            (b"content-type", response.content_type),
            (b"content-length", str(len(response.body)).encode()),
            (b"x-request-id", request_id.encode()),
            *response.headers,
        ]
        await send({"type": "http.response.start", "status": response.status, "headers": answered})
        await send({"type": "http.response.body", "body": response.body})

    async def _handle(self, route: Route, handle: Handler, call: Call) -> Response:
        key = key_of(call.headers) if route.writes else b""
        if not key:
            return await handle(call)

        async def make() -> KeptAnswer:
            response = await handle(call)
            return KeptAnswer(response.status, response.body)

        answer, repeated = await self.answers.once(call.caller, route.path, key, call.body, make)
        if not repeated:
            return Response(answer.status, answer.body)
        self.watch.request_repeated()
        return Response(answer.status, answer.body, headers=((b"idempotent-replayed", b"true"),))

    @property
    def routes(self) -> list[Route]:
        """All routes, in the order given."""
        return [route for route, _ in self._handlers.values()]

    def _check(self, scope: Connection, found: tuple[Route, Handler] | None) -> tuple[Route, Handler]:
        if found is None:
            known = ", ".join(f"{route.method} {route.path}" for route in self.routes)
            raise NotFoundError(f"there is no {str(scope['path'])[:200]}; known: {known}")
        route = found[0]
        method = scope["method"]
        if method != route.method and not (method == "HEAD" and route.method == "GET"):
            taken = "GET, HEAD" if route.method == "GET" else route.method
            raise MethodError(f"{scope['path']} takes {taken}, not {method}", allow=taken)
        if route.bounded and self.at_work > self.concurrency_max:
            raise UnavailableError(
                f"{self.concurrency_max} requests are at work already (concurrency_max); try again soon"
            )
        return found

    async def _body(self, scope: Connection, receive: Receive) -> bytes:
        too_large = TooLargeError(
            f"the body is over the limit of {self.body_bytes_max:,} bytes (body_bytes_max); "
            "send less at once",
            unread=True,
        )
        announced = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self.body_bytes_max * DRAIN_FACTOR:
            raise too_large
        parts: list[bytes] = []
        size = 0
        receiving = Begun(receive())
        if receiving.done:
            # the usual case: the body has already arrived, so no timeout is needed
            message = receiving.result()
            if message["type"] != "http.disconnect" and not message.get("more_body", False):
                body: bytes = message.get("body", b"")
                if len(body) <= self.body_bytes_max:
                    return body
        try:
            async with asyncio.timeout(self.read_timeout_s):
                message = await receiving
                while True:
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    part = message.get("body", b"")
                    size += len(part)
                    if size <= self.body_bytes_max:
                        parts.append(part)
                    elif size > self.body_bytes_max * DRAIN_FACTOR:
                        raise too_large
                    if not message.get("more_body", False):
                        break
                    message = await receive()
        except TimeoutError:
            if size > self.body_bytes_max:
                raise too_large from None
            raise SlowRequestError(
                f"the body did not arrive within {self.read_timeout_s:g} s (read_timeout_s)"
            ) from None
        if size > self.body_bytes_max:
            raise too_large
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    """The caller's id if it has safe characters only, else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else new_request_id()


def new_request_id() -> str:
    """A random id for a request without one."""
    return os.urandom(8).hex()

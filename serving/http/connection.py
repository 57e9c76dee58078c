"""One connection, with limits on the size and time of the head and on the time to write answers.

Adds the limits that uvicorn's protocol lacks: there a head may grow and take for ever, and a client that
does not read its answers keeps its connection. Errors outside of any route are answered in the same JSON
format as all others.
"""

import asyncio
import sys
from collections.abc import Sized
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from serving.http.frame import Connection, Receive, Send, new_request_id

if TYPE_CHECKING:
    from serving.settings import ServerSettings

OVERDRAFT = 2
"""Up to this many times `connections_max`, connections are answered with 503; above it they are closed."""


PIPELINE_MAX = 16
"""Pipelined requests that may wait on a connection. While this many wait, reading is paused."""


class GuardedConnection(HttpToolsProtocol):
    """A connection with limits, so that a client cannot keep it open or make it grow. Made by `guarded`."""

    settings: "ServerSettings"

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_bytes = 0  # received of the current head
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._received = b""  # what the parser is given now
        self._again = b""  # what it is to be given next

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        if len(self.connections) > OVERDRAFT * self.settings.connections_max:
            transport.abort()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        # mark all unfinished requests as disconnected; uvicorn marks only the last one
        for cycle in (self._running, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        was_in_head = self._in_head
        if was_in_head:
            self._head_bytes += len(data)
        while data:
            self._received, self._again = data, b""
            super().data_received(data)
            data = self._again
        self._received = b""
        # checks incomplete heads; on_headers_complete has checked a complete one
        if was_in_head and self._in_head and self._head_bytes > self.settings.header_bytes_max:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, self._too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._expect_head()

    def _unsupported_upgrade_warning(self) -> None:
        """Read a request for another protocol (`Upgrade`) as one for HTTP/1.1, as RFC 9110, 7.8 allows.

        Java's HttpClient asks for HTTP/2 so by default. The parser leaves out such a request's body and stops
        behind its head, so a new one is given the head without that header, and the rest.
        """
        stopped = sys.exc_info()[1]
        assert isinstance(stopped, httptools.HttpParserUpgrade)
        head = b"%s %s HTTP/%s\r\n" % (
            self.parser.get_method(), self.url, self.parser.get_http_version().encode()
        )  # fmt: skip
        kept = b"".join(b"%s: %s\r\n" % pair for pair in self.headers if pair[0] != b"upgrade")
        self._again = head + kept + b"\r\n" + self._received[stopped.args[0] :]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own

    def _wants_upgrade(self) -> bool:
        # CONNECT counts as one for the parser whatever its headers say; it is refused by its path
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def on_message_complete(self) -> None:
        if not self._wants_upgrade():
            super().on_message_complete()

    def on_headers_complete(self) -> None:
        if self._wants_upgrade():
            return  # it comes again, see `_unsupported_upgrade_warning`
        self._in_head = False
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        usual = self.app
        if size > self.settings.header_bytes_max:
            self.app = _Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, self._too_large())
        elif len(self.connections) > self.settings.connections_max:
            most = self.settings.connections_max
            text = f"{most} connections are open already (connections_max); try again soon"
            self.app = _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text)
        try:
            super().on_headers_complete()
        finally:
            self.app = usual

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.settings.read_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer input that is not valid HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request that can be understood")

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.settings.read_timeout_s, self._head_late)

    def _head_late(self) -> None:
        self._head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect_head()  # the answer to an earlier request is still being sent
            return
        limit_s = self.settings.read_timeout_s
        text = f"the head of the request did not arrive within {limit_s:g} s (read_timeout_s)"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, text)

    def _too_large(self) -> str:
        return f"the head is over the limit of {self.settings.header_bytes_max:,} bytes (header_bytes_max)"

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Send an error outside of any request, and close the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # the client would take this error for the answer to an earlier request
            return
        request_id = new_request_id()
        body = msgspec.json.encode({"error": text, "request_id": request_id})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class _Flow(FlowControl):
    """Resumes reading only while fewer than `PIPELINE_MAX` requests wait on the connection."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if len(self._waiting) < PIPELINE_MAX:
            super().resume_reading()


class _Refusal:
    """Answers one request with an error and closes its connection."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        self._status = status
        self._text = text

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        request_id = new_request_id()
        body = msgspec.json.encode({"error": self._text, "request_id": request_id})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        if self._status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append((b"retry-after", b"1"))
        await send({"type": "http.response.start", "status": self._status.value, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def guarded(settings: "ServerSettings") -> type[GuardedConnection]:
    """The connection class for a server with these settings."""
    return type("GuardedConnection", (GuardedConnection,), {"settings": settings})

"""The port on which a role answers `/metrics`, with limits on the number and duration of requests.

On loopback a request must name this machine and must not come from a page of another site, as for a server
without tokens (`serving.http.local_only`). On other addresses every client that reaches the port can read the
metrics, so put it behind a firewall.
"""

import socket
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from ground.threads import HelperThread
from serving.errors import RequestError
from serving.http.local_only import LocalOnly, is_local

WAIT_S = 10.0
REQUESTS_MAX = 8
"""Concurrent requests; a further connection is closed without an answer."""

Environment = dict[str, Any]  # as in PEP 3333
Start = Callable[..., object]
Application = Callable[[Environment, Start], Iterable[bytes]]


class MetricsPort:
    """Serves metrics in threads, until `close`.

    Args:
        wait_s: timeout of a read from and of a write to the client's socket.

    Raises:
        OSError: the address is in use, or does not belong to this machine.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, wait_s: float = WAIT_S) -> None:
        app: Application = make_wsgi_app(registry)
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        kind: type[_Server] = _Server6 if family == socket.AF_INET6 else _Server
        handler = type("Handler", (_Handler,), {"timeout": wait_s})  # see StreamRequestHandler
        self._server = make_server(host, port, app, kind, handler)
        if is_local(str(self._server.server_address[0])):
            self._server.set_app(_local_only(app, LocalOnly([host])))
        self._thread = HelperThread("metrics", self._serve)
        self._thread.start()

    def check(self) -> None:
        """Re-raise the exception that ended the thread that accepts connections, if any."""
        self._thread.check()

    def close(self) -> None:
        """Stop, and free the port."""
        if self._thread.alive:
            self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, _: threading.Event) -> None:
        self._server.serve_forever()


def _local_only(app: Application, local: LocalOnly) -> Application:
    """`app`, for requests that `local` permits."""

    def answer(environment: Environment, start: Start) -> Iterable[bytes]:
        headers = {
            name[5:].replace("_", "-").lower().encode("latin-1"): str(value).encode("latin-1")
            for name, value in environment.items()
            if name.startswith("HTTP_")
        }
        try:
            local.check(environment["REQUEST_METHOD"], headers)
        except RequestError as error:
            start("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{error}\n".encode()]
        return app(environment, start)

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, up to `REQUESTS_MAX`."""

    daemon_threads = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._free = threading.BoundedSemaphore(REQUESTS_MAX)
        super().__init__(*arguments, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect during an answer; print any other error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Server6(_Server):
    """The server for IPv6."""

    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    """Logs nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def address_string(self) -> str:
        """The client's address, without a DNS lookup of its name."""
        return str(self.client_address[0])

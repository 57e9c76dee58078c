"""The server process: a listening socket, uvicorn with the application, and the replica's thread."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import uvicorn
import uvloop

from serving.app.app import App
from serving.errors import ListenError
from serving.http.connection import guarded
from serving.nearest.index import Nearest
from serving.replica.ranking import Ranking
from serving.replica.status import RunningScorer
from serving.settings import ServerSettings
from stream.log.base import Log
from stream.records.targets import UNDECLARED, Targets

WATCH_EVERY_S = 0.05
SWITCH_INTERVAL_S = 0.001
"""How long a thread may hold the GIL while another thread waits for it; Python's default is 5 ms.

Longer than one answer takes, so that the event loop does not lose the GIL during an answer; not longer than
that, so that the event loop does not wait for the replica's thread. Measured in benchmarks/README.md.
"""


class _Server(uvicorn.Server):
    """Does not handle signals: the process does, and a role ends when its `stop` is set."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    replica: RunningScorer,
    log: Log,
    settings: ServerSettings,
    stop: threading.Event,
    on_listening: Callable[[str], None] = lambda url: None,
    targets: Targets = UNDECLARED,
    ranking: Ranking | None = None,
    nearest: Nearest | None = None,
) -> None:
    """Serve requests from a replica until `stop` is set, then finish the running requests and return.

    Starts and stops the replica's thread. The caller owns `log` and must close it.

    Args:
        on_listening: called with the server's URL once the server accepts requests. The model may still be
            loading: `/v2/health/ready` and `replica.wait_ready` say when it is ready.
        targets: those that actions may be of.
        nearest: the index of items, if there is one; its thread is started and stopped too.

    Raises:
        ListenError: the address is in use or does not belong to this machine.
        Exception: the error that stopped the replica's thread, or that of the index.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        with replica, nearest or contextlib.nullcontext():
            app = App(replica, log, settings, targets, ranking, nearest)
            run_app(app, settings, lambda: stop.is_set() or _failed(replica, nearest), on_listening)
        replica.check()
        if nearest is not None:
            nearest.check()
    finally:
        sys.setswitchinterval(interval)


def _failed(replica: RunningScorer, nearest: Nearest | None) -> bool:
    return replica.failure is not None or (nearest is not None and nearest.failure is not None)


def run_app(
    app: App, settings: ServerSettings, ended: Callable[[], bool], on_listening: Callable[[str], None]
) -> None:
    """Serve requests until `ended()` is true; it is polled 20 times a second. The caller handles signals.

    Raises:
        ListenError: the address is in use or does not belong to this machine.
        Exception: the error that ended one of the application's threads; serving has ended then.
    """
    listener = _listen(settings, guarded=app.access.required)
    try:
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        app.overview.name = f"{socket.gethostname()}:{port}"
        config = uvicorn.Config(
            app,
            http=guarded(settings),
            ws="none",
            lifespan="on",
            log_level="error",  # it warns of each request that is no HTTP, as many as anybody sends
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=max(1, round(settings.keep_alive_s)),
            timeout_graceful_shutdown=max(1, round(settings.stop_s)),
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(_Server(config), listener, lambda: _over(app, ended), lambda: on_listening(url)))
        app.check()
    finally:
        listener.close()


def _over(app: App, ended: Callable[[], bool]) -> bool:
    try:
        app.check()
    except BaseException:  # raised by `run_app`, once the running requests are finished
        return True
    return ended()


async def _run(
    server: _Server, listener: socket.socket, ended: Callable[[], bool], listening: Callable[[], None]
) -> None:
    async def watch() -> None:
        while not server.started and not server.should_exit:
            await asyncio.sleep(0.005)
        listening()
        while not ended():
            await asyncio.sleep(WATCH_EVERY_S)
        server.should_exit = True

    watching = asyncio.create_task(watch())
    try:
        await server.serve(sockets=[listener])
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


def check_address(settings: ServerSettings) -> None:
    """Check at startup that the configured address is free: listen on it and close the socket again.

    Raises:
        ListenError: the address is in use or does not belong to this machine.
    """
    _listen(settings, guarded=True).close()


def _listen(settings: ServerSettings, guarded: bool) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        if not guarded and not ipaddress.ip_address(address[0]).is_loopback:
            raise ListenError(
                f"{settings.host} can be reached from other machines, and there are no tokens: put "
                "`NAME score+write TOKEN` into a file and name it in [server] tokens, or into the "
                "environment variable FRESHET_TOKENS; or listen on 127.0.0.1"
            )
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(settings.connections_max)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ListenError(
            f"cannot listen on {settings.host}, port {settings.port}: {error.strerror or error}; "
            "stop what listens there (another Freshet?), or choose another host or port in [server] "
            f"(--set server.port={settings.port + 1 if settings.port < 65_535 else 0}; 0: any that is free)"
        ) from None
    return listener

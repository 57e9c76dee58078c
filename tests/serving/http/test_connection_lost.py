"""A connection that is lost: each request that is unanswered on it is told so."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from serving.http.connection import guarded
from serving.settings import ServerSettings


def test_request_is_told_of_a_lost_connection_also_if_another_waits_behind_it() -> None:
    begun, told = asyncio.Event(), asyncio.Queue[str]()

    async def answer(scope: object, receive: Callable[[], Any], send: object) -> None:
        message: Mapping[str, object] = await receive()
        assert message["type"] == "http.request"
        begun.set()
        message = await receive()
        told.put_nowait(str(message["type"]))

    async def run() -> str:
        config = uvicorn.Config(answer, ws="none", lifespan="off", log_config=None)
        config.load()
        connection = guarded(ServerSettings(port=0))
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: connection(config, ServerState(), {}), "127.0.0.1", 0)
        async with server, asyncio.timeout(60.0):
            host, port = server.sockets[0].getsockname()
            _, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
            await begun.wait()
            writer.transport.abort()
            return await told.get()

    assert asyncio.run(run()) == "http.disconnect"

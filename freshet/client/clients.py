"""A client of a server in Python: typed answers, retries, sync and async.

from freshet.client import Client

with Client("http://localhost:8470") as shop:
    answer = shop.score([{"item": 3}, {"item": 17}], {"user": "ann"})
    shop.feedback(answer.request_id, answer.order[0])

A call is tried again after a lost connection, a time-out, and an answer of 429, 502, 503 or 504, for as long
as `pauses` says. A retry writes nothing twice: a score keeps its request id, by which the joiner knows the
impression, and a write has an idempotency key.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from freshet.client.asks import ASKS, Ask, Asks
from freshet.client.calls import PAUSES, Attempts, http_settings
from ground.clock import SYSTEM_CLOCK, Clock
from ground.retry import Pauses

T = TypeVar("T")
P = ParamSpec("P")


def _sync(ask: Callable[Concatenate[Asks, P], Ask[T]]) -> Callable[Concatenate[Client, P], T]:
    """A method of `Client` with the arguments of `ask`, that gives the answer."""

    @functools.wraps(ask)
    def method(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client._call(ask(ASKS, *args, **kwargs))

    return method


def _awaited(
    ask: Callable[Concatenate[Asks, P], Ask[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """`_sync` for `AsyncClient`."""

    @functools.wraps(ask)
    async def method(client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await client._call(ask(ASKS, *args, **kwargs))

    return method


class Client:
    """A client; any number of threads may use it. Close it, or use it as a context manager.

    Args:
        url: of the server, for example http://localhost:8470.
        token: a bearer token, where the server needs one.
        timeout_s: of one attempt.
        pauses: between attempts, and when to give up.
        clock: waits.

    All methods raise `CallRefusedError` if the server refuses the request, and `CallFailedError` if it could
    not be asked, or failed.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 5.0,
        pauses: Pauses = PAUSES,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._pauses = pauses
        self._clock = clock
        self._http = httpx.Client(**http_settings(url, token, timeout_s)._asdict())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"freshet.client.Client({str(self._http.base_url)!r})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    score = _sync(Asks.score)
    explain = _sync(Asks.explain)
    nearest = _sync(Asks.nearest)
    feedback = _sync(Asks.feedback)
    events = _sync(Asks.events)
    entities = _sync(Asks.entities)
    forget = _sync(Asks.forget)
    model = _sync(Asks.model)
    ready = _sync(Asks.ready)

    def _call(self, ask: Ask[T]) -> T:
        attempts = Attempts(ask, self._pauses, self._clock)
        while True:
            try:
                response = self._http.request(
                    ask.method, ask.path, content=ask.body, headers=attempts.headers
                )
                found = attempts.answer(response)
            except httpx.TransportError as error:
                found = attempts.failed(error)
            if not isinstance(found, float):
                return found
            self._clock.sleep(found)


class AsyncClient:
    """`Client` for asyncio, with the same methods to await. Use it as an async context manager."""

    def __init__(
        self, url: str, *, token: str | None = None, timeout_s: float = 5.0, pauses: Pauses = PAUSES
    ) -> None:
        self._pauses = pauses
        self._http = httpx.AsyncClient(**http_settings(url, token, timeout_s)._asdict())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"freshet.client.AsyncClient({str(self._http.base_url)!r})"

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    score = _awaited(Asks.score)
    explain = _awaited(Asks.explain)
    nearest = _awaited(Asks.nearest)
    feedback = _awaited(Asks.feedback)
    events = _awaited(Asks.events)
    entities = _awaited(Asks.entities)
    forget = _awaited(Asks.forget)
    model = _awaited(Asks.model)
    ready = _awaited(Asks.ready)

    async def _call(self, ask: Ask[T]) -> T:
        attempts = Attempts(ask, self._pauses, SYSTEM_CLOCK)
        while True:
            try:
                response = await self._http.request(
                    ask.method, ask.path, content=ask.body, headers=attempts.headers
                )
                found = attempts.answer(response)
            except httpx.TransportError as error:
                found = attempts.failed(error)
            if not isinstance(found, float):
                return found
            await asyncio.sleep(found)

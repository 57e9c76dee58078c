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
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

import httpx
import msgspec
import numpy as np

from freshet.errors import CallFailedError, CallRefusedError
from ground.clock import SYSTEM_CLOCK, Clock
from ground.retry import Backoff, Pauses
from serving.app.bodies import (
    EventsAnswer,
    Explore,
    FeedbackRequest,
    ForgetAnswer,
    ForgetRequest,
    PlaceAnswer,
    ReadyAnswer,
    ScoreAnswer,
    ScoreRequest,
)
from serving.replica.explaining import ExplainAnswer
from serving.replica.status import ModelStatus
from stream.records.types import Candidates, Context, Event

__all__ = ["AsyncClient", "Client"]

PAUSES = Pauses(first_s=0.05, longest_s=2.0, give_up_s=15.0)
AGAIN = frozenset((429, 502, 503, 504))
"""Statuses after which the same request may succeed."""
RETRY_AFTER_S_MAX = 10.0

T = TypeVar("T")


class _Ask(NamedTuple, Generic[T]):
    """One request, and the type of its answer."""

    method: str
    path: str
    gives: type[T]
    body: bytes | None = None
    writes: bool = False
    fine: tuple[int, ...] = ()  # further statuses whose body is an answer


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise CallRefusedError(
        f"a value of type {type(value).__name__} cannot be sent; expected numbers, texts and lists"
    )


def _score(path: str, gives: type[T], request: ScoreRequest) -> _Ask[T]:
    if request.request_id is None:
        request = msgspec.structs.replace(request, request_id=os.urandom(16).hex())
    return _Ask("POST", path, gives, _encode(request))


def _feedback(request: FeedbackRequest) -> _Ask[PlaceAnswer]:
    return _Ask("POST", "/v1/feedback", PlaceAnswer, _encode(request), writes=True)


def _events(events: Sequence[Event]) -> _Ask[EventsAnswer]:
    body = _encode(list(events))
    return _Ask("POST", "/v1/events", EventsAnswer, body, writes=True)


def _forget(entity: Mapping[str, Sequence[int | str]]) -> _Ask[ForgetAnswer]:
    body = _encode(ForgetRequest({name: list(ids) for name, ids in entity.items()}))
    return _Ask("POST", "/v1/forget", ForgetAnswer, body, writes=True)


_MODEL = _Ask("GET", "/v1/model", ModelStatus)
_READY = _Ask("GET", "/v2/health/ready", ReadyAnswer, fine=(503,))


class _Attempts(Generic[T]):
    """The attempts of one call: what to send, and what an answer or a failure means."""

    def __init__(self, ask: _Ask[T], pauses: Pauses, clock: Clock) -> None:
        self.ask = ask
        self.headers = {"content-type": "application/json"} if ask.body is not None else {}
        if ask.writes:
            self.headers["idempotency-key"] = os.urandom(16).hex()
        self._backoff = Backoff(pauses, clock)

    def answer(self, response: httpx.Response) -> T | float:
        """The answer; or how many seconds to wait before the next attempt.

        Raises:
            CallRefusedError: the server refused it.
            CallFailedError: it failed too often.
        """
        status = response.status_code
        if response.is_success or status in self.ask.fine:
            try:
                return msgspec.json.decode(response.content, type=self.ask.gives)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise CallFailedError(
                    f"{self._what}: the answer is not that of a Freshet server: {error}"
                ) from None
        reason = _reason(response)
        if status not in AGAIN:
            kind = CallRefusedError if status < 500 else CallFailedError
            raise kind(f"{self._what}: {status}: {reason}")
        return self._later(f"{status}: {reason}", _retry_after_s(response))

    def failed(self, error: httpx.TransportError) -> float:
        """How many seconds to wait after a connection failed.

        Raises:
            CallFailedError: it failed too often.
        """
        return self._later(f"{type(error).__name__}: {error}", 0.0)

    def _later(self, why: str, least_s: float) -> float:
        pause_s = self._backoff.next_s()
        if pause_s is None:
            raise CallFailedError(f"{self._what} failed, also when tried again: {why}")
        return max(pause_s, least_s)

    @property
    def _what(self) -> str:
        return f"{self.ask.method} {self.ask.path}"


class _Settings(NamedTuple):
    """The arguments of httpx's clients."""

    base_url: str
    headers: dict[str, str]
    timeout: float


def _settings(url: str, token: str | None, timeout_s: float) -> _Settings:
    if not url.startswith(("http://", "https://")):
        raise CallFailedError(f"{url!r} is no server's URL; expected for example http://localhost:8470")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return _Settings(url, headers, timeout_s)


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
        self._http = httpx.Client(**_settings(url, token, timeout_s)._asdict())

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

    def score(
        self,
        candidates: Candidates,
        context: Context | None = None,
        *,
        request_id: str | None = None,
        time: float | None = None,
        log: bool = True,
        explore: Explore | None = None,
        unknown: bool = False,
        show: int | None = None,
    ) -> ScoreAnswer:
        """Probabilities and an order for n candidates; see `ScoreRequest` for the arguments."""
        request = ScoreRequest(candidates, context or {}, time, request_id, log, explore, unknown, show)
        return self._call(_score("/v1/score", ScoreAnswer, request))

    def explain(
        self, candidates: Candidates, context: Context | None = None, *, time: float | None = None
    ) -> ExplainAnswer:
        """The parts of each candidate's score. Nothing is logged."""
        return self._call(_score("/v1/explain", ExplainAnswer, ScoreRequest(candidates, context or {}, time)))

    def feedback(
        self,
        request_id: str,
        candidate: int | None = None,
        label: float = 1.0,
        *,
        name: str = "click",
        shown: list[int] | None = None,
        examined: int | None = None,
        time: float | None = None,
    ) -> PlaceAnswer:
        """What the person did with a candidate of a request, or was shown."""
        return self._call(
            _feedback(FeedbackRequest(request_id, candidate, label, time, name, shown, examined))
        )

    def events(self, events: Sequence[Event]) -> EventsAnswer:
        """Send impressions, actions and exposures; the answer has a verdict for each."""
        return self._call(_events(events))

    def forget(self, entity: Mapping[str, Sequence[int | str]]) -> ForgetAnswer:
        """Delete ids, by feature, and what was learned about them."""
        return self._call(_forget(entity))

    def model(self) -> ModelStatus:
        """The current model, its freshness and its metrics."""
        return self._call(_MODEL)

    def ready(self) -> ReadyAnswer:
        """Whether the server can take requests, and if not, why."""
        return self._call(_READY)

    def _call(self, ask: _Ask[T]) -> T:
        attempts = _Attempts(ask, self._pauses, self._clock)
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
        self._http = httpx.AsyncClient(**_settings(url, token, timeout_s)._asdict())

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

    async def score(
        self,
        candidates: Candidates,
        context: Context | None = None,
        *,
        request_id: str | None = None,
        time: float | None = None,
        log: bool = True,
        explore: Explore | None = None,
        unknown: bool = False,
        show: int | None = None,
    ) -> ScoreAnswer:
        """As `Client.score`."""
        request = ScoreRequest(candidates, context or {}, time, request_id, log, explore, unknown, show)
        return await self._call(_score("/v1/score", ScoreAnswer, request))

    async def explain(
        self, candidates: Candidates, context: Context | None = None, *, time: float | None = None
    ) -> ExplainAnswer:
        """As `Client.explain`."""
        request = ScoreRequest(candidates, context or {}, time)
        return await self._call(_score("/v1/explain", ExplainAnswer, request))

    async def feedback(
        self,
        request_id: str,
        candidate: int | None = None,
        label: float = 1.0,
        *,
        name: str = "click",
        shown: list[int] | None = None,
        examined: int | None = None,
        time: float | None = None,
    ) -> PlaceAnswer:
        """As `Client.feedback`."""
        request = FeedbackRequest(request_id, candidate, label, time, name, shown, examined)
        return await self._call(_feedback(request))

    async def events(self, events: Sequence[Event]) -> EventsAnswer:
        """As `Client.events`."""
        return await self._call(_events(events))

    async def forget(self, entity: Mapping[str, Sequence[int | str]]) -> ForgetAnswer:
        """As `Client.forget`."""
        return await self._call(_forget(entity))

    async def model(self) -> ModelStatus:
        """As `Client.model`."""
        return await self._call(_MODEL)

    async def ready(self) -> ReadyAnswer:
        """As `Client.ready`."""
        return await self._call(_READY)

    async def _call(self, ask: _Ask[T]) -> T:
        attempts = _Attempts(ask, self._pauses, SYSTEM_CLOCK)
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


def _reason(response: httpx.Response) -> str:
    try:
        found: dict[str, Any] = msgspec.json.decode(response.content, type=dict[str, Any])
        return f"{found['error']} (request {found.get('request_id', '')})"
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
        return response.text[:200] or response.reason_phrase


def _retry_after_s(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), RETRY_AFTER_S_MAX) if text.isdecimal() else 0.0

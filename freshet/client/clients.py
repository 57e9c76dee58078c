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
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx

from freshet.client.calls import (
    ASK_MODEL,
    ASK_READY,
    PAUSES,
    Ask,
    Attempts,
    ask_events,
    ask_feedback,
    ask_forget,
    ask_score,
    http_settings,
)
from ground.clock import SYSTEM_CLOCK, Clock
from ground.retry import Pauses
from serving.app.bodies import (
    EventsAnswer,
    Explore,
    FeedbackRequest,
    ForgetAnswer,
    PlaceAnswer,
    ReadyAnswer,
    ScoreAnswer,
    ScoreRequest,
)
from serving.replica.explaining import ExplainAnswer
from serving.replica.status import ModelStatus
from stream.records.types import Candidates, Context, Event

T = TypeVar("T")


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
        return self._call(ask_score("/v1/score", ScoreAnswer, request))

    def explain(
        self, candidates: Candidates, context: Context | None = None, *, time: float | None = None
    ) -> ExplainAnswer:
        """The parts of each candidate's score. Nothing is logged."""
        return self._call(
            ask_score("/v1/explain", ExplainAnswer, ScoreRequest(candidates, context or {}, time))
        )

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
            ask_feedback(FeedbackRequest(request_id, candidate, label, time, name, shown, examined))
        )

    def events(self, events: Sequence[Event]) -> EventsAnswer:
        """Send impressions, actions and exposures; the answer has a verdict for each."""
        return self._call(ask_events(events))

    def forget(self, entity: Mapping[str, Sequence[int | str]]) -> ForgetAnswer:
        """Delete ids, by feature, and what was learned about them."""
        return self._call(ask_forget(entity))

    def model(self) -> ModelStatus:
        """The current model, its freshness and its metrics."""
        return self._call(ASK_MODEL)

    def ready(self) -> ReadyAnswer:
        """Whether the server can take requests, and if not, why."""
        return self._call(ASK_READY)

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
        return await self._call(ask_score("/v1/score", ScoreAnswer, request))

    async def explain(
        self, candidates: Candidates, context: Context | None = None, *, time: float | None = None
    ) -> ExplainAnswer:
        """As `Client.explain`."""
        request = ScoreRequest(candidates, context or {}, time)
        return await self._call(ask_score("/v1/explain", ExplainAnswer, request))

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
        return await self._call(ask_feedback(request))

    async def events(self, events: Sequence[Event]) -> EventsAnswer:
        """As `Client.events`."""
        return await self._call(ask_events(events))

    async def forget(self, entity: Mapping[str, Sequence[int | str]]) -> ForgetAnswer:
        """As `Client.forget`."""
        return await self._call(ask_forget(entity))

    async def model(self) -> ModelStatus:
        """As `Client.model`."""
        return await self._call(ASK_MODEL)

    async def ready(self) -> ReadyAnswer:
        """As `Client.ready`."""
        return await self._call(ASK_READY)

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

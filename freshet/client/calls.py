"""The attempts of a call: what an answer or a failure means; the same for sync and async."""

from __future__ import annotations

import os
from typing import Generic, NamedTuple, TypeVar

import httpx
import msgspec

from freshet.client.asks import Ask
from freshet.errors import CallFailedError, CallRefusedError
from ground import UNDECODABLE
from ground.clock import Clock
from ground.retry import Backoff, Pauses

PAUSES = Pauses(first_s=0.05, longest_s=2.0, give_up_s=15.0)
AGAIN = frozenset((429, 502, 503, 504))
"""Statuses after which the same request may succeed."""
RETRY_AFTER_S_MAX = 10.0

T = TypeVar("T")


class Attempts(Generic[T]):
    """The attempts of one call: what to send, and what an answer or a failure means."""

    def __init__(self, ask: Ask[T], pauses: Pauses, clock: Clock) -> None:
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
            except UNDECODABLE as error:
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


class HttpSettings(NamedTuple):
    """The arguments of httpx's clients."""

    base_url: str
    headers: dict[str, str]
    timeout: float


def http_settings(url: str, token: str | None, timeout_s: float) -> HttpSettings:
    """Check the URL of a server.

    Raises:
        CallFailedError: it is no URL of HTTP.
    """
    if not url.startswith(("http://", "https://")):
        raise CallFailedError(f"{url!r} is no server's URL; expected for example http://localhost:8470")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return HttpSettings(url, headers, timeout_s)


def _reason(response: httpx.Response) -> str:
    try:
        found: dict[str, object] = msgspec.json.decode(response.content, type=dict[str, object])
        return f"{found['error']} (request {found.get('request_id', '')})"
    except (KeyError, *UNDECODABLE):
        return response.text[:200] or response.reason_phrase


def _retry_after_s(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), RETRY_AFTER_S_MAX) if text.isdecimal() else 0.0

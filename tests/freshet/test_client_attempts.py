"""What an answer means to a client: given, refused, failed, or to be asked for again."""

import httpx
import pytest

from freshet.client.asks import Ask
from freshet.client.calls import PAUSES, Attempts
from freshet.errors import CallFailedError, CallRefusedError
from ground.clock import ManualClock


def attempts() -> Attempts[dict[str, int]]:
    return Attempts(Ask("GET", "/v1/x", dict[str, int]), PAUSES, ManualClock())


@pytest.mark.parametrize("status", [400, 404, 499])
def test_what_the_server_refuses_is_refused(status: int) -> None:
    with pytest.raises(CallRefusedError, match=f"GET /v1/x: {status}: no"):
        attempts().answer(httpx.Response(status, json={"error": "no"}))


@pytest.mark.parametrize("status", [500, 501])
def test_what_the_server_cannot_do_has_failed(status: int) -> None:
    with pytest.raises(CallFailedError, match=f"GET /v1/x: {status}: no"):
        attempts().answer(httpx.Response(status, json={"error": "no"}))


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_asked_for_again_after_what_the_server_says(status: int) -> None:
    wait_s = attempts().answer(httpx.Response(status, headers={"retry-after": "7"}, json={"error": "no"}))
    assert wait_s == 7.0


def test_answer_is_what_the_call_gives() -> None:
    assert attempts().answer(httpx.Response(200, json={"a": 1})) == {"a": 1}
    with pytest.raises(CallFailedError, match="not that of a Freshet server"):
        attempts().answer(httpx.Response(200, content=b"<html>"))

"""Who may ask what: tokens by scope, reloaded, paced; and no open door beyond this machine."""

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from depth import many
from hypothesis import example, given, settings
from hypothesis import strategies as st
from known_scorer import Known
from waiting import wait_until

from serving.app.app import App
from serving.app.server import run_app
from serving.errors import AccessError, BusyTokenError, ForbiddenError, ListenError, TokensError
from serving.http.access import Access, parse_tokens
from serving.settings import ServerSettings
from stream.log.base import Log

SHOP, ADMIN = "shop-0123456789abcdef", "admin-0123456789abcdef"
TOKENS = f"# name scopes token\nshop score+write {SHOP}\n\noperator score+write+admin {ADMIN}\n"


def bearer(token: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + token.encode()}


def access(tmp_path: Path, **more: float) -> Access:
    file = tmp_path / "tokens"
    file.write_text(TOKENS)
    return Access(str(file), environment={}, **more)  # type: ignore[arg-type]


def test_file_of_tokens_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKENS.partition("\n")[2], encoding="utf-8-sig")
    assert Access(str(file), environment={}).admit("score", bearer(SHOP)) == "shop"


def test_token_lets_in_by_scope(tmp_path: Path) -> None:
    gate = access(tmp_path)
    assert gate.required
    assert gate.admit("score", bearer(SHOP)) == "shop"
    assert gate.admit(None, bearer(SHOP)) == "shop"
    assert gate.admit("admin", bearer(ADMIN)) == "operator"
    with pytest.raises(ForbiddenError, match="shop is for score, write; this needs admin"):
        gate.admit("admin", bearer(SHOP))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b"Basic abc"},
        {b"authorization": b"Bearer "},
        bearer("nobody-0123456789"),
        bearer(SHOP[:-1]),
    ],
)
def test_request_without_a_known_token_is_refused(tmp_path: Path, headers: dict[bytes, bytes]) -> None:
    with pytest.raises(AccessError):
        access(tmp_path).admit("score", headers)


def test_tokens_come_from_the_environment_too() -> None:
    gate = Access(environment={"FRESHET_TOKENS": f"a score {SHOP};b write {ADMIN}"})
    assert gate.admit("score", bearer(SHOP)) == "a"
    assert not Access(environment={}).required


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shop score", "test:1: expected NAME SCOPES TOKEN"),
        (f"\nshop read {SHOP}", "test:2: unknown scope 'read'"),
        ("shop score short", "has 5 characters"),
        (f"a score {SHOP}\na write {ADMIN}", "a is there twice"),
        ("# nothing", "holds no token"),
    ],
)
def test_bad_token_file_is_an_error_that_shows_no_token(text: str, said: str) -> None:
    with pytest.raises(TokensError, match=said) as caught:
        parse_tokens(text, "test")
    assert SHOP not in str(caught.value)


def test_changed_file_counts_within_a_second_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    file = tmp_path / "tokens"
    file.write_text(TOKENS)
    gate = Access(str(file), environment={}, clock=lambda: now[0])
    file.write_text(f"shop score new-{SHOP}\n")
    assert gate.admit("write", bearer(SHOP)) == "shop"  # not looked yet
    now[0] = 1.0
    with pytest.raises(AccessError):
        gate.admit("score", bearer(SHOP))
    assert gate.admit("score", bearer(f"new-{SHOP}")) == "shop"
    file.write_text("broken")
    now[0] = 2.0
    with caplog.at_level(logging.ERROR):
        assert gate.admit("score", bearer(f"new-{SHOP}")) == "shop"
    assert "stay as they were" in caplog.text


def test_token_is_held_to_its_pace(tmp_path: Path) -> None:
    now = [0.0]
    gate = access(tmp_path, rate_max=2.0, clock=lambda: now[0])  # type: ignore[arg-type]
    for _ in range(2):
        gate.admit("score", bearer(SHOP))
    with pytest.raises(BusyTokenError) as caught:
        gate.admit("score", bearer(SHOP))
    assert caught.value.retry_after_s == 1
    gate.admit("score", bearer(ADMIN))  # another's pace is its own
    now[0] = 0.5
    gate.admit("score", bearer(SHOP))


@pytest.fixture
def client(running, log: Log, tmp_path: Path) -> Iterator[httpx.Client]:
    (tmp_path / "tokens").write_text(TOKENS)
    settings = ServerSettings(port=0, tokens=str(tmp_path / "tokens"), rate_max=1.0, stop_s=1.0)

    def serve(stop: threading.Event, on_listening) -> None:
        run_app(App(Known(), log, settings), settings, stop.is_set, on_listening)

    with running(serve) as url, httpx.Client(base_url=url, timeout=60.0) as opened:
        yield opened


def test_server_asks_for_tokens_but_not_for_health(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").status_code == 200
    answer = client.post("/v1/score", json={"candidates": [{}]})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    mine = {"Authorization": f"Bearer {SHOP}", "X-Request-ID": "mine-1"}
    answer = client.post("/v1/score", json={"candidates": [{}]}, headers=mine)
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "mine-1")

    def refused() -> bool:  # a machine that takes a second for each call is let in
        answer = client.get("/v1/model", headers=mine)
        assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1
        return answer.status_code == 429

    wait_until(refused, every_s=0.001)


def test_request_id_that_could_not_be_shown_is_replaced(client: httpx.Client) -> None:
    answer = client.get("/v2/health/live", headers={"X-Request-ID": "<script>"})
    assert answer.headers["x-request-id"].isalnum()


def test_open_door_beyond_this_machine_is_refused(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRESHET_TOKENS", raising=False)
    settings = ServerSettings(host="0.0.0.0", port=0)
    with pytest.raises(ListenError, match=r"no tokens: put .*FRESHET_TOKENS.*127\.0\.0\.1"):
        run_app(App(Known(), log, settings), settings, lambda: True, lambda url: None)
    monkeypatch.setitem(os.environ, "FRESHET_TOKENS", f"shop score {SHOP}")
    run_app(App(Known(), log, settings), settings, lambda: True, lambda url: None)


@pytest.mark.slow
@given(
    st.text(max_size=120)
    | st.lists(
        st.tuples(
            st.text(max_size=8),
            st.sampled_from(["score", "score+write", "score+", "+", "admin+score+score"]),
            st.text(st.characters(), max_size=24) | st.just("0123456789abcdef\udcff"),
        ).map(" ".join),
        max_size=3,
    ).map("\n".join)
)
@example("shop score 0123456789abcdef\udcff")  # a byte of the environment that is no UTF-8
@example("sh\udcffop score 0123456789abcdef")
@settings(max_examples=many(150))
def test_any_tokens_are_callers_or_refused_in_a_sentence(text: str) -> None:
    try:
        callers = parse_tokens(text, "tokens")
    except TokensError as error:
        assert str(error).startswith("tokens")
        assert str(error).isprintable()
        str(error).encode()  # it is written to a log
        return
    assert callers and all(caller.name.strip() and caller.scopes for caller in callers)
    gate = Access(environment={"FRESHET_TOKENS": text})
    assert gate.required


def test_file_of_tokens_is_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_bytes("läden score 0123456789abcdéf".encode())
    token = {b"authorization": b"Bearer " + "0123456789abcdéf".encode()}
    assert Access(str(file), environment={}).admit("score", token) == "läden"
    file.write_bytes(b"l\xe4den score 0123456789abcdef")
    with pytest.raises(TokensError, match="not UTF-8"):
        Access(str(file), environment={})

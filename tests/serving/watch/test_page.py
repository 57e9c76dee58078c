"""The live page over HTTP: its files, its texts, and who may see what it shows."""

import gzip
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from known_scorer import Known
from paths import ROOT

from serving.app.app import App
from serving.app.server import run_app
from serving.settings import ServerSettings
from serving.watch.page import POLICY, anchor, page, titles
from stream.log.base import Log

SERVING = ROOT / "serving" / "watch"
TOKEN = "0123456789abcdef"
FILES = ("/", "/live.css", "/live.js")


@pytest.fixture
def client(running, log: Log, tmp_path: Path) -> Iterator[httpx.Client]:
    """A server that asks for tokens."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"eye score {TOKEN}\n")
    settings = ServerSettings(port=0, stop_s=1.0, tokens=str(tokens))

    def serve(stop: threading.Event, on_listening) -> None:
        run_app(App(Known(), log, settings), settings, stop.is_set, on_listening)

    with running(serve) as url, httpx.Client(base_url=url, timeout=60.0) as opened:
        yield opened


def test_files_need_no_token_and_what_they_show_does(client: httpx.Client) -> None:
    for path in FILES:
        answer = client.get(path)
        assert answer.status_code == 200 and answer.headers["content-encoding"] == "gzip"
        assert answer.headers["content-security-policy"] == POLICY
        again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        plain = client.get(path, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers and plain.content == answer.content
    for path in ("/v1/live", "/v1/live/history"):
        assert client.get(path).status_code == 401
        answer = client.get(path, headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
        assert answer.json()["life"]


def test_page_is_small_and_names_nothing_outside(client: httpx.Client) -> None:
    whole = "".join(client.get(path).text for path in FILES)
    assert len(gzip.compress(whole.encode())) < 40_000
    addresses = set(re.findall(r"""https?://[^\s"'<)]+""", whole))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of what SVG is, which nobody asks for
    html = client.get("/").text
    assert not re.search(r"<script(?! src=)|\son\w+=|style=", html)  # the policy forbids it


def test_every_link_of_the_page_leads_to_a_text_on_it() -> None:
    html, script = page(), (SERVING / "live.js").read_text()
    ids = re.findall(r' id="([\w-]+)"', html)
    assert len(ids) == len(set(ids))
    linked = re.findall(r'href="#([\w-]+)"', html) + re.findall(r'where: "([\w-]+)"', script)
    assert len(linked) > 20 and set(linked) <= set(ids)
    for name in titles((SERVING / "guide.md").read_text()):
        assert anchor(name) in ids and "**First look**" in (SERVING / "guide.md").read_text()


def test_operations_page_says_the_same_as_the_live_page() -> None:
    # but for the document's notes on how its commands are tested
    told = re.sub(r"<!--.*?-->\n", "", (ROOT / "docs" / "operations.md").read_text(), flags=re.DOTALL)
    for name, heading in (
        ("guide.md", "## What the numbers mean"),
        ("runbook.md", "## When an alert fires"),
    ):
        text = (SERVING / name).read_text().strip()
        assert "<!--" not in text
        assert f"{heading}\n\n{text}\n\n## " in told, f"docs/operations.md must repeat serving/{name}"


def test_requests_of_who_watches_are_not_counted(log: Log) -> None:
    telemetry = App(Known(), log, ServerSettings(port=0)).telemetry
    for path in (*FILES, "/v1/live", "/v1/live/history", "/metrics", "/v2/health/live"):
        telemetry.request_ended(path, 200, 0.1)
    telemetry.request_ended("/v1/score", 200, 0.003)
    telemetry.request_ended("/v1/feedback", 503, 0.1)
    totals = telemetry.totals()
    assert (totals.requests, totals.errors) == (2.0, 1.0)
    assert dict(totals.score_buckets)[0.005] == 1.0 and dict(totals.score_buckets)[0.002] == 0.0

"""The live page over HTTP: its files, its texts, and who may see what it shows."""

import gzip
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from browser import Browser
from known_scorer import Known
from paths import ROOT

from learner.metrics import Metrics
from serving.app.app import App
from serving.app.server import run_app
from serving.replica.status import DuelStatus, HeldModel, ModelStatus, Quality, ShownStatus, TargetStatus
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


class SeveralTargets(Known):
    """A scorer that tells of two further targets until `alone`."""

    alone = False

    def status(self) -> ModelStatus:
        one = super().status()
        buys, minutes = Metrics(100), Metrics(100, True)
        draw = np.random.default_rng(1)
        users = np.zeros(100, np.uint64)
        buys.add(np.linspace(0.01, 0.4, 100), (draw.random(100) < 0.2).astype(float), users)
        minutes.add(draw.random(100) * 9.0, draw.random(100) * 12.0, users)
        told = {"click": TargetStatus("event", "", one.base, one.base)}
        for name, kind, of in (
            ("buy", "event", buys),
            ("minutes_watched_without_a_pause_of_more_than_five_minutes_123456", "value", minutes),
        ):
            quality = Quality(of.summary(), of.recent())
            told[name] = TargetStatus(kind, "click", quality, quality)
        return one if self.alone else msgspec.structs.replace(one, targets=told)


@pytest.mark.process
def test_further_targets_are_lines_of_a_table_that_fits_every_screen(
    running, log: Log, chromium: str, tmp_path: Path
) -> None:
    scorer = SeveralTargets()
    settings = ServerSettings(port=0, stop_s=1.0)
    pictures = Path(os.environ.get("FRESHET_SCREENSHOTS") or tmp_path)

    def serve(stop: threading.Event, on_listening) -> None:
        run_app(App(scorer, log, settings), settings, stop.is_set, on_listening)

    cells = "[...document.querySelectorAll('#targets tr')].map(r => [...r.children].map(e => e.textContent))"
    shown = "document.getElementById('targets-card')?.checkVisibility() === true"
    fits = "(e => e.scrollWidth <= e.clientWidth)(document.querySelector('#targets').closest('.wide'))"
    with running(serve) as url, Browser(chromium) as browser:
        browser.screen(1280, 900)
        browser.open(f"{url}/")
        browser.until(shown)
        buy, minutes = browser.value(cells)
        assert (buy[0], buy[1], buy[5]) == ("buy", "100", "–") and buy[2].endswith("%")
        assert all(re.fullmatch(r"\d\.\d{3}", buy[i]) for i in (3, 4, 6))
        assert minutes[3] == minutes[4] == "–" and re.fullmatch(r"\d\.\d\d", minutes[5])
        for width, tall, scale in ((1280, 900, 1.0), (820, 900, 1.0), (360, 780, 2.0)):
            browser.screen(width, tall, scale)
            assert browser.value("document.documentElement.scrollWidth") <= width
            assert browser.value(fits), width
            browser.picture(pictures / f"targets-{width}.png", whole=True)
        browser.screen(1280, 900)
        browser.value("document.querySelector('#targets-title a').click()")
        assert browser.value("document.querySelector('article:target h3').textContent") == "Further targets"
        scorer.alone = True
        browser.until(f"!({shown})")
        assert browser.errors == []


class ValueFirst(Known):
    """A scorer whose first target is a value, and that tells what was shown, until `event`."""

    event = False

    def status(self) -> ModelStatus:
        one = super().status()
        if self.event:
            return one
        minutes = Metrics(100, True)
        minutes.add(np.full(100, 9.0), np.full(100, 12.0), np.zeros(100, np.uint64))
        quality = Quality(minutes.summary(), minutes.recent())
        shown = ShownStatus("item", 100, 20, 0.25, None, 0.5)
        return msgspec.structs.replace(one, base=quality, corrected=quality, shown=shown)


@pytest.mark.process
def test_first_target_that_is_a_value_has_errors_in_place_of_probabilities(
    running, log: Log, chromium: str
) -> None:
    scorer, settings = ValueFirst(), ServerSettings(port=0, stop_s=1.0)

    def serve(stop: threading.Event, on_listening) -> None:
        run_app(App(scorer, log, settings), settings, stop.is_set, on_listening)

    tiles = (
        "Object.fromEntries([...document.querySelectorAll('.tile')].map(t => "
        "[t.children[0].textContent, [t.children[1].textContent, t.children[2].textContent]]))"
    )
    charts = (
        "[...document.querySelectorAll('#charts .card')].filter(c => !c.hidden)"
        ".map(c => c.querySelector('h3').textContent)"
    )
    with running(serve) as url, Browser(chromium) as browser:
        browser.screen(1280, 900)
        browser.open(f"{url}/")
        browser.until(f"({tiles})['Absolute error']?.[0].startsWith('3.00')")
        found = browser.value(tiles)
        assert "AUC" not in found and "Click rate" not in found
        assert found["Mean label"][0] == "12.0" and found["Mean prediction"][0] == "9.00"
        assert found["Log loss"] == ["–", "none: the target is a value"]
        assert "Exposure" in browser.value(charts)
        assert "Absolute error" in browser.value(charts) and "AUC" not in browser.value(charts)
        scorer.event = True
        browser.until(f"'AUC' in ({tiles})")
        assert "Absolute error" not in browser.value(charts) and "AUC" in browser.value(charts)
        browser.value("document.querySelector('#charts a[href=\"#exposure\"]').click()")
        assert browser.value("document.querySelector('article:target h3').textContent") == "Exposure"
        assert browser.errors == []


class SeveralModels(Known):
    """A scorer that tells of two models, of which one is compared with the other."""

    def status(self) -> ModelStatus:
        one = super().status()
        duel = DuelStatus("main", "b", 900, (0.5, 0.4), (-0.1, -0.12, -0.08), (800, 100), (0.3, 0.3), None)
        first = HeldModel(
            0.9, True, "", "1-2", 1.0, 5, 7, 0, one.base, one.corrected, False, msgspec.UNSET, None
        )
        other = msgspec.structs.replace(first, share=0.1, ready=False, duel=duel)
        return msgspec.structs.replace(one, models={"main": first, "b": other}, shares_from=3)


@pytest.mark.process
def test_models_are_lines_of_a_table_with_their_differences(running, log: Log, chromium: str) -> None:
    settings = ServerSettings(port=0, stop_s=1.0)

    def serve(stop: threading.Event, on_listening) -> None:
        run_app(App(SeveralModels(), log, settings), settings, stop.is_set, on_listening)

    rows = (
        "[...document.querySelectorAll('#models-list tr')].map(r => [...r.children].map(e => e.textContent))"
    )
    with running(serve) as url, Browser(chromium) as browser:
        browser.screen(1280, 900)
        browser.open(f"{url}/")
        browser.until("document.getElementById('models-card')?.checkVisibility() === true")
        first, other = browser.value(rows)
        assert (first[0], first[1], first[-2:]) == ("main", "90\xa0%", ["–", "–"])
        assert other[0] == "b (not ready)" and other[-2:] == ["−0.1000 (−0.1200 to −0.0800)", "–"]
        for width in (1280, 360):
            browser.screen(width, 900)
            assert browser.value("document.documentElement.scrollWidth") <= width
        browser.value("document.querySelector('#models-title a').click()")
        assert browser.value("document.querySelector('article:target h3').textContent") == "Models"
        assert browser.errors == []

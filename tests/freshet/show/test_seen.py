"""`freshet up` as people see it: the live page in Debian's Chromium, and the terminal that it was started on.

One running Freshet is looked at in every way. Screenshots go to the folder that FRESHET_SCREENSHOTS
names, for people to look at.
"""

import os
import pty
import re
import select
import signal
import struct
import termios
import threading
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import httpx
import pytest
import starting
from browser import Browser
from scraping import free_port

from stream.group.signs import Beat, MemberStatus, send_beat
from stream.log.base import EVENTS, Outgoing
from stream.log.open import open_log

START_S_MAX = 200.0  # on a busy machine, kernels not yet compiled
TOKEN = "0123456789abcdef0123"
HOSTILE = "<img src=x onerror=alert(1)>"
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
IN_ROW = """Object.values(Object.groupBy(
    document.querySelectorAll('.tile'), (tile) => tile.getBoundingClientRect().top + scrollY
)).map((row) => row.length)"""
CONFIG = """
[stream.log]
sync = false
[join]
decide = "first_action"
[features.user]
kind = "id"
[features.item]
kind = "id"
[learner]
deep = "none"
publish_every_s = 0.1
[server]
port = {port}
tokens = "tokens"
"""

pytestmark = pytest.mark.process


class Up:
    """`freshet up` on a terminal of 100 columns and 50 rows, and people who use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.screen = ""
        self.errors: list[Exception] = []
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        (folder / "freshet.toml").write_text(CONFIG.format(port=port))
        (folder / "tokens").write_text(f"all score+write+admin {TOKEN}\n")
        self._stop = threading.Event()
        ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
        environment = starting.environment(TERM="xterm-256color")
        for name in ("NO_COLOR", "COLUMNS", "LINES"):  # of whoever runs the tests
            environment.pop(name, None)
        command = ["up", "--config", str(folder / "freshet.toml")]
        with os.fdopen(theirs, "wb") as terminal:
            self.process = starting.start(*command, stdout=terminal, stderr=terminal, env=environment)
        self._threads = [
            threading.Thread(target=self._read, args=(ours,)),
            threading.Thread(target=self._play),
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Ctrl-C, and see that it ends."""
        self._stop.set()
        self._threads[1].join()
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60.0)
        except TimeoutError:
            self.process.kill()
            self.process.wait()
        self._threads[0].join()

    def until_on_screen(self, pattern: str) -> str:
        """Wait until the terminal has shown this."""
        deadline = time.monotonic() + START_S_MAX
        while not (found := re.search(pattern, self.screen)):
            assert time.monotonic() < deadline and not self.errors, (self.errors, self.screen[-3000:])
            assert self.process.poll() is None, self.screen[-3000:]
            time.sleep(0.1)
        return found[0]

    def _read(self, terminal: int) -> None:
        """Keep what the terminal was sent last, without what only moves the cursor or colours."""
        seen = b""
        while self.process.poll() is None or select.select([terminal], [], [], 0)[0]:
            if not select.select([terminal], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(terminal, 65_536)
            except OSError:  # nobody holds the other end any more
                break
            if not data:
                break
            seen = (seen + data)[-60_000:]
            self.screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))
        os.close(terminal)

    def _play(self) -> None:
        """Ask for scores, and click on what has an even number; user and item are new now and then."""
        try:
            with httpx.Client(
                base_url=self.url, timeout=30.0, headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False
            ) as client:
                deadline = time.monotonic() + START_S_MAX
                while not self._stop.wait(0.2):
                    try:
                        if client.get("/v2/health/ready").status_code == 200:
                            break
                    except httpx.TransportError:
                        assert time.monotonic() < deadline
                n = 0
                while not self._stop.wait(0.04):
                    n += 1
                    items = [{"item": (n * 7 + i) % 40 + n // 100} for i in range(4)]
                    body = {"request_id": f"r{n}", "context": {"user": n % 50}, "candidates": items}
                    client.post("/v1/score", json=body).raise_for_status()
                    liked = next((i for i, item in enumerate(items) if item["item"] % 2 == 0), 0)
                    told = {"request_id": f"r{n}", "candidate": liked}
                    client.post("/v1/feedback", json=told).raise_for_status()
        except Exception as error:
            self.errors.append(error)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = Up(tmp_path_factory.mktemp("up"))
    yield running
    running.end()


@pytest.fixture
def browser(chromium: str) -> Iterator[Browser]:
    with Browser(chromium) as opened:
        yield opened


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go."""
    folder = Path(os.environ.get("FRESHET_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def text_of(tile: str) -> str:
    """An expression for what a tile says."""
    return f"document.querySelector('.tile[href=\"#{tile}\"] strong').textContent"


def test_terminal_shows_a_running_freshet(up: Up) -> None:
    up.until_on_screen(r"● joiner ready +● learner ready +● server ready")
    up.until_on_screen(r"events/s [\d.,]+")
    up.until_on_screen(r"freshness [\d.]+ (ms|s)")
    up.until_on_screen(r"corrected +0\.\d{3} +0\.\d{3} +\d\.\d{3}")
    up.until_on_screen(r"table rows \d")
    up.until_on_screen(r"✓ no alert fires")
    up.until_on_screen(r"user +[\d.k]+ +[\d.]+")
    assert "Traceback" not in up.screen
    assert (up.folder / ".freshet" / "logs" / "serve.log").exists()


def test_page_shows_the_same(up: Up, browser: Browser, pictures: Path) -> None:
    up.until_on_screen(r"page  http://[\d.:]+/")
    browser.screen(1280, 900)
    browser.open(f"{up.url}/")

    # it asks for a token, says so when it is wrong, and keeps the right one in the tab
    browser.until("document.activeElement && document.activeElement.id === 'token-field'")
    browser.picture(pictures / "token.png")
    sign_in = (
        "document.getElementById('token-field').value = '{}'; document.querySelector('form button').click()"
    )
    browser.value(sign_in.format("wrong"))
    browser.until("document.getElementById('token-wrong').textContent.includes('not known')")
    browser.errors.clear()  # the browser itself notes each 401
    browser.value(sign_in.format(TOKEN))
    browser.until("document.querySelectorAll('.plot svg').length >= 7")
    assert browser.value("Object.keys(localStorage).length") == 0

    # numbers are there, and move
    browser.until("/^0\\.[5-9]/.test(document.querySelector('.tile[href=\"#auc\"] strong').textContent)")
    for tile in ("events", "requests", "freshness", "lag", "log-loss", "calibration", "gate", "table-rows"):
        browser.until(f"/^\\d/.test({text_of(tile)})")
    browser.until(f"/^\\d/.test({text_of('impressions')})")
    before = browser.value("document.querySelector('#charts .plot path').getAttribute('d')")
    rows = browser.value(text_of("table-rows"))
    browser.until(f"document.querySelector('#charts .plot path').getAttribute('d') !== {before!r}")
    browser.until(f"document.querySelector('.tile[href=\"#table-rows\"] strong').textContent !== {rows!r}")
    roles = browser.value("[...document.querySelectorAll('#roles-list .who')].map(e => e.textContent)")
    assert sorted(roles) == ["joiner", "learner", "server"]
    features = browser.value("[...document.querySelectorAll('#tables th')].map(e => e.textContent)")
    assert {"user", "item"} <= set(features)
    browser.until("/\\d/.test(document.querySelector('#tables td:nth-child(3)').textContent)")

    # whatever somebody writes into the log, it is text here; and an alert says what fires
    log = open_log(f"sqlite:{up.folder}/.freshet/log.db")
    send_beat(log, Beat("learn", HOSTILE, "x", 0, status=MemberStatus({"skipped": 1.0})))
    log.append(EVENTS, [Outgoing(b"k", HOSTILE.encode(), 0)])
    log.close()
    browser.until(f"document.getElementById('roles-list').textContent.includes({HOSTILE!r})")
    assert browser.value("document.querySelectorAll('img').length") == 0
    browser.until("document.querySelector('.tile[href=\"#dead-letters\"] strong').textContent === '1'")

    browser.until("document.querySelector('.alert a').textContent === 'FreshetRecordsSkipped'")
    said = browser.value("document.getElementById('alerts-said').textContent")
    assert said == "1 alert fires: FreshetRecordsSkipped"
    browser.picture(pictures / "alert.png")

    # one click from a number to what it means and what to do, and from there to what to do about an alert
    browser.value("document.querySelector('.tile[href=\"#lag\"]').click()")
    assert browser.value("document.querySelector('article:target h3').textContent") == "Lag"
    browser.value("document.querySelector('article:target a').click()")
    assert browser.value("document.querySelector('article:target h3').textContent") == "FreshetLagging"
    browser.value("scrollTo(0, 0)")

    # without eyes: a chart says what it shows, and has a table
    label = browser.value("document.querySelector('#charts .plot').getAttribute('aria-label')")
    assert re.match(r"AUC over ten minutes; now base 0\.\d+, corrected 0\.\d+", label)
    browser.value("document.querySelector('#charts summary').click()")
    browser.until("document.querySelectorAll('#charts table tbody tr').length >= 2")
    browser.value("document.querySelector('#charts summary').click()")
    assert_names_and_contrast(browser)

    # on a desk, at night, on a phone
    time.sleep(1.0)
    browser.picture(pictures / "desktop.png")
    browser.picture(pictures / "desktop-whole.png", whole=True)
    browser.screen(1280, 900, dark=True)
    assert_names_and_contrast(browser)
    browser.picture(pictures / "dark.png")
    browser.screen(360, 780, 2.0)
    browser.until("document.querySelector('.plot svg').clientWidth < 360")
    assert browser.value("document.documentElement.scrollWidth") == 360
    folded = "[...document.querySelectorAll('.prose > details')].map(e => e.open)"
    fits = "(e => e.scrollWidth <= e.clientWidth)(document.querySelector('#tables').closest('.wide'))"
    assert browser.value(fits)
    browser.picture(pictures / "phone.png")
    browser.picture(pictures / "phone-whole.png", whole=True)

    # the long texts are folded there until a number leads into one; at no width does a tile stand alone
    browser.value("location.hash = ''")
    browser.screen(1280, 900)
    browser.until(f"{folded}.join() === 'true,true'")
    for width, in_row in ((1440, [4, 5, 5]), (820, [3, 3, 4, 4]), (390, [2] * 7)):
        browser.screen(width, 844)
        assert browser.value(IN_ROW) == in_row, width
        assert browser.value("document.documentElement.scrollWidth") <= width
    browser.until(f"{folded}.join() === 'false,false'")
    browser.value("document.querySelector('.tile[href=\"#lag\"]').click()")
    assert browser.value(f"{folded}.join()") == "true,false"

    # a day: nothing is there before the first whole minute, and nothing breaks
    browser.value("document.querySelector('input[value=coarse]').click()")
    browser.until("/minute is not over|over a day/.test(document.querySelector('.plot').outerHTML)")

    assert browser.errors == []
    outside = {url for url in browser.requests if not url.startswith((f"{up.url}/", "data:"))}
    assert outside <= {"about:blank"}
    assert up.errors == []


def assert_names_and_contrast(browser: Browser) -> None:
    """What WCAG 2.1 asks at level AA of contrast, and that everything to operate has a name."""
    poor = browser.value(CONTRAST)
    assert poor == [], poor
    tree: list[dict[str, Any]] = browser.call("Accessibility.getFullAXTree")["nodes"]
    for node in tree:
        role = node.get("role", {}).get("value")
        if role in ("link", "button", "radio", "textbox", "region", "image", "table") and not node.get(
            "ignored"
        ):
            assert node.get("name", {}).get("value") or role == "table", node
    roles = {node.get("role", {}).get("value") for node in tree}
    assert {"main", "banner", "contentinfo", "heading", "status"} <= roles

"""A browser to look at pages with: Debian's Chromium without a window, over its DevTools protocol."""

import base64
import contextlib
import itertools
import json
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from waiting import WAIT_S, wait_until
from websockets.sync.client import connect

CALL_S_MAX = 60.0
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root, where there is none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",
)


class Browser:
    """One tab. A context manager.

    What it met is in `errors` (console, exceptions, log) and `requests` (every address asked for).
    """

    def __init__(self, program: str) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._program = program
        self._ids = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._answered = threading.Condition()

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="freshet-browser-", ignore_cleanup_errors=True)
        self._said = Path(self._folder.name, "stderr")
        command = [self._program, *ARGUMENTS, f"--user-data-dir={self._folder.name}/profile", "about:blank"]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                command, stdout=said, stderr=said, env={**os.environ, "TZ": "UTC"}
            )
        try:
            self._socket = connect(
                self._page_address(), max_size=64 << 20, open_timeout=WAIT_S, ping_interval=None
            )
        except BaseException:
            self._end()
            raise
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._reader.join()
        self._end()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; its result."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        with self._answered:
            assert self._answered.wait_for(lambda: number in self._answers, CALL_S_MAX), (
                f"{method}: no answer"
            )
            answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str) -> None:
        """Go to an address, and wait until what was shown before is gone."""
        self.value("globalThis.isOld = true")
        self.call("Page.navigate", url=url)

        def come() -> bool:
            with contextlib.suppress(AssertionError):  # one page is going, and the other has not come
                return not self.value("globalThis.isOld")
            return False

        wait_until(come, url)

    def screen(self, width: int, height: int, scale: float = 1.0, dark: bool = False) -> None:
        """What the tab is looked at on; the page has followed when this returns."""
        mobile = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=mobile,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.until(f"location.protocol === 'about:' || innerWidth === {width}")
        # a page hears of its new size before it is asked for the next frame
        self.value("new Promise((told) => requestAnimationFrame(() => setTimeout(told)))")

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript comes to in the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, (expression, found["exceptionDetails"])
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression comes to something true."""
        wait_until(lambda: self.value(expression), lambda: f"{expression}; {self.errors}", 0.1)

    def picture(self, file: Path, whole: bool = False) -> None:
        """A screenshot: of the screen, or of the whole page."""
        more: dict[str, Any] = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            more = {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
        data = self.call("Page.captureScreenshot", format="png", **more)["data"]
        file.write_bytes(base64.b64decode(data))

    # --- inside ---

    def _page_address(self) -> str:
        """Where the one tab listens."""
        import urllib.request

        deadline = time.monotonic() + WAIT_S
        while True:
            found = re.search(r"DevTools listening on ws://([^/]+)/", self._said.read_text(errors="replace"))
            if found:
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                with opener.open(f"http://{found[1]}/json/list", timeout=60.0) as answer:
                    tabs: Sequence[dict[str, str]] = json.load(answer)
                for tab in tabs:
                    if tab["type"] == "page":
                        return tab["webSocketDebuggerUrl"]
            assert self._process.poll() is None and time.monotonic() < deadline, self._said.read_text()
            time.sleep(0.05)

    def _read(self) -> None:
        for message in self._socket:
            told = json.loads(message)
            if "id" in told:
                with self._answered:
                    self._answers[told["id"]] = told
                    self._answered.notify_all()
            else:
                self._hear(told["method"], told["params"])

    def _hear(self, method: str, told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.errors.append(str([part.get("value") for part in told["args"]]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(60.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

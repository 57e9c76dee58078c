"""A server under load: many clients ask for scores, and every answer is kept."""

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
from waiting import wait_until


class Kept(NamedTuple):
    """One answer."""

    asked_s: float
    answered_s: float
    body: dict[str, Any]


class Load:
    """The answers so far, and what went wrong."""

    def __init__(self) -> None:
        self.answers: list[Kept] = []
        self.errors: list[str] = []

    def check(self) -> None:
        assert not self.errors, self.errors[:3]


@contextmanager
def loaded(url: str, clients: int = 4, per_s: float = 200.0, click: bool = True) -> Iterator[Load]:
    """Ask a server at a steady rate from several threads, and click on odd items."""
    load, stop = Load(), threading.Event()

    def ask(client: int) -> None:
        n = client
        with httpx.Client(base_url=url, timeout=30.0) as http:
            while not stop.wait(clients / per_s):
                n += clients
                items = [n % 10, (n * 7 + 3) % 10]
                body = {
                    "request_id": f"load-{client}-{n}",
                    "context": {"user": f"u{n % 97}"},
                    "candidates": [{"item": item} for item in items],
                }
                began = time.monotonic()
                try:
                    answer = http.post("/v1/score", json=body)
                    load.answers.append(Kept(began, time.monotonic(), answer.raise_for_status().json()))
                    if click and items[0] % 2:
                        feedback = {"request_id": body["request_id"], "candidate": 0}
                        http.post("/v1/feedback", json=feedback).raise_for_status()
                except httpx.HTTPError as error:
                    load.errors.append(str(error))

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def ready(url: str) -> None:
    """Wait until a server is ready."""

    def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/v2/health/ready").status_code == 200
        return False

    wait_until(answers, "the server to be ready", 0.1)

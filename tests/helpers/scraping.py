"""Roles in threads, and what their /metrics say."""

import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from freshet.config import Config
from freshet.roles.roles import run_join, run_learn

WAIT_S = 240.0  # a busy machine that compiles kernels first


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(config: Config, *roles: Callable[[Config, threading.Event], None]) -> Iterator[None]:
    """Roles in threads, joiner and learner unless others are named; raises what they raised."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def work(run: object) -> None:
        try:
            run(config, stop)  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(run,)) for run in roles or (run_join, run_learn)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors, errors


def scrape(port: int) -> dict[str, Metric]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60.0) as answer:
        text = answer.read().decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def scrape_until(port: int, done: Callable[[dict[str, Metric]], bool]) -> dict[str, Metric]:
    """Scrape until `done` says yes; the role may not listen yet."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found: dict[str, Metric] = {}
        try:
            found = scrape(port)
            if done(found):
                return found
        except OSError:
            pass
        assert time.monotonic() < deadline, f"it did not come to this; last scraped: {found}"
        time.sleep(0.1)


def total(found: dict[str, Metric], name: str) -> float:
    """The sum of a metric's samples."""
    return sum(sample.value for sample in found[name].samples)

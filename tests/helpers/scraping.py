"""Roles in threads, and what their /metrics say."""

import contextlib
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ports import free_ports
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from waiting import wait_until

from freshet.config import Config
from freshet.roles.roles import run_join, run_learn


def free_port() -> int:
    """A port that nobody else takes before a server of this test listens there."""
    return free_ports(1)[0]


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
    found: dict[str, Metric] = {}

    def come() -> bool:
        nonlocal found
        with contextlib.suppress(OSError):
            found = scrape(port)
            return done(found)
        return False

    wait_until(come, lambda: f"what is scraped; last it was {found}", 0.1)
    return found


def total(found: dict[str, Metric], name: str) -> float:
    """The sum of a metric's samples."""
    return sum(sample.value for sample in found[name].samples)

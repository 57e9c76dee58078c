"""A real server in a thread, over a real log."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES, Log
from stream.log.open import open_log
from stream.log.settings import LogSettings

Serve = Callable[[threading.Event, Callable[[str], None]], None]
Running = Callable[[Serve], contextlib.AbstractContextManager[str]]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log with every topic, two partitions of events and examples."""
    opened = open_log(f"sqlite:{tmp_path / 'log.db'}", LogSettings(sync=False))
    for topic in (EVENTS, EXAMPLES):
        opened.create_topic(topic, 2)
    for topic in (UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES):
        opened.create_topic(topic, 1)
    yield opened
    opened.close()


@pytest.fixture
def running() -> Running:
    """Run `serve(stop, on_listening)` in a thread; gives its URL, stops it, raises what it raised."""

    @contextlib.contextmanager
    def run(serve: Serve) -> Iterator[str]:
        stop = threading.Event()
        listening = threading.Event()
        urls: list[str] = []
        errors: list[BaseException] = []

        def target() -> None:
            try:
                serve(stop, lambda url: (urls.append(url), listening.set())[1])
            except BaseException as error:
                errors.append(error)
                listening.set()

        thread = threading.Thread(target=target)
        thread.start()
        try:
            assert listening.wait(30.0)
            if urls:
                yield urls[0]
        finally:
            stop.set()
            thread.join(30.0)
        assert not thread.is_alive()
        if errors:
            raise errors[0]

    return run

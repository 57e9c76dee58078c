"""A real server in a thread, over a real log."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from topics import opened_topics

from stream.log.base import Log

Serve = Callable[[threading.Event, Callable[[str], None]], None]
Running = Callable[[Serve], contextlib.AbstractContextManager[str]]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log with every topic, two partitions of events and examples."""
    with opened_topics(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
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
            assert listening.wait(60.0)
            if urls:
                yield urls[0]
        finally:
            stop.set()
            thread.join(60.0)
        assert not thread.is_alive()
        if errors:
            raise errors[0]

    return run

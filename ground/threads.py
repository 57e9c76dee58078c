"""Helper threads of a role: an exception in one ends the role with its traceback."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Self

from ground.clock import SYSTEM_CLOCK, Clock

PARENT_EVERY_S = 0.5  # how often a process looks whether its parent is still there

_log = logging.getLogger("freshet.threads")


class HelperThread:
    """A thread beside a role's main thread. The role calls `check` regularly to see whether it has failed.

    >>> def fail(stop: threading.Event) -> None:
    ...     raise ValueError("a defect")
    >>> helper = HelperThread("example", fail)
    >>> helper.start()
    >>> helper.stop()
    >>> helper.check()
    Traceback (most recent call last):
        ...
    ValueError: a defect

    Args:
        name: of the thread, for people.
        work: the function to run. It receives an event and returns soon after the event is set. It may
            return earlier; an exception ends the role.
        on_failure: called in the thread with the exception: for a role that does not call `check`.
        daemon: the process may end without it.
        clock: makes the thread.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[threading.Event], None],
        on_failure: Callable[[BaseException], None] | None = None,
        daemon: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self._work = work
        self._on_failure = on_failure
        self._daemon = daemon
        self._clock = clock
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start it; again only after `stop`."""
        if self.alive:
            raise RuntimeError(f"thread {self.name!r} runs already")
        self.stopping.clear()
        self.failure = None
        self._thread = self._clock.thread(self._run, self.name, self._daemon)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Re-raise the exception that ended the thread, if any, with its traceback. Called by the role."""
        if self.failure is not None:
            raise self.failure

    def stop(self, timeout_s: float | None = None) -> None:
        """Ask the thread to end, and wait for it up to `timeout_s`. Does nothing if it is not running."""
        self.stopping.set()
        self.join(timeout_s)

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the thread has ended, up to `timeout_s`."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            self._work(self.stopping)
        except BaseException as error:
            self.failure = error
            _log.error("thread %r ended with an error: %s", self.name, error)
            if self._on_failure is not None:
                self._on_failure(error)


def end_with_parent(parent: int) -> None:
    """End this process at once when `parent` is no longer its parent; only for processes without state."""

    def watch(_: threading.Event) -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_EVERY_S)
        os._exit(1)

    HelperThread("parent", watch, lambda _: os._exit(1)).start()

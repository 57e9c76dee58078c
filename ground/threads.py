"""Threads that help a role: one that dies ends the role with its traceback, and not in silence."""

import logging
import threading
from collections.abc import Callable
from typing import Self

from ground.clock import SYSTEM_CLOCK, Clock

_log = logging.getLogger("freshet.threads")


class HelperThread:
    """A thread beside a role's own, which `check`s now and then whether it still lives.

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
        work: what it does; it is given an event and returns soon after that is set. To return earlier is
            allowed; to raise ends the role.
        on_failure: called in the thread with what it raised: for a role that does not check by itself.
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
        """Whether it is at work."""
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Raise what ended the thread, with its traceback, if anything did. To be called by the role."""
        if self.failure is not None:
            raise self.failure

    def stop(self, timeout_s: float | None = None) -> None:
        """Ask it to end, and wait for that, at most so long. No harm if it was not started, or has ended."""
        self.stopping.set()
        self.join(timeout_s)

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until its work is done, at most so long."""
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
            _log.error("thread %r has ended by an error: %s", self.name, error)
            if self._on_failure is not None:
                self._on_failure(error)

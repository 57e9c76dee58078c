"""A role as a process: how it stops.

SIGTERM and Ctrl-C set an event that the role's loop watches; a second Ctrl-C does not wait. A role
started as a child stops when its parent has ended, even by SIGKILL.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Self

from ground.threads import PARENT_EVERY_S, HelperThread

SIGNAL_S_MAX = 8.0
"""Time to stop after a signal; then the process ends, and reads uncommitted records again when restarted."""

STOP_S_MAX = 15.0
"""Time to stop after the parent has ended; then the process ends."""


class Stop:
    """Sets `event` on a signal, inside a `with`.

    Args:
        parent: stop when the parent is no longer the process with this id; 0: do not check.
        limit_s: seconds after a signal at which the process is ended if it still runs. This loses nothing:
            uncommitted records are read again. 0: no limit.
    """

    def __init__(self, parent: int = 0, limit_s: float = 0.0) -> None:
        self.event = threading.Event()
        self.status = 0
        self._parent = parent
        self._limit_s = limit_s
        self._ended = threading.Event()
        self._before: dict[int, signal._HANDLER] = {}
        self._parent_watch = HelperThread("parent", self._watch_parent, lambda _: self.event.set())
        self._limit_watch = HelperThread("limit", self._watch_limit)

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on_signal)
        if self._parent:
            self._parent_watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.event.set()
        self._ended.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is None:
            self._parent_watch.check()
            self._limit_watch.check()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.event.is_set():
                raise KeyboardInterrupt
            self.status = 130
        if self._limit_s and not self.event.is_set():
            self._limit_watch.start()
        self.event.set()

    def _watch_limit(self, _: threading.Event) -> None:
        if not self._ended.wait(self._limit_s):
            text = f"ending now: not stopped within {self._limit_s:g} s of the signal"
            print(text, file=sys.stderr, flush=True)
            os._exit(self.status)

    def _watch_parent(self, _: threading.Event) -> None:
        while not self.event.wait(PARENT_EVERY_S):
            if os.getppid() != self._parent:
                self.event.set()
                time.sleep(STOP_S_MAX)
                os._exit(1)

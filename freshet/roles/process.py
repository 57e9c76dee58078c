"""A role as a process: how it stops.

SIGTERM and Ctrl-C set an event that the role's loop watches; a second Ctrl-C does not wait. A role
started as a child stops when its parent is gone, however that went.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Self

PARENT_EVERY_S = 0.5
SIGNAL_S_MAX = 8.0
"""How long a role may take to stop by itself after a signal; what is not committed then is read again."""

STOP_S_MAX = 15.0
"""How long a role whose parent is gone may take to stop by itself."""


class Stop:
    """Turns signals into `event`, for the time of a `with`.

    Args:
        parent: stop when the parent is not this process any more; 0: do not look.
        limit_s: end the process so long after a signal, if it has not ended by itself: a role may be
            waiting for a log that is away, and what it holds is committed or read again. 0: no limit.
    """

    def __init__(self, parent: int = 0, limit_s: float = 0.0) -> None:
        self.event = threading.Event()
        self.status = 0
        self._parent = parent
        self._limit_s = limit_s
        self._ended = threading.Event()
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on_signal)
        if self._parent:
            threading.Thread(target=self._watch_parent, name="parent", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.event.set()
        self._ended.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.event.is_set():
                raise KeyboardInterrupt
            self.status = 130
        if self._limit_s and not self.event.is_set():
            threading.Thread(target=self._watch_limit, name="limit", daemon=True).start()
        self.event.set()

    def _watch_limit(self) -> None:
        if not self._ended.wait(self._limit_s):
            text = f"ending without waiting any longer: not stopped within {self._limit_s:g} s of the signal"
            print(text, file=sys.stderr, flush=True)
            os._exit(self.status)

    def _watch_parent(self) -> None:
        while not self.event.wait(PARENT_EVERY_S):
            if os.getppid() != self._parent:
                self.event.set()
                time.sleep(STOP_S_MAX)
                os._exit(1)


def end_with_parent(parent: int) -> None:
    """From now on end this process at once when `parent` is not its parent any more; it must hold nothing."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()

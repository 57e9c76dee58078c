"""A role's output: `ROLE: ready` once on stdout, and log lines on stderr."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO


class Voice:
    """The output of one role: readable lines on a terminal, else one JSON object a line.

    Args:
        more: in every log line.
    """

    def __init__(self, role: str, **more: object) -> None:
        self.role = role
        self._more = more
        self._for_people = sys.stderr.isatty()

    def ready(self, detail: str = "") -> None:
        """Print that the role is ready; a parent process may wait for this line."""
        _print(f"{self.role}: ready{' ' + detail if detail else ''}", sys.stdout)

    def log(self, event: str, level: str = "info", **fields: object) -> None:
        """Print a log line; its time is ISO 8601 in UTC, on a terminal the local time of day."""
        fields = {**self._more, **fields}
        if self._for_people:
            pairs = " ".join(f"{name}={short(value)}" for name, value in fields.items())
            line = printable(f"{time.strftime('%H:%M:%S')} {self.role:<6}{event} {pairs}")
        else:
            head = {"time": iso_time(time.time()), "level": level, "role": self.role, "event": event}
            line = json.dumps({**head, **fields}, default=str)
        _print(line, sys.stderr)


def _print(line: str, to: TextIO) -> None:
    """Print a line in one write: several processes may share where it goes."""
    to.write(f"{line}\n")
    to.flush()


@contextmanager
def forwarding(voice: Voice) -> Iterator[None]:
    """Inside a `with`, print the log messages of the packages below through `voice`."""
    logger = logging.getLogger("freshet")
    handler, level = _Forward(voice), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Forward(logging.Handler):
    def __init__(self, voice: Voice) -> None:
        super().__init__()
        self._voice = voice

    def emit(self, record: logging.LogRecord) -> None:
        more = {"error": str(record.exc_info[1])} if record.exc_info else {}
        self._voice.log(record.getMessage(), record.levelname.lower(), **more)


def iso_time(seconds: float) -> str:
    """Unix seconds as ISO 8601 in UTC, with milliseconds.

    >>> iso_time(1767225600.25)
    '2026-01-01T00:00:00.250Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def printable(text: str) -> str:
    r"""Untrusted text with its control characters escaped, safe to print on a terminal line.

    >>> print(printable("\x1b[31m\nERROR"))
    \x1b[31m\nERROR
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def short(value: object) -> str:
    """A value for people: numbers with thousands separators and few digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    )

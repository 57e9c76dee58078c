"""Paths to fields of a record: `session.user`, `items.0.sku`, `'odd.name'.x`, `.`, `@source.ts_ms`, `@@key`.

Steps are parted by dots and name a field of an object, a key of a map, or an index of a list; a step with
dots in its name stands in single quotes. `.` is the value itself. A path that begins with `@` begins at the
whole message, outside of its envelope; one that begins with `@@` at what is around the message: `@@key`,
`@@key.user`, `@@headers.NAME`, `@@timestamp`. A field that is missing is an error unless the path ends in
`?`; one that is null is None.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from stream.errors import RecordError

Decoded = Any
"""A value of others, of any type."""

Getter = Callable[[Decoded, object], Decoded]
"""(record within its envelope, whole message) -> the value. Raises RecordError."""

_STEP = re.compile(r"(?:'([^']+)'|([^.'?@\s]+))(?:\.|$)")
_SHOWN_MAX = 8
AROUND = ("key", "headers", "timestamp")

Start = Literal["", "@", "@@"]
"""Where a path begins: at the record, at the whole message, at what is around the message."""


class Carried(msgspec.Struct, frozen=True):
    """A message with what is around it, in place of the message alone where paths begin with `@@`."""

    message: Decoded
    around: Mapping[str, object]


def compile_path(text: str) -> Getter:
    """A function that gets what a path names.

    >>> compile_path("session.user")({"session": {"user": 7}}, None)
    7

    Raises:
        ValueError: it is no path; the message goes on behind the path.
    """
    steps, start, optional = split_path(text)
    walk = _Walk(text, steps, start, optional)
    if start or not steps:
        return walk
    if len(steps) == 1:
        (only,) = steps

        def get_one(record: Decoded, message: object) -> object:
            try:
                return record[only]
            except (KeyError, TypeError, IndexError):
                return walk(record, message)

        return get_one
    if len(steps) == 2:
        first, second = steps

        def get_two(record: Decoded, message: object) -> object:
            try:
                return record[first][second]
            except (KeyError, TypeError, IndexError):
                return walk(record, message)

        return get_two
    return walk


def split_path(text: str) -> tuple[tuple[str, ...], Start, bool]:
    """(steps, where it begins, whether the field may be missing).

    >>> split_path("@source.'ts.ms'?"), split_path("@@key.user")
    ((('source', 'ts.ms'), '@', True), (('key', 'user'), '@@', False))

    Raises:
        ValueError: it is no path.
    """
    optional = text.endswith("?")
    body = text.removesuffix("?")
    start: Start = "@@" if body.startswith("@@") else "@" if body.startswith("@") else ""
    body = body.removeprefix(start)
    if start != "@@" and (body == "." or (start and not body)):
        return (), start, optional
    steps = []
    at = 0
    while at < len(body):
        found = _STEP.match(body, at)
        if found is None:
            break
        steps.append(found[1] or found[2])
        at = found.end()
    if not steps or at < len(body) or body.endswith("."):
        raise ValueError("expected names parted by dots, such as session.user, or . for the value itself")
    lengths = {"key": True, "headers": len(steps) == 2, "timestamp": len(steps) == 1}
    if start == "@@" and not lengths.get(steps[0]):
        raise ValueError("expected @@key, @@key.FIELD, @@headers.NAME or @@timestamp")
    return tuple(steps), start, optional


class _Walk:
    """Goes along a path step by step, and says where it ends."""

    def __init__(self, text: str, steps: Sequence[str], start: Start, optional: bool) -> None:
        self._text = text
        self._steps = steps
        self._start = start
        self._optional = optional

    def __call__(self, record: object, message: object) -> object:
        value = record
        if self._start:
            carried = message if isinstance(message, Carried) else Carried(message, {})
            value = carried.message if self._start == "@" else carried.around
        for number, step in enumerate(self._steps):
            if value is None:
                return None
            if isinstance(value, Mapping):
                if step not in value:
                    if self._optional:
                        return None
                    own = f"; @@{step} is the record's own" if self._start == "@" and step in AROUND else ""
                    raise RecordError(
                        f"{self._text}: there is no {step!r} in {self._at(number)}, which has "
                        f"{_names(value)}{own if number == 0 else ''}"
                    )
                value = value[step]
            elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
                if not step.isdecimal():
                    at = ".".join(self._steps[:number])
                    raise RecordError(
                        f"{self._text}: {self._at(number)} is {describe(value)}, expected an object with "
                        f"{step!r}; an index such as {f'{self._start}{at}.0' if at else '0'} names one of a "
                        f'list, and in a source of actions each = "{at or "."}" takes them all'
                    )
                if int(step) >= len(value):
                    if self._optional:
                        return None
                    raise RecordError(f"{self._text}: {self._at(number)} is {describe(value)}")
                value = value[int(step)]
            else:
                raise RecordError(
                    f"{self._text}: {self._at(number)} is {describe(value)}, expected an object with {step!r}"
                )
        return value

    def _at(self, number: int) -> str:
        if number:
            return self._start + ".".join(self._steps[:number])
        return {"": "the record", "@": "the message", "@@": "what is around the message"}[self._start]


def describe(value: object) -> str:
    """What a value is, for messages.

    >>> describe([1, 2]), describe("ann"), describe(None)
    ('a list of 2', "text 'ann'", 'null')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"text {value[:40]!r}" + ("..." if len(value) > 40 else "")
    if isinstance(value, int | float):
        return f"the number {value}" if len(str(value)) < 40 else "a very long number"
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return f"an object with {_names(value)}"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}"
    return f"{type(value).__name__.lower()} {str(value)[:40]}"


def _names(value: Mapping[object, object]) -> str:
    names = [str(name)[:40] for name in list(value)[:_SHOWN_MAX]]
    more = f" and {len(value) - len(names)} more" if len(value) > len(names) else ""
    return ", ".join(names) + more if names else "nothing"

"""The header in which a record's producer and sequence number travel: `freshet: PRODUCER/SEQ`.

Any client may write such a header. A header that does not match exactly is ignored: digits other than 0 to 9,
a sign, a leading zero, a number over 2^63 - 1, a name that is too long or no UTF-8.
"""

import functools
import logging
import operator
import re
from collections.abc import Callable

from confluent_kafka import Message

from stream.log.base import PRODUCER_BYTES_MAX, SEQ_MAX

HEADER = "freshet"

_log = logging.getLogger("freshet.kafka")

_MARK = re.compile(rb"(.{0,%d})/(0|[1-9][0-9]{0,18})" % PRODUCER_BYTES_MAX, re.DOTALL)

_headers: Callable[[Message], "Headers | None"] = operator.methodcaller("headers")
"""For a name that is no UTF-8 the library returns a list with a hole in it, and an exception beside it.

A call from C is checked for that, and raises SystemError. One from Python is not once it was made some times
(CPython 3.11 and later, specialized calls): whoever looks into the hole then ends the process.
"""

Value = str | bytes | None
Headers = dict[str, Value] | list[tuple[str, Value]]


def write_mark(producer: str, seq: int) -> list[tuple[str, Value]]:
    """The headers of a record.

    >>> write_mark("shop", 7), write_mark("", -1)
    ([('freshet', b'shop/7')], [])
    """
    return [(HEADER, f"{producer}/{seq}".encode())] if producer or seq >= 0 else []


def read_mark(headers: Headers | None) -> tuple[str, int]:
    """(producer, sequence number) of a record's headers; ("", -1) if there is no valid header.

    >>> read_mark([("trace", b"x"), ("freshet", b"shop/7")])
    ('shop', 7)
    >>> read_mark([("freshet", b"shop/1_0")]), read_mark(None)
    (('', -1), ('', -1))
    """
    for name, value in reversed(headers if isinstance(headers, list) else ()):
        if name == HEADER:
            return parse_mark(value) if isinstance(value, bytes) else ("", -1)
    return "", -1


def headers_of(message: Message) -> Headers | None:
    """The headers of a message; None if it has none, or if the name of one is no UTF-8."""
    try:
        return _headers(message)
    except SystemError as failed:
        if not isinstance(failed.__cause__, UnicodeDecodeError):
            raise
        _warn_of(message.topic() or "")
        return None


@functools.cache
def _warn_of(topic: str) -> None:
    """Say once of a topic that it has such records."""
    _log.warning("topic %r: records with a header whose name is no UTF-8 are read without headers", topic)


def foreign(headers: Headers) -> tuple[tuple[str, bytes | None], ...]:
    """The headers that are not ours.

    >>> foreign([("freshet", b"shop/7")]), foreign([("user", b"ann"), ("freshet", b"shop/7")])
    ((), (('user', b'ann'),))
    """
    pairs = headers if isinstance(headers, list) else list(headers.items())
    if len(pairs) == 1 and pairs[0][0] == HEADER:
        return ()
    return tuple(
        (name, value.encode() if isinstance(value, str) else value) for name, value in pairs if name != HEADER
    )


def parse_mark(value: bytes) -> tuple[str, int]:
    """(producer, sequence number) of the header's value; ("", -1) if the value is invalid."""
    # `PRODUCER/-1`: a named sender that does not number its records
    if value.endswith(b"/-1") and len(value) <= PRODUCER_BYTES_MAX + 3:
        name, seq = value[:-3], -1
    else:
        found = _MARK.fullmatch(value)
        if found is None:
            return "", -1
        name, seq = found[1], int(found[2])
    try:
        return (name.decode(), seq) if seq <= SEQ_MAX else ("", -1)
    except UnicodeDecodeError:
        return "", -1

"""A retry is harmless: what was answered under an idempotency key is answered again; nothing is done twice.

Keys are kept in memory, each caller's and path's apart, for `keep_s` seconds and up to a limit in number and
bytes, at which the oldest go. A retry that comes later, after a restart, or to another server is done again;
what it sends is then recognised as a repeat by the joiner, by `request_id`.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from serving.errors import RequestError, ReusedKeyError

HEADER = b"idempotency-key"
KEY_CHARACTERS_MAX = 255
ENTRY_BYTES = 512
"""What an entry takes beside its answer's body, about."""

_KEY = re.compile(rb"[\x21-\x7e]{1,%d}" % KEY_CHARACTERS_MAX)


class Answer(NamedTuple):
    """What a request was answered with."""

    status: int
    body: bytes


class _Entry(NamedTuple):
    digest: bytes  # of the body that came with the key
    at: float  # when, on `clock`
    answer: asyncio.Future[Answer]


def key_of(headers: Mapping[bytes, bytes]) -> bytes:
    """The idempotency key that a request came with; empty: none.

    Raises:
        RequestError: it cannot be one.
    """
    key = headers.get(HEADER)
    if key is None:
        return b""
    if not _KEY.fullmatch(key):
        raise RequestError(
            f"Idempotency-Key must have 1 to {KEY_CHARACTERS_MAX} printable ASCII characters and no spaces"
        )
    return key


class Answers:
    """The answers given under idempotency keys. For one event loop.

    Args:
        entries_max: keys kept.
        bytes_max: of their answers.
        keep_s: for how long.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        entries_max: int,
        bytes_max: int,
        keep_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._keep_s = keep_s
        self._clock = clock
        self._entries: dict[tuple[str, str, bytes], _Entry] = {}  # the oldest first
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def once(
        self, caller: str, path: str, key: bytes, body: bytes, make: Callable[[], Awaitable[Answer]]
    ) -> tuple[Answer, bool]:
        """The answer under a key, made now if there is none; and whether it is another request's.

        One that comes while the first is at work waits for it. A failure (an exception, or a status of 500
        and above) is answered to all who wait, and not kept.

        Raises:
            ReusedKeyError: the key came with another body before.
        """
        self._drop_old()
        place = caller, path, key
        digest = hashlib.blake2b(body, digest_size=16).digest()
        found = self._entries.get(place)
        if found is not None:
            if found.digest != digest:
                raise ReusedKeyError(
                    "this Idempotency-Key came with another body before; use a new key for each request, "
                    "and the same one for its retries only"
                )
            return await asyncio.shield(found.answer), True
        entry = _Entry(digest, self._clock(), asyncio.get_running_loop().create_future())
        self._entries[place] = entry
        try:
            answer = await make()
        except BaseException as error:
            del self._entries[place]
            entry.answer.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            entry.answer.exception()  # taken: nobody may be waiting for it
            raise
        entry.answer.set_result(answer)
        if answer.status >= 500:
            del self._entries[place]
        else:
            self._bytes += _size(answer)
            self._keep_limits()
        return answer, False

    def _drop_old(self) -> None:
        """Drop what is older than is kept."""
        limit = self._clock() - self._keep_s
        while self._entries:
            place, entry = next(iter(self._entries.items()))
            if entry.at > limit or not entry.answer.done():
                return
            self._drop(place)

    def _keep_limits(self) -> None:
        """Drop the oldest while there is too much; those at work stay, which are few."""
        if len(self._entries) <= self._entries_max and self._bytes <= self._bytes_max:
            return
        for place, entry in list(self._entries.items()):
            if len(self._entries) <= self._entries_max and self._bytes <= self._bytes_max:
                return
            if entry.answer.done():
                self._drop(place)

    def _drop(self, place: tuple[str, str, bytes]) -> None:
        self._bytes -= _size(self._entries.pop(place).answer.result())


def _size(answer: Answer) -> int:
    return len(answer.body) + ENTRY_BYTES

"""Idempotency keys: a retry with the same key gets the stored answer, and nothing is done twice.

Keys are kept in memory, separately by caller and path, for `keep_s` seconds and up to a limit in number and
bytes. Above the limit, the caller with the most loses its oldest answers, so no caller can evict the answers
of the others. A retry that arrives later, after a restart, or at another server is executed again; the joiner
then drops its records as repeats, by `request_id`.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from serving.errors import RequestError, ReusedKeyError, UnavailableError

HEADER = b"idempotency-key"
KEY_CHARACTERS_MAX = 255
ENTRY_BYTES = 512
"""Approximate size of an entry without the body of its answer."""
ANSWER_SHARE = 16
"""An answer larger than `bytes_max` divided by this number is not kept."""

_KEY = re.compile(rb"[\x21-\x7e]{1,%d}" % KEY_CHARACTERS_MAX)


class KeptAnswer(NamedTuple):
    """A stored answer."""

    status: int
    body: bytes


class _Entry(NamedTuple):
    digest: bytes  # of the request body sent with the key
    at: float  # time of the request, on `clock`
    answer: asyncio.Future[KeptAnswer]


class _Held:
    """The entries of one caller."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, bytes], _Entry] = {}  # by path and key, the oldest first
        self.bytes = 0  # of the finished answers


def key_of(headers: Mapping[bytes, bytes]) -> bytes:
    """The idempotency key of a request; empty: none.

    Raises:
        RequestError: the key is malformed.
    """
    key = headers.get(HEADER)
    if key is None:
        return b""
    if not _KEY.fullmatch(key):
        raise RequestError(
            f"Idempotency-Key must have 1 to {KEY_CHARACTERS_MAX} printable ASCII characters and no spaces"
        )
    return key


class KeptAnswers:
    """The answers stored by idempotency key. For one event loop.

    The cost of a call does not grow with the number of keys: a call reads the running entries and one entry
    per caller, and there are at most as many callers as tokens.

    Args:
        entries_max: number of keys kept.
        bytes_max: total size of their answers.
        keep_s: how long they are kept.
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
        self._held: dict[str, _Held] = {}  # by caller
        self._entries = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._entries

    async def once(
        self, caller: str, path: str, key: bytes, body: bytes, make: Callable[[], Awaitable[KeptAnswer]]
    ) -> tuple[KeptAnswer, bool]:
        """Return the answer for a key, and whether it was stored; if there is none, call `make`.

        A retry that arrives while the first request runs waits for its answer. A failure (an exception, or a
        status of 500 and above) is passed to all waiting retries, and not kept.

        Raises:
            ReusedKeyError: the key was used before with a different body.
        """
        self._drop_old()
        held = self._held.setdefault(caller, _Held())
        where = path, key
        digest = hashlib.blake2b(body, digest_size=16).digest()
        found = held.entries.get(where)
        if found is not None:
            if found.digest != digest:
                raise ReusedKeyError(
                    "this Idempotency-Key was used with another body before; use a new key for each request, "
                    "and the same one for its retries only"
                )
            return await asyncio.shield(found.answer), True
        entry = _Entry(digest, self._clock(), asyncio.get_running_loop().create_future())
        held.entries[where] = entry
        self._entries += 1
        try:
            answer = await make()
        except BaseException as error:
            self._remove(caller, where)
            entry.answer.set_exception(error if isinstance(error, Exception) else _cut_off())
            entry.answer.exception()  # mark it as retrieved: asyncio warns otherwise if no retry waits
            raise
        entry.answer.set_result(answer)
        if answer.status >= 500 or _size(answer) > self._bytes_max // ANSWER_SHARE:
            self._remove(caller, where)
        else:
            held.bytes += _size(answer)
            self._bytes += _size(answer)
            self._keep_limits()
        return answer, False

    def _drop_old(self) -> None:
        """Drop the answers older than `keep_s`."""
        limit = self._clock() - self._keep_s
        for caller in list(self._held):
            held = self._held[caller]
            while (oldest := _oldest(held)) is not None and held.entries[oldest].at <= limit:
                self._drop(caller, oldest)
            if not held.entries:
                del self._held[caller]

    def _keep_limits(self) -> None:
        """While over a limit, drop the oldest answer of the caller with the most; keep running entries."""
        while self._entries > self._entries_max or self._bytes > self._bytes_max:
            if self._bytes > self._bytes_max:
                caller = max(self._held, key=lambda name: self._held[name].bytes)
            else:
                caller = max(self._held, key=lambda name: len(self._held[name].entries))
            oldest = _oldest(self._held[caller])
            if oldest is None:
                return
            self._drop(caller, oldest)

    def _drop(self, caller: str, where: tuple[str, bytes]) -> None:
        """Remove a stored answer."""
        size = _size(self._remove(caller, where).answer.result())
        self._held[caller].bytes -= size
        self._bytes -= size

    def _remove(self, caller: str, where: tuple[str, bytes]) -> _Entry:
        self._entries -= 1
        return self._held[caller].entries.pop(where)


def _cut_off() -> UnavailableError:
    return UnavailableError("the first request under this Idempotency-Key was cut off; send it again")


def _oldest(held: _Held) -> tuple[str, bytes] | None:
    """The oldest finished answer. Skips running entries, at most `concurrency_max`."""
    return next((where for where, entry in held.entries.items() if entry.answer.done()), None)


def _size(answer: KeptAnswer) -> int:
    return len(answer.body) + ENTRY_BYTES

"""A retry is harmless: what was answered under an idempotency key is answered again; nothing is done twice.

Keys are kept in memory, each caller's and path's apart, for `keep_s` seconds and up to a limit in number and
bytes. Beyond it the caller that holds most loses its oldest, so no caller can evict what the others keep. A
retry that comes later, after a restart, or to another server is done again; the joiner then recognises what
it sends as a repeat, by `request_id`.
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
"""What an entry takes beside its answer's body, about."""
ANSWER_SHARE = 16
"""An answer that takes more than one part in so many of all bytes is not kept."""

_KEY = re.compile(rb"[\x21-\x7e]{1,%d}" % KEY_CHARACTERS_MAX)


class KeptAnswer(NamedTuple):
    """What a request was answered with."""

    status: int
    body: bytes


class _Entry(NamedTuple):
    digest: bytes  # of the body that came with the key
    at: float  # when, on `clock`
    answer: asyncio.Future[KeptAnswer]


class _Held:
    """What one caller holds."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, bytes], _Entry] = {}  # by path and key, the oldest first
        self.bytes = 0  # of the answers that are done


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


class KeptAnswers:
    """The answers given under idempotency keys. For one event loop.

    What one call costs does not grow with the number of keys: it looks at one entry of each caller (of whom
    there are as many as tokens), and at those that are at work.

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
        self._held: dict[str, _Held] = {}  # by caller
        self._entries = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._entries

    async def once(
        self, caller: str, path: str, key: bytes, body: bytes, make: Callable[[], Awaitable[KeptAnswer]]
    ) -> tuple[KeptAnswer, bool]:
        """The answer under a key, made now if there is none; and whether it is another request's.

        One that comes while the first is at work waits for it. A failure (an exception, or a status of 500
        and above) is answered to all who wait, and not kept.

        Raises:
            ReusedKeyError: the key came with another body before.
        """
        self._drop_old()
        held = self._held.setdefault(caller, _Held())
        place = path, key
        digest = hashlib.blake2b(body, digest_size=16).digest()
        found = held.entries.get(place)
        if found is not None:
            if found.digest != digest:
                raise ReusedKeyError(
                    "this Idempotency-Key came with another body before; use a new key for each request, "
                    "and the same one for its retries only"
                )
            return await asyncio.shield(found.answer), True
        entry = _Entry(digest, self._clock(), asyncio.get_running_loop().create_future())
        held.entries[place] = entry
        self._entries += 1
        try:
            answer = await make()
        except BaseException as error:
            self._remove(caller, place)
            entry.answer.set_exception(error if isinstance(error, Exception) else _cut_off())
            entry.answer.exception()  # mark it as retrieved: nobody may be waiting for it
            raise
        entry.answer.set_result(answer)
        if answer.status >= 500 or _size(answer) > self._bytes_max // ANSWER_SHARE:
            self._remove(caller, place)
        else:
            held.bytes += _size(answer)
            self._bytes += _size(answer)
            self._keep_limits()
        return answer, False

    def _drop_old(self) -> None:
        """Drop what is older than is kept."""
        limit = self._clock() - self._keep_s
        for caller in list(self._held):
            held = self._held[caller]
            while (oldest := _oldest(held)) is not None and held.entries[oldest].at <= limit:
                self._drop(caller, oldest)
            if not held.entries:
                del self._held[caller]

    def _keep_limits(self) -> None:
        """While there is too much, drop the oldest of the caller that holds most; those at work stay."""
        while self._entries > self._entries_max or self._bytes > self._bytes_max:
            if self._bytes > self._bytes_max:
                caller = max(self._held, key=lambda name: self._held[name].bytes)
            else:
                caller = max(self._held, key=lambda name: len(self._held[name].entries))
            oldest = _oldest(self._held[caller])
            if oldest is None:
                return
            self._drop(caller, oldest)

    def _drop(self, caller: str, place: tuple[str, bytes]) -> None:
        """Remove an answer that was kept."""
        size = _size(self._remove(caller, place).answer.result())
        self._held[caller].bytes -= size
        self._bytes -= size

    def _remove(self, caller: str, place: tuple[str, bytes]) -> _Entry:
        self._entries -= 1
        return self._held[caller].entries.pop(place)


def _cut_off() -> UnavailableError:
    return UnavailableError("the first request under this Idempotency-Key was cut off; send it again")


def _oldest(held: _Held) -> tuple[str, bytes] | None:
    """The oldest answer that is kept, past those at work, of which there are few (`concurrency_max`)."""
    return next((place for place, entry in held.entries.items() if entry.answer.done()), None)


def _size(answer: KeptAnswer) -> int:
    return len(answer.body) + ENTRY_BYTES

"""Access control: bearer tokens with scopes and a rate limit, read from a file or the environment.

The file has one token per line, `NAME SCOPES TOKEN`:

    # who     may                 shows
    shop      score+write         3b1f0c6a9e7d4a52
    operator  score+write+admin   c0ffee5eedc0ffee5eed

In the environment variable FRESHET_TOKENS a `;` may end a line. The server reads a changed file within a
second. If the new file is unreadable or invalid, the old tokens stay valid and the server logs an error.
"""

import hashlib
import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from serving.errors import AccessError, BusyTokenError, ForbiddenError, TokensError

Scope = Literal["score", "write", "admin"]
ENVIRONMENT = "FRESHET_TOKENS"
LOOK_EVERY_S = 1.0
TOKEN_CHARACTERS_MIN = 16
TOKENS_MAX = 10_000

log = logging.getLogger("freshet.serving")


class Caller(NamedTuple):
    """The owner of a token."""

    name: str
    scopes: frozenset[str]
    digest: bytes  # SHA-256 of the token


def parse_tokens(text: str, source: str) -> list[Caller]:
    """Parse the text of a token file.

    >>> [(c.name, sorted(c.scopes)) for c in parse_tokens("shop score+write 0123456789abcdef", "test")]
    [('shop', ['score', 'write'])]

    Raises:
        TokensError: the text is invalid; the message names the line and never shows a token.
    """
    callers: dict[str, Caller] = {}  # by name
    for number, line in enumerate(re.split(r"[\n;]", text), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 3:
            raise TokensError(f"{source}:{number}: expected NAME SCOPES TOKEN, found {len(words)} words")
        name, scopes, token = words
        if not (name + token).isprintable():
            raise TokensError(f"{source}:{number}: name or token holds control characters, or is not UTF-8")
        unknown = set(scopes.split("+")) - set(get_args(Scope))
        if unknown:
            known = ", ".join(get_args(Scope))
            raise TokensError(
                f"{source}:{number}: unknown scope {min(unknown)!r}; there are {known}, joined by +"
            )
        if len(token) < TOKEN_CHARACTERS_MIN:
            raise TokensError(
                f"{source}:{number}: the token of {name} has {len(token)} characters; use at least "
                f"{TOKEN_CHARACTERS_MIN}, `openssl rand -hex 16` makes one"
            )
        if name in callers:
            raise TokensError(f"{source}:{number}: {name} is there twice")
        callers[name] = Caller(name, frozenset(scopes.split("+")), _digest(token.encode()))
        if len(callers) > TOKENS_MAX:
            raise TokensError(f"{source}:{number}: over {TOKENS_MAX:,} tokens; let some share one")
    if not callers:
        raise TokensError(f"{source}: holds no token")
    return list(callers.values())


class Access:
    """Admits requests by their token, up to a rate limit. Without tokens every request is admitted.

    Args:
        file: the token file; None: the tokens of FRESHET_TOKENS, if it is set.
        rate_max: requests per second of one token; 0: no limit.
        clock: monotonic seconds.

    Raises:
        TokensError: the tokens cannot be read or are invalid.
    """

    def __init__(
        self,
        file: str | None = None,
        rate_max: float = 0.0,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = Path(file) if file else None
        self._rate_max = rate_max
        self._clock = clock
        self._looked = clock()
        self._stamp: tuple[int, int] | None = None
        self._callers: dict[bytes, Caller] = {}  # by the token's digest
        self._left: dict[str, tuple[float, float]] = {}  # name -> (requests left, time of that count)
        if self._file is not None:
            self._stamp = _stamp(self._file)
            self._callers = _by_digest(_read(self._file))
        elif environment.get(ENVIRONMENT):
            self._callers = _by_digest(parse_tokens(environment[ENVIRONMENT], ENVIRONMENT))

    @property
    def required(self) -> bool:
        """Whether a request needs a token."""
        return bool(self._callers)

    def admit(self, scope: Scope | None, headers: Mapping[bytes, bytes]) -> str:
        """Admit a request; returns the caller's name, "" if no token is needed.

        Args:
            scope: the scope that the request needs; None: any token.
            headers: by lower-case name.

        Raises:
            AccessError: the token is missing or unknown.
            ForbiddenError: the token lacks the scope.
            BusyTokenError: the token is over its request rate.
        """
        self._look()
        if not self._callers:
            return ""
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not token:
            raise AccessError("this needs a token: send the header `Authorization: Bearer TOKEN`")
        digest = _digest(token.strip())
        # the time of the lookup depends on the digest only, so it reveals nothing about the token
        found = self._callers.get(digest)
        if found is None:
            raise AccessError("the token is not known")
        if scope is not None and scope not in found.scopes:
            raise ForbiddenError(
                f"the token of {found.name} is for {', '.join(sorted(found.scopes))}; this needs {scope}"
            )
        self._pace(found.name)
        return found.name

    def _pace(self, name: str) -> None:
        """Rate limit: a token bucket that holds one second's requests."""
        if self._rate_max <= 0:
            return
        now = self._clock()
        full = max(self._rate_max, 1.0)
        left, at = self._left.get(name, (full, now))
        left = min(left + (now - at) * self._rate_max, full)
        if left < 1.0:
            self._left[name] = left, now
            raise BusyTokenError(
                f"the token of {name} may send {self._rate_max:g} requests a second (rate_max)",
                retry_after_s=math.ceil((1.0 - left) / self._rate_max),
            )
        self._left[name] = left - 1.0, now

    def _look(self) -> None:
        """Read the file again if it has changed."""
        now = self._clock()
        if self._file is None or now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._callers = _by_digest(_read(self._file))
        except TokensError as error:
            log.error("the tokens stay as they were: %s", error)
            return
        self._left = {
            caller.name: self._left[caller.name]
            for caller in self._callers.values()
            if caller.name in self._left
        }
        log.info("read %d tokens from %s", len(self._callers), self._file)


def _by_digest(callers: list[Caller]) -> dict[bytes, Caller]:
    return {caller.digest: caller for caller in callers}


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _read(file: Path) -> list[Caller]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise TokensError(f"{file}: the tokens cannot be read: {reason}") from None
    return parse_tokens(text, str(file))

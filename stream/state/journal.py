"""The journal: which stretches of which partitions each commit of a role took, in the order taken.

A rerun would not repeat that order, so it is stored. The journal keeps the last `journal_max` commits and
drops older ones; a journal without its beginning can no longer be followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from stream.errors import StateError
from stream.state.role_state import Commit, RoleState

_JOURNAL = b"journal/"  # + 8 bytes: the commit's number; a handler keeps off keys that begin so
NEXT_KEY = b"runner/journal_next"
DROP_MAX = 1_000  # entries that one commit drops, where the limit was lowered


class JournalStretch(msgspec.Struct, frozen=True, array_like=True):
    """One stretch of the journal: records [start, end) of a partition."""

    partition: int
    start: int
    end: int


class Journal:
    """Writes a role's journal."""

    def __init__(self, state: RoleState, commits_max: int) -> None:
        """Go on where the state's journal ends; keep the last `commits_max` commits of it."""
        following = state.get(NEXT_KEY)
        self._next = 0 if following is None else int.from_bytes(following, "big")
        self._first = _first(state, self._next)
        self._max = commits_max

    def note(self, taken: Sequence[JournalStretch], commit: Commit) -> None:
        """Put what a commit took into it."""
        commit.put(_key(self._next), msgspec.msgpack.encode(taken))
        self._next += 1
        commit.put(NEXT_KEY, self._next.to_bytes(8, "big"))
        for _ in range(DROP_MAX):
            if self._next - self._first <= self._max:
                break
            commit.delete(_key(self._first))
            self._first += 1


def read_journal(state: RoleState) -> Iterator[list[JournalStretch]]:
    """What each commit of a role took, in the order taken, from the first commit on.

    Raises:
        StateError: its beginning is gone.
    """
    first = _first(state, 0)
    if first:
        raise StateError(
            f"state {state.path}: its journal begins at commit {first:,}; those before were dropped "
            "(stream.runner.journal_max), so it cannot be followed from the start"
        )
    for _, value in state.scan(_JOURNAL):
        yield msgspec.msgpack.decode(value, type=list[JournalStretch])


def _first(state: RoleState, default: int) -> int:
    """The number of the oldest commit kept."""
    for key, _ in state.scan(_JOURNAL):
        return int.from_bytes(key[len(_JOURNAL) :], "big")
    return default


def _key(number: int) -> bytes:
    return _JOURNAL + number.to_bytes(8, "big")

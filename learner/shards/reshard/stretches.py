"""In how many shards a model was learned, from its first update on, and what each of them took.

A resharding begins new journals. What the old ones say is kept beside them, by shard 0, so whoever learns
the same again can follow: each stretch in its number of shards, and a resharding between two of them.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from learner.shards.live.kept import turns_of
from stream.errors import StateError
from stream.state.journal import JournalStretch, read_journal
from stream.state.role_state import RoleState

STRETCHES_KEPT = 16
"""Of earlier ones that can be followed."""

_KEY = b"shard/stretches"
_PAST = b"shard/past/"


class ShardStretch(msgspec.Struct, frozen=True, array_like=True):
    """Updates up to `seq` were learned in so many shards."""

    shards: int
    seq: int


class Took(msgspec.Struct, frozen=True, array_like=True):
    """What one shard took in a stretch: records in their order, and its requests of each turn."""

    journal: list[JournalStretch]
    turns: list[int]


class Followed(NamedTuple):
    """One stretch, as all shards took it, by rank."""

    took: list[Took]


def stretches_before(state: RoleState) -> list[ShardStretch]:
    """The stretches before the last resharding."""
    saved = state.get(_KEY)
    return [] if saved is None else msgspec.msgpack.decode(saved, type=list[ShardStretch])


def past_of(states: Sequence[RoleState], seq: int) -> dict[bytes, bytes]:
    """The entries that new states keep of the journals of old ones, which are at update `seq`."""
    before = stretches_before(states[0])
    number, shards = len(before), len(states)
    found = {_KEY: msgspec.msgpack.encode([*before, ShardStretch(shards, seq)])}
    found |= dict(states[0].scan(_PAST))
    for rank, state in enumerate(states) if shards > 1 else ():
        with suppress(StateError):  # its journal has lost its beginning: who wants to follow it is told
            found[_past_key(number, rank)] = msgspec.msgpack.encode(_took(state))
    oldest = _past_key(max(number + 1 - STRETCHES_KEPT, 0), 0)
    return {key: value for key, value in found.items() if key == _KEY or key >= oldest}


def followed(states: Sequence[RoleState]) -> list[Followed]:
    """All stretches of a model, from its first update on; the last is of these states.

    Args:
        states: of all shards, by rank.

    Raises:
        StateError: one cannot be followed.
    """
    found = []
    for number, stretch in enumerate(stretches_before(states[0])):
        where = f"state {states[0].path}: its updates up to {stretch.seq}, learned in "
        if stretch.shards == 1:
            raise StateError(f"{where}one process before a resharding, cannot be repeated along a journal")
        saved = [states[0].get(_past_key(number, rank)) for rank in range(stretch.shards)]
        if any(one is None for one in saved):
            raise StateError(
                f"{where}{stretch.shards} shards, cannot be repeated: their journals are not complete "
                f"(stream.runner.journal_max), or more than {STRETCHES_KEPT} reshardings came after them"
            )
        found.append(Followed([msgspec.msgpack.decode(one or b"", type=Took) for one in saved]))
    return [*found, Followed([_took(state) for state in states])]


def _took(state: RoleState) -> Took:
    return Took([one for commit in read_journal(state) for one in commit], turns_of(state))


def _past_key(number: int, rank: int) -> bytes:
    return _PAST + number.to_bytes(4, "big") + rank.to_bytes(4, "big")

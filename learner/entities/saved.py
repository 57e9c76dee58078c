"""Entities in a learner's state, one entry each, and in the updates that it publishes."""

from collections.abc import Iterator, Sequence

from learner.entities.store import Change, EntityStore
from stream.state.role_state import Commit, RoleState

PREFIX = b"learner/entity/"
KEY_BYTES = 8

Sent = tuple[str, bytes, bytes]
"""A change in an update: (feature, key, what is kept); nothing kept: the entity is gone."""

SENT_BYTES = 32  # of one in MessagePack beside its feature's name and what is kept, at most


def save(changes: Sequence[Change], commit: Commit) -> None:
    """Write changes into a commit."""
    for name, key, kept in changes:
        at = PREFIX + name.encode() + b"/" + key.to_bytes(KEY_BYTES, "big")
        if kept:
            commit.put(at, kept)
        else:
            commit.delete(at)


def load(store: EntityStore, state: RoleState) -> None:
    """Take what `save` has written into a state."""
    store.load(_entries(state))


def _entries(state: RoleState) -> Iterator[Change]:
    for at, kept in state.scan(PREFIX):
        name = at[len(PREFIX) : -KEY_BYTES - 1]
        yield name.decode(), int.from_bytes(at[-KEY_BYTES:], "big"), kept


def sent(changes: Sequence[Change]) -> list[Sent]:
    """Changes as an update has them."""
    return [(name, key.to_bytes(KEY_BYTES, "big"), kept) for name, key, kept in changes]


def take(store: EntityStore, changes: list[Sent]) -> None:
    """Take the changes of an update."""
    store.load((name, int.from_bytes(key, "big"), kept) for name, key, kept in changes)


def holds(store: EntityStore, changes: list[Sent]) -> bool:
    """Whether a store holds what the changes of an update say."""
    return all(store.kept(name, int.from_bytes(key, "big")) == kept for name, key, kept in changes)


def size_of(change: Sent) -> int:
    """The bytes of a change in an encoded update, at most."""
    name, _, kept = change
    return SENT_BYTES + len(name.encode()) + len(kept)

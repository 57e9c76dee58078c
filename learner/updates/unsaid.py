"""The keys whose rows a standby has freed and no update has named as deleted yet.

Learners agree on which rows exist, not on the moment at which a sweep frees one that has expired or was
evicted: a restart may put rows into other slots. Servers keep such a row until an update names it. So a
standby, which publishes nothing, notes each key that it frees before its leader does, one entry of its state
for each, until an update names it. When it leads, its first update names the rest.

What the leader frees first the standby frees at the same update. So a note means that servers still have the
row and this learner has not, and there are never more notes than rows that a sweep had still to reach.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from embeddings.save.delta import Changes, numbers
from embeddings.types import Keys
from learner.keepers import TableKeeper
from learner.updates.format import Update
from stream.state.role_state import Commit, RoleState

UNSAID = b"unsaid/"  # + table "/" key(8), in a learner's state
_NONE = np.zeros(0, dtype=np.uint64)


def unsaid_keys(state: RoleState, table: str) -> Keys:
    """The keys (n,) of a table that are noted in a state."""
    prefix = _prefix(table)
    return np.frombuffer(b"".join(key[len(prefix) :] for key, _ in state.scan(prefix)), dtype=np.uint64)


class Unsaid:
    """Keeps the notes of a learner.

    Args:
        state: in which they are; None: there are none, and there is nobody to follow.
        tables: names of the model's tables.
    """

    def __init__(self, state: RoleState | None, tables: Iterable[str]) -> None:
        self._state = state
        self._noted = {name for name in tables if state is not None and _any(state, name)}
        self._followed: Mapping[str, Keys] | None = None  # by table, what the update being learned frees
        self._named: Mapping[str, Keys] = {}  # and all that it names

    def follow(self, parts: Iterable[Update]) -> None:
        """The next flush ends an update of the leader, with these parts."""
        named: dict[str, list[Keys]] = {}
        rows: dict[str, list[Keys]] = {}
        for piece in (piece for part in parts for piece in part.tables):
            named.setdefault(piece.name, []).append(numbers(piece.deleted, np.uint64))
            rows.setdefault(piece.name, []).append(numbers(piece.keys, np.uint64))
        self._named = {name: np.concatenate(keys) for name, keys in named.items()}
        # a key that is named and has a row as well was made again
        self._followed = {
            name: np.setdiff1d(keys, np.concatenate(rows[name]))
            for name, keys in self._named.items()
            if len(keys)
        }

    def save(self, name: str, keeper: TableKeeper, commit: Commit, leads: bool) -> Changes:
        """Save a table; returns its changes, for a leader with the keys that were noted as deleted."""
        followed = None if self._followed is None else self._followed.get(name, _NONE)
        if followed is not None and len(followed):
            # none of these rows exists any more; a sweep that frees them leaves eviction's counts alone
            keeper.table.delete(followed, counted=False)
        changes = keeper.save(commit)
        if leads and name in self._noted:
            assert self._state is not None
            keys = unsaid_keys(self._state, name)
            _delete(name, keys, commit)
            self._noted.remove(name)
            return changes.with_deleted(keys)
        if followed is not None:
            if name in self._noted:
                _delete(name, self._named.get(name, _NONE), commit)
            if len(changes.deleted):
                self._note(name, np.setdiff1d(np.setdiff1d(changes.deleted, changes.keys), followed), commit)
        return changes

    def _note(self, name: str, keys: Keys, commit: Commit) -> None:
        for key in keys:
            commit.put(_prefix(name) + key.tobytes(), b"")
        if len(keys):
            self._noted.add(name)

    def flushed(self) -> None:
        """The update that was followed has ended."""
        self._followed, self._named = None, {}


def _delete(table: str, keys: Keys, commit: Commit) -> None:
    for key in keys:
        commit.delete(_prefix(table) + key.tobytes())


def _prefix(table: str) -> bytes:
    return UNSAID + table.encode() + b"/"


def _any(state: RoleState, table: str) -> bool:
    return next(state.scan(_prefix(table)), None) is not None

"""The refused ids in a learner's state: one entry per id, so that a commit writes changed ids only."""

from collections.abc import Iterator, Sequence

from stream.records.refusals import Refusals
from stream.state.role_state import Commit, RoleState

_WHOLE = b"learner/refusals"  # all of them in one entry, as older versions saved them
_ONE = b"learner/refused/"


class SavedRefusals:
    """A learner's refusals.

    Args:
        state: to resume from; None: no id is refused.
        clock: `Refusals.clock` as it was saved.
    """

    def __init__(self, state: RoleState | None = None, clock: float = 0.0) -> None:
        self.refusals = Refusals()
        whole = None if state is None else state.get(_WHOLE)
        self._is_whole = whole is not None
        if whole is not None:
            self.refusals.load_whole(whole)
        elif state is not None:
            entries = ((key[len(_ONE) :], value) for key, value in state.scan(_ONE))
            self.refusals.load(entries, clock)

    def save(self, commit: Commit) -> None:
        """Write the changes into a commit."""
        if self._is_whole:  # from now on in entries of their own
            commit.delete(_WHOLE)
            self._is_whole = False
        for key, value in self.refusals.changes():
            if value is None:
                commit.delete(_ONE + key)
            else:
                commit.put(_ONE + key, value)


def united(states: Sequence[RoleState]) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a state that refuses what any of some states does, each id for the longest time."""
    whole = next((value for state in states if (value := state.get(_WHOLE)) is not None), None)
    if whole is not None:
        yield _WHOLE, whole
    found: dict[bytes, bytes] = {}
    for state in states:
        for key, value in state.scan(_ONE):  # big-endian, above 0: their order is that of the times
            found[key] = max(found.get(key, value), value)
    yield from sorted(found.items())

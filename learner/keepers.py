"""Who keeps a table in a learner's state: a snapshot of the whole table, or one of rows that rest there."""

from collections.abc import Callable, Sequence

from embeddings import Table, TableError
from embeddings.rest.changing import hold_whole, let_rest
from embeddings.rest.snapshot import RestingSnapshot, put_copy
from embeddings.rest.table import RestingTable
from embeddings.save.delta import Changes
from embeddings.save.entries import Sink
from embeddings.save.snapshot import TableSnapshot
from stream.state.role_state import RoleState

_TABLE = b"table/"


class RestingCopy:
    """Writes a table whose rows rest elsewhere whole into another, empty state."""

    renewing = False

    def __init__(self, table: RestingTable, prefix: bytes) -> None:
        self.table = table
        self._prefix = prefix

    def save(self, sink: Sink) -> Changes:
        """Write everything; returns no changes, since nobody follows the copy."""
        put_copy(self.table, self._prefix, sink)
        return Changes.of(self.table)

    def rest(self, sink: Sink) -> None:
        """Nothing leaves memory."""

    def renew(self) -> None:
        """Nothing is kept from save to save."""


TableKeeper = TableSnapshot | RestingSnapshot | RestingCopy


def prefix_of(name: str) -> bytes:
    """The prefix of a table's keys in a state."""
    return _TABLE + name.encode() + b"/"


def keepers_of(names: Sequence[str], tables: Sequence[Table], state: RoleState | None) -> list[TableKeeper]:
    """A keeper of each table, which holds nothing yet.

    Args:
        state: in which the tables are kept; None: it is not known yet.

    Raises:
        TableError: rows of a table should rest in a state that is not known.
    """
    where = "" if state is None else f"state {state.path}"
    found: list[TableKeeper] = []
    for name, table in zip(names, tables, strict=True):
        if not isinstance(table, RestingTable):
            found.append(TableSnapshot(table, prefix_of(name), where))
        elif state is not None:
            found.append(RestingSnapshot(table, state, prefix_of(name), where))
        else:
            raise TableError(
                f"table {name!r} has memory_rows, but its rows have no state to rest in: give the learner one"
            )
    return found


def resting(names: Sequence[str], keepers: Sequence[TableKeeper]) -> dict[str, RestingSnapshot]:
    """The keepers of rows that rest, by table."""
    pairs = zip(names, keepers, strict=True)
    return {name: keeper for name, keeper in pairs if isinstance(keeper, RestingSnapshot)}


def restore(keeper: TableKeeper, name: str, state: RoleState) -> bool:
    """Restore a keeper's table from a state; False if the state has no such table.

    A table that was saved in the other form, because the config said otherwise then, is changed to this one.

    Raises:
        SnapshotError: the saved table is damaged, or does not fit.
        StateError: the state cannot be written.
    """

    def commit(fill: Callable[[Sink], None]) -> None:
        changes = state.begin()
        fill(changes)
        state.commit(changes)

    where = f"state {state.path}"
    if isinstance(keeper, RestingSnapshot):
        return keeper.restore() or let_rest(keeper, state, prefix_of(name), where, commit)
    assert isinstance(keeper, TableSnapshot)
    return keeper.restore(state) or hold_whole(keeper, state, prefix_of(name), where, commit)

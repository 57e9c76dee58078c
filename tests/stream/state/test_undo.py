"""A commit of a state on an `UndoableDisk` can be undone, whatever it changed, and only the last one."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.errors import StateLockedError
from stream.log.base import Outgoing
from stream.state.disk import ROCKS_DISK
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk
from stream.state.undo import UndoableDisk, undo_commit

KEYS = st.sampled_from([b"a", b"b", b"c", b"u", b""])
CHANGES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3)), max_size=6)


def commit(state: RoleState, number: int, changes: list[tuple[bytes, bytes | None]]) -> None:
    step = state.begin()
    for key, value in changes:
        if value is None:
            step.delete(key)
        else:
            step.put(key, value)
    step.set_offset("events", 0, number)
    step.emit("examples", Outgoing(b"k", str(number).encode()))
    state.commit(step)


def contents(folder: Path, disk: UndoableDisk) -> object:
    with RoleState(folder, "shard", {}, disk=disk) as state:
        sending = [(block.number, list(block.records)) for block in state.unsent()]
        return list(state.scan()), state.offset("events", 0), sending


@settings(max_examples=40, deadline=None)
@given(st.lists(CHANGES, min_size=1, max_size=4), st.booleans())
def test_undoing_the_last_commit_leaves_what_the_one_before_left(
    commits: list[list[tuple[bytes, bytes | None]]], reopened: bool
) -> None:
    below = MemoryDisk()
    disk, folder = UndoableDisk(below), Path("state")
    state, before = RoleState(folder, "shard", {}, disk=disk), contents(Path("empty"), disk)
    for number, changes in enumerate(commits):
        if reopened or number == len(commits) - 1:
            state.close()
            before = contents(folder, disk)
            state = RoleState(folder, "shard", {}, disk=disk)
        commit(state, number, changes)
    state.close()
    undo_commit(folder, below)
    assert contents(folder, disk) == before
    with RoleState(folder, "shard", {}, disk=disk) as state:  # and it goes on as if nothing had been
        commit(state, 99, commits[-1])
        assert state.offset("events", 0) == 99


def test_a_folder_in_use_is_not_undone() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            RoleState(folder, "shard", {}, disk=UndoableDisk(ROCKS_DISK)),
            pytest.raises(StateLockedError),
        ):
            undo_commit(folder, ROCKS_DISK)

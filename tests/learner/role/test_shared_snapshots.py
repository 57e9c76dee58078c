"""The folder that the learners of a group share: nothing stays of copies that did not become snapshots."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from learner.role.shared_snapshots import SharedSnapshots
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

FOLDER = "snapshots"


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


@pytest.fixture
def state(disk: MemoryDisk) -> Iterator[RoleState]:
    with RoleState("a", "learner", {}, disk=disk) as state:
        commit = state.begin()
        commit.put(b"name", b"somebody")
        state.commit(commit)
        yield state


def _folder(disk: MemoryDisk, member: str) -> SharedSnapshots:
    return SharedSnapshots(Path(FOLDER), member, disk)


def test_copy_of_a_snapshot_that_is_there_already_does_not_stay(disk: MemoryDisk, state: RoleState) -> None:
    """A leader without examples to learn copies the same update again."""
    mine = _folder(disk, "a")
    for _ in range(2):
        mine.make(state, 4, 1, alone=False)
        assert disk.names(Path(FOLDER)) == [mine.there()[0].name]


def test_copies_of_lives_that_were_cut_short_go_with_the_snapshots_of_before_a_purge(
    disk: MemoryDisk, state: RoleState
) -> None:
    for left in ("making-b", "making-b.tmp"):
        state.copy_to(Path(FOLDER) / left)
    _folder(disk, "a").make(state, 4, 1, alone=False)
    assert len(disk.names(Path(FOLDER))) == 3  # others may be at them
    _folder(disk, "a").make(state, 4, 2, alone=True)
    assert len(disk.names(Path(FOLDER))) == 1


def test_learner_that_begins_removes_what_it_had_begun_to_copy(disk: MemoryDisk, state: RoleState) -> None:
    whole = Path(FOLDER) / "making-a1"  # another learner's, which may be at it
    for left in (Path(FOLDER) / "making-a", Path(FOLDER) / "making-a.tmp", Path("a") / "db.making", whole):
        state.copy_to(left)
    _folder(disk, "a").begin(Path("a"))
    assert disk.names(Path(FOLDER)) == [whole.name] and disk.names(Path("a")) == ["db"]

"""What is promised of a disk holds on every kind: the machine's with RocksDB, and the one in memory."""

import time
from pathlib import Path

import pytest
from waiting import wait_until

from ground.clock import ManualClock
from stream.errors import StateDamagedError, StateFullError, StateLockedError
from stream.log.base import Outgoing
from stream.state.disk import Disk, RocksDisk
from stream.state.role_state import PURGE_AGAIN_S, RoleState
from stream.state.testing import MemoryDisk
from stream.state.undo import UndoableDisk


@pytest.fixture(params=["rocks", "memory", "undoable"])
def disk(request: pytest.FixtureRequest) -> Disk:
    kinds: dict[str, Disk] = {
        "rocks": RocksDisk(),
        "memory": MemoryDisk(),
        "undoable": UndoableDisk(RocksDisk()),
    }
    return kinds[request.param]


def fill(disk: Disk, folder: Path, **entries: bytes) -> None:
    with RoleState(folder, "joiner", {}, disk=disk) as state:
        commit = state.begin()
        for key, value in entries.items():
            commit.put(key.encode(), value)
        commit.set_offset("events", 0, len(entries))
        commit.emit("examples", Outgoing(b"k", b"v"))
        state.commit(commit)


def test_commit_is_read_back_in_key_order_after_reopening(disk: Disk, tmp_path: Path) -> None:
    fill(disk, tmp_path / "a", c=b"3", a=b"1", b=b"2")
    with RoleState(tmp_path / "a", "joiner", {}, disk=disk) as state:
        assert list(state.scan()) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
        assert list(state.scan(start=b"b")) == [(b"b", b"2"), (b"c", b"3")]
        assert state.get(b"d") is None and state.offset("events", 0) == 3
        assert [record for block in state.unsent() for record in block.records] == [Outgoing(b"k", b"v")]
        commit = state.begin()
        commit.delete(b"b")
        commit.delete(b"not there")
        commit.put(b"a", b"4")
        state.commit(commit)
        assert list(state.scan()) == [(b"a", b"4"), (b"c", b"3")]


def test_folder_is_held_by_one_and_free_after_close(disk: Disk, tmp_path: Path) -> None:
    with RoleState(tmp_path / "a", "joiner", {}, disk=disk):
        with pytest.raises(StateLockedError):
            RoleState(tmp_path / "a", "joiner", {}, disk=disk)
        with RoleState(tmp_path / "b", "joiner", {}, disk=disk):
            pass
    with RoleState(tmp_path / "a", "joiner", {}, disk=disk):
        pass


def test_copy_is_of_one_moment_and_folders_are_moved_and_removed(disk: Disk, tmp_path: Path) -> None:
    fill(disk, tmp_path / "a", a=b"1")
    assert disk.is_begun(tmp_path / "a" / "db") and disk.is_whole(tmp_path / "a" / "db")
    disk.make(tmp_path / "shared")
    with RoleState(tmp_path / "a", "joiner", {}, disk=disk) as state:
        state.copy_to(tmp_path / "shared" / "copy")
        commit = state.begin()
        commit.put(b"a", b"2")
        state.commit(commit)
    assert disk.names(tmp_path / "shared") == ["copy"]
    disk.make(tmp_path / "b")
    disk.copy(tmp_path / "shared" / "copy", tmp_path / "b" / "db.making")
    disk.move(tmp_path / "b" / "db.making", tmp_path / "b" / "db")
    with RoleState(tmp_path / "b", "joiner", {}, disk=disk) as state:
        assert state.get(b"a") == b"1"
    disk.remove(tmp_path / "b")
    disk.remove(tmp_path / "b")  # no harm
    assert not disk.is_begun(tmp_path / "b" / "db") and disk.names(tmp_path / "b") == []
    with pytest.raises(OSError):
        disk.copy(tmp_path / "nothing", tmp_path / "c")


def test_purge_leaves_nothing_of_what_was_deleted(disk: Disk, tmp_path: Path) -> None:
    with RoleState(tmp_path / "a", "joiner", {}, disk=disk) as state:
        for purge in (False, True):
            commit = state.begin()
            if purge:
                commit.delete(b"a")
                commit.purge = True
            else:
                commit.put(b"a", b"a secret")
            state.commit(commit)
        state.purge()
    if isinstance(disk, MemoryDisk):
        assert not disk.holds(tmp_path, b"a secret")
    else:
        files = [file for file in tmp_path.rglob("*") if file.is_file()]
        assert files and not any(b"a secret" in file.read_bytes() for file in files)


# What only the one in memory can be told to do.


def test_memory_disk_fails_as_it_is_told(tmp_path: Path) -> None:
    told: list[str] = []

    def trouble(what: str, folder: Path) -> None:
        told.append(what)
        if what == "write" and told.count("write") == 2:
            raise OSError(28, "No space left on device")

    state = RoleState(tmp_path, "joiner", {}, disk=MemoryDisk(trouble))
    with pytest.raises(StateFullError, match="free some disk space"):
        state.commit(state.begin())
    assert told[:3] == ["make", "open", "read"]


def test_memory_disk_loses_the_last_writes_and_goes_bad(tmp_path: Path) -> None:
    disk = MemoryDisk()
    fill(disk, tmp_path, a=b"1")
    assert disk.lose_writes(tmp_path, 1) == 1
    with RoleState(tmp_path, "joiner", {}, disk=disk) as state:
        assert state.get(b"a") is None and state.offset("events", 0) is None
    disk.damage(tmp_path)
    with pytest.raises(StateDamagedError):
        RoleState(tmp_path, "joiner", {}, disk=disk)


def test_memory_disk_has_the_last_write_and_not_the_one_before(tmp_path: Path) -> None:
    disk = MemoryDisk()
    with RoleState(tmp_path, "joiner", {}, disk=disk) as state:
        for i in range(3):
            commit = state.begin()
            commit.put(b"a", b"%d" % i)
            state.commit(commit)
    assert disk.reorder_writes(tmp_path, 1) == 1
    with pytest.raises(StateDamagedError, match="restore the folder from a copy, or move it away"):
        RoleState(tmp_path, "joiner", {}, disk=disk)
    with RoleState(tmp_path, "joiner", {}, sync=False, disk=disk) as state:
        assert state.get(b"a") is None, "a journal that is not synced is read up to its first hole"


def test_flipped_bit_is_met_by_who_reads_it_and_is_copied_with_the_rest(tmp_path: Path) -> None:
    disk = MemoryDisk()
    fill(disk, tmp_path / "a", a=b"1", b=b"2")
    assert disk.flip(tmp_path / "a", lambda keys: next(key for key in keys if key.endswith(b"b")))
    disk.copy(tmp_path / "a" / "db", tmp_path / "b" / "db")
    for folder in ("a", "b"):
        with RoleState(tmp_path / folder, "joiner", {}, disk=disk) as state:
            assert state.get(b"a") == b"1"
            with pytest.raises(StateDamagedError):
                state.get(b"b")
            with pytest.raises(StateDamagedError):
                list(state.scan())


def test_damage_in_any_entry_that_opening_reads_is_named_and_leaves_the_folder_free(tmp_path: Path) -> None:
    for at in range(4):
        disk, folder = MemoryDisk(), tmp_path / str(at)
        process = disk.connect()
        state = RoleState(folder, "joiner", {}, disk=process)
        commit = state.begin()
        commit.emit("examples", Outgoing(b"k", b"v"))
        commit.purge = True
        state.commit(commit)
        process.crash()  # before it has purged
        assert disk.flip(folder, lambda keys, at=at: keys[at % len(keys)])
        for _ in range(2):
            with pytest.raises(StateDamagedError):
                RoleState(folder, "joiner", {}, disk=disk)


def test_copy_that_is_cut_short_is_no_state(tmp_path: Path) -> None:
    def trouble(what: str, folder: Path) -> None:
        if what in ("copying", "removing"):
            raise KeyboardInterrupt

    disk = MemoryDisk()
    fill(disk, tmp_path / "a", a=b"1")
    with pytest.raises(KeyboardInterrupt):
        disk.connect(trouble).copy(tmp_path / "a", tmp_path / "b")
    assert disk.is_begun(tmp_path / "b" / "db") and not disk.is_whole(tmp_path / "b" / "db")
    with pytest.raises(KeyboardInterrupt):
        disk.connect(trouble).remove(tmp_path / "a")
    for folder in ("a", "b"):
        with pytest.raises(StateDamagedError):
            RoleState(tmp_path / folder, "joiner", {}, disk=disk)


def test_what_is_deleted_while_files_are_merged_stays_in_them(tmp_path: Path) -> None:
    def trouble(what: str, folder: Path) -> None:
        if what == "merging":
            database.delete(b"b")

    disk = MemoryDisk(trouble)
    database = disk.open(tmp_path / "db", sync=True)
    for key in (b"a", b"b"):
        batch = database.batch()
        batch.put(key, b"secret-" + key)
        database.write(batch)
    database.delete(b"a")
    database.merge()
    assert not disk.holds(tmp_path, b"secret-a") and disk.holds(tmp_path, b"secret-b")


def test_purge_that_fails_is_tried_again_after_a_while(tmp_path: Path) -> None:
    full = True

    def trouble(what: str, folder: Path) -> None:
        if what == "merging" and full:
            raise OSError(28, "No space left on device")

    disk, clock = MemoryDisk(trouble), ManualClock()
    with RoleState(tmp_path, "joiner", {}, clock=clock, disk=disk) as state:
        for change in ("put", "delete"):
            commit = state.begin()
            if change == "put":
                commit.put(b"a", b"secret")
            else:
                commit.delete(b"a")
                commit.purge = True
            state.commit(commit)
        state.purge()
        clock.advance(PURGE_AGAIN_S + 1.0)
        full = False

        def purged() -> bool:
            state.purge()
            clock.advance(1.0)
            return state.purges > 0

        wait_until(purged, every_s=0.01)
        assert state.purges == 1 and not disk.holds(tmp_path, b"secret")


def test_purge_of_a_database_with_a_bad_block_ends_the_role(tmp_path: Path) -> None:
    """It would fail each time it is tried, and what is to be forgotten would stay in the files for good."""
    disk = MemoryDisk()
    fill(disk, tmp_path, secret=b"ann", other=b"bob")
    assert disk.flip(tmp_path, lambda keys: next(key for key in keys if key.endswith(b"other")))
    state = RoleState(tmp_path, "joiner", {}, disk=disk)
    for block in state.unsent():
        state.mark_sent(block.number)
    commit = state.begin()
    commit.delete(b"secret")
    commit.purge = True
    state.commit(commit)
    with pytest.raises(StateDamagedError, match="restore the folder from a copy, or move it away"):
        for _ in range(24_000):
            state.purge()
            time.sleep(0.01)
    with pytest.raises(StateDamagedError):
        state.commit(state.begin())
    with pytest.raises(StateDamagedError):
        state.close()


def test_purge_that_fails_when_a_state_is_closed_is_left_to_the_next(tmp_path: Path) -> None:
    full = True

    def trouble(what: str, folder: Path) -> None:
        if what == "merging" and full:
            raise OSError(28, "No space left on device")

    disk = MemoryDisk(trouble)
    with RoleState(tmp_path, "joiner", {}, disk=disk) as state:
        commit = state.begin()
        commit.put(b"a", b"secret")
        state.commit(commit)
        commit = state.begin()
        commit.delete(b"a")
        commit.purge = True
        state.commit(commit)
    assert disk.holds(tmp_path, b"secret")
    full = False
    with RoleState(tmp_path, "joiner", {}, disk=disk):
        pass
    assert not disk.holds(tmp_path, b"secret")


def test_process_that_crashes_frees_what_it_held(tmp_path: Path) -> None:
    disk = MemoryDisk()
    mine, others = disk.connect(), disk.connect()
    RoleState(tmp_path / "a", "joiner", {}, disk=mine)
    with pytest.raises(StateLockedError):
        RoleState(tmp_path / "a", "joiner", {}, disk=others)
    mine.crash()
    with RoleState(tmp_path / "a", "joiner", {}, disk=others):
        pass


def test_writes_that_a_disk_has_lost_leave_nothing_behind(tmp_path: Path) -> None:
    disk = MemoryDisk()
    database = disk.open(tmp_path / "db", sync=False)
    for value in (b"first", b"second", None):
        batch = database.batch()
        if value is None:
            batch.delete(b"key")
        else:
            batch.put(b"key", value)
        database.write(batch)
    assert set(disk.pieces(tmp_path)) == {b"first", b"second"}
    assert disk.lose_writes(tmp_path, 2) == 2
    assert set(disk.pieces(tmp_path)) == {b"key", b"first"}
    assert disk.lose_writes(tmp_path, 1) == 1
    assert not disk.pieces(tmp_path)


def test_an_error_of_closing_does_not_hide_the_one_that_ended_the_role(tmp_path: Path) -> None:
    full = False

    def trouble(what: str, folder: Path) -> None:
        if full and what == "write":
            raise OSError(28, "No space left on device")

    for kind in (RuntimeError, StateFullError):
        full = False
        with pytest.raises(kind), RoleState(tmp_path, "joiner", {}, disk=MemoryDisk(trouble)) as state:
            commit = state.begin()
            commit.purge = True
            state.commit(commit)
            full = True
            if kind is RuntimeError:
                raise RuntimeError("what went wrong")

"""A role's state: real RocksDB folders, real crashes, a really full disk."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from rocksdict import Options, Rdict

from stream.errors import StateDamagedError, StateError, StateFullError, StateLockedError
from stream.log.base import Outgoing
from stream.state.disk import Database, RocksDisk
from stream.state.layout import DATA, META_KEY
from stream.state.outbox import BLOCK_BYTES_MAX, BLOCK_RECORDS_MAX
from stream.state.role_state import RoleState


def make(path: Path, role: str = "joiner", **fingerprint: str) -> RoleState:
    return RoleState(path, role, fingerprint)


def test_commit_is_read_back_after_reopening(tmp_path: Path) -> None:
    with make(tmp_path) as state:
        commit = state.begin()
        commit.put(b"a", b"1")
        commit.put(b"b", b"2")
        commit.put(b"c", b"3")
        commit.set_offset("events", 3, 12)
        assert state.get(b"a") is None, "reads see commits, not what is being gathered"
        state.commit(commit)
        commit = state.begin()
        commit.delete(b"c")
        state.commit(commit)
    with make(tmp_path) as state:
        assert [state.get(k) for k in (b"a", b"b", b"c")] == [b"1", b"2", None]
        assert (state.offset("events", 3), state.offset("events", 0), state.offset("x", 3)) == (
            12,
            None,
            None,
        )


def test_scan_gives_a_prefix_in_key_order(tmp_path: Path) -> None:
    with make(tmp_path) as state:
        commit = state.begin()
        for key in (b"t/2", b"t/1", b"s/9", b"u", b"t/\xff", b"m", b"o", b"x"):
            commit.put(key, key)
        commit.set_offset("t", 0, 1)
        commit.emit("t", Outgoing(b"", b""))
        state.commit(commit)
        assert [key for key, _ in state.scan(b"t/")] == [b"t/1", b"t/2", b"t/\xff"]
        assert [key for key, _ in state.scan(b"t/", b"t/2")] == [b"t/2", b"t/\xff"]
        assert len(list(state.scan())) == 8
        assert list(state.scan(b"none")) == []


def test_outbox_is_kept_in_order_until_a_later_commit_notes_it_sent(tmp_path: Path) -> None:
    records = [Outgoing(b"k", b"%d" % i, i, "p", i) for i in range(10_000)]

    def unsent(state: RoleState) -> list[tuple[str, Outgoing]]:
        return [(block.topic, record) for block in state.unsent() for record in block.records]

    with make(tmp_path) as state:
        commit = state.begin()
        for record in records:
            commit.emit("out", record)
        commit.emit("more", Outgoing(b"", b"y"))
        assert state.unsent() == []
        state.commit(commit)
        assert unsent(state) == [*(("out", r) for r in records), ("more", Outgoing(b"", b"y"))]
        assert [len(block.records) for block in state.unsent()] == [4000, 4000, 2000, 1], "in bounded pieces"
    with make(tmp_path) as state:
        first, second, *_ = state.unsent()
        state.mark_sent(first.number)
        assert unsent(state)[0][1] == records[4000]
        commit = state.begin()
        commit.emit("out", Outgoing(b"", b"z"))
        state.commit(commit)
        state.mark_sent(second.number)
    with make(tmp_path) as state:
        assert [r.value for _, r in unsent(state)] == [*(r.value for r in records[8000:]), b"y", b"z"]
        for block in state.unsent():
            state.mark_sent(block.number)
    with make(tmp_path) as state:
        assert state.unsent() == [], "a clean close sends nothing twice"


def test_changed_configuration_is_refused_with_both_values(tmp_path: Path) -> None:
    make(tmp_path, features='{"user": 16}', dim="4").close()
    with pytest.raises(StateError, match=r"features = {\"user\": 16}, but now features = {\"user\": 8}; put"):
        make(tmp_path, features='{"user": 8}', dim="4")
    with pytest.raises(StateError, match=r"dim = 4, but now dim = \(nothing\)"):
        make(tmp_path, features='{"user": 16}')
    with pytest.raises(StateError, match="belongs to a joiner, not to a learner"):
        make(tmp_path, "learner")
    make(tmp_path, features='{"user": 16}', dim="4").close()


def test_refusal_names_the_command_to_begin_anew_for_a_learner_only(tmp_path: Path) -> None:
    for role, ways in (("learner", True), ("joiner", False)):
        make(tmp_path / role, role, dim="4").close()
        with pytest.raises(StateError) as caught:
            make(tmp_path / role, role, dim="8")
        said = str(caught.value)
        assert "put dim back" in said
        assert ("`freshet learn --anew`" in said and "`freshet up --anew`" in said) == ways
        assert ("move its folder away" in said) != ways


def test_long_configuration_is_shown_where_it_differs(tmp_path: Path) -> None:
    make(tmp_path, features="x" * 5000 + "OLD" + "y" * 5000).close()
    with pytest.raises(StateError) as caught:
        make(tmp_path, features="x" * 5000 + "NEW" + "y" * 5000)
    assert "xOLDy" in str(caught.value) and "xNEWy" in str(caught.value) and len(str(caught.value)) < 700


HOLD = """
import sys, time
from stream.state.role_state import RoleState
state = RoleState(sys.argv[1], "joiner", {})
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.process
def test_second_process_is_refused_with_the_holders_pid(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        with pytest.raises(StateLockedError, match=f"in use by process {child.pid};"):
            make(tmp_path)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    make(tmp_path).close()


def test_second_opening_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with make(tmp_path), pytest.raises(StateLockedError, match=f"process {os.getpid()};"):
        make(tmp_path)


@pytest.mark.parametrize("pattern", ["*.sst", "MANIFEST-*", "CURRENT"])
@pytest.mark.parametrize("size", [0, 10])
def test_truncated_database_is_named(tmp_path: Path, pattern: str, size: int) -> None:
    with make(tmp_path) as state:
        commit = state.begin()
        for i in range(1000):
            commit.put(b"%d" % i, os.urandom(50))
        state.commit(commit)
    (file,) = (tmp_path / "db").glob(pattern)
    with file.open("r+b") as opened:
        opened.truncate(size)
    with pytest.raises(StateError, match=f"the database in {tmp_path / 'db'} cannot be read"):
        make(tmp_path)


@pytest.mark.parametrize("pattern", ["*.sst", "CURRENT"])
def test_missing_database_file_is_an_error_and_no_new_beginning(tmp_path: Path, pattern: str) -> None:
    with make(tmp_path) as state:
        commit = state.begin()
        commit.put(b"a", b"1")
        state.commit(commit)
    (file,) = (tmp_path / "db").glob(pattern)
    file.unlink()
    with pytest.raises(StateError, match="cannot be read"):
        make(tmp_path)


FILL = """
import os, resource, sys
from stream.errors import StateFullError
from stream.state.role_state import RoleState
state = RoleState(sys.argv[1], "joiner", {})
# no file may grow beyond this: for the writer, just like a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    for i in range(1000):
        commit = state.begin()
        commit.put(b"value", os.urandom(50_000))
        commit.put(b"number", b"%d" % i)
        commit.set_offset("events", 0, i)
        state.commit(commit)
        print(i, flush=True)
except StateFullError as error:
    print(error, flush=True)
try:
    state.commit(state.begin())
except StateFullError as error:
    print("refused", flush=True)
state.close()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 1 << 20))
try:
    RoleState(sys.argv[1], "joiner", {})
except StateFullError as error:
    print(error)
"""


@pytest.mark.process
def test_full_disk_while_committing_leaves_the_commit_before_loadable(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILL, tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    *numbers, message, refused, again = done.stdout.splitlines()
    assert "could not be written" in message and "free some disk space" in message and refused == "refused"
    assert "what it holds is intact" in again and "remove" not in again
    assert done.returncode == 0, done.stderr
    last = int(numbers[-1])
    assert last > 5
    with make(tmp_path) as state:
        assert state.offset("events", 0) == last and state.get(b"number") == b"%d" % last
        commit = state.begin()
        commit.put(b"number", b"on")
        state.commit(commit)
        assert state.get(b"number") == b"on"


COUNT = """
import sys
import time
from stream.log.base import Outgoing
from stream.state.role_state import RoleState
state = RoleState(sys.argv[1], "joiner", {})
for i in range(state.offset("t", 0) or 0, 10**9):
    commit = state.begin()
    for j in range(50):
        commit.put(b"%d" % j, b"%d" % (i + 1))
    commit.set_offset("t", 0, i + 1)
    commit.emit("out", Outgoing(b"", b"%d" % (i + 1)))
    for block in state.unsent():
        state.mark_sent(block.number)
    state.commit(commit)
    print(i + 1, flush=True)
"""


@pytest.mark.process
def test_kill_leaves_state_offset_and_outbox_of_one_moment(tmp_path: Path) -> None:
    for reads in (3, 57, 111):
        with subprocess.Popen(
            [sys.executable, "-c", COUNT, tmp_path], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for _ in range(reads):
                acknowledged = int(child.stdout.readline())
            os.kill(child.pid, signal.SIGKILL)
        with make(tmp_path) as state:
            offset = state.offset("t", 0)
            assert offset is not None and offset >= acknowledged
            assert {state.get(b"%d" % j) for j in range(50)} == {b"%d" % offset}
            assert [record.value for block in state.unsent() for record in block.records] == [b"%d" % offset]


def test_closed_state_says_so(tmp_path: Path) -> None:
    state = make(tmp_path)
    state.close()
    state.close()
    with pytest.raises(StateError, match="is closed"):
        state.get(b"a")


def test_scan_over_a_damaged_block_raises_and_does_not_end_early(tmp_path: Path) -> None:
    with RoleState(tmp_path, "r", {}) as state:
        commit = state.begin()
        for i in range(2000):
            commit.put(i.to_bytes(4, "big"), os.urandom(1000))
        state.commit(commit)
    with RoleState(tmp_path, "r", {}) as state:  # what was in the journal is now in a file
        assert sum(1 for _ in state.scan()) == 2000
    file = max((tmp_path / "db").glob("*.sst"), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with RoleState(tmp_path, "r", {}) as state, pytest.raises(StateError, match=file.name):
        sum(1 for _ in state.scan())


def test_purge_over_a_damaged_block_ends_the_role_with_what_helps(tmp_path: Path) -> None:
    """It would fail each time it is tried, and what is to be forgotten would stay in the files for good."""
    with RoleState(tmp_path, "r", {}) as state:
        commit = state.begin()
        for i in range(2000):
            commit.put(i.to_bytes(4, "big"), os.urandom(1000))
        state.commit(commit)
    file = max((tmp_path / "db").glob("*.sst"), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with (
        pytest.raises(StateDamagedError, match="restore the folder from a copy, or move it away"),
        RoleState(tmp_path, "r", {}) as state,
    ):
        commit = state.begin()
        commit.delete((1).to_bytes(4, "big"))
        commit.purge = True
        state.commit(commit)
        for _ in range(24_000):
            state.purge()
            time.sleep(0.01)


@pytest.mark.parametrize("sync", [True, False])
def test_journal_torn_anywhere_gives_whole_commits_up_to_there(tmp_path: Path, sync: bool) -> None:
    source = tmp_path / "source"
    state = RoleState(source, "r", {}, sync=sync)
    for i in range(10):
        commit = state.begin()
        commit.put(b"%d" % i, bytes([i]) * 500)
        commit.set_offset("events", 0, i + 1)
        state.commit(commit)
    found = []
    for cut in range(0, 6_000, 487):
        copy = tmp_path / f"torn-{cut}"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("LOCK", "lock"))
        (journal,) = (copy / "db").glob("*.log")
        data = journal.read_bytes()
        journal.write_bytes(data[: max(len(data) - cut, 150)])
        with RoleState(copy, "r", {}, sync=sync) as torn:
            offset = torn.offset("events", 0) or 0
            assert [torn.get(b"%d" % i) is not None for i in range(10)] == [i < offset for i in range(10)]
            found.append(offset)
    state.close()
    assert found[0] == 10 and found[-1] == 0 and found == sorted(found, reverse=True)


@pytest.mark.parametrize("how", ["hole", "flip", "misdirected"])
def test_journal_with_a_bad_part_before_good_ones_is_refused_and_never_half_read(
    tmp_path: Path, how: str
) -> None:
    """Writes that the disk reordered, a bit that flipped, a block of another file in this one's place."""
    source = tmp_path / "source"
    state = RoleState(source, "r", {})
    for i in range(10):
        commit = state.begin()
        commit.put(b"%d" % i, bytes([i]) * 500)
        commit.set_offset("events", 0, i + 1)
        state.commit(commit)
    copy = tmp_path / "copy"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("LOCK", "lock"))
    state.close()
    (journal,) = (copy / "db").glob("*.log")
    data = bytearray(journal.read_bytes())
    if how == "hole":
        data[2_000:3_000] = bytes(1_000)
    elif how == "flip":
        data[2_500] ^= 1
    else:
        data[2_000:3_000] = os.urandom(1_000)
    journal.write_bytes(data)
    with pytest.raises(StateDamagedError, match="restore the folder from a copy, or move it away"):
        RoleState(copy, "r", {})


def _half_made(folder: Path, left: dict[str, bytes]) -> Path:
    (folder / "db").mkdir()
    for name, content in left.items():
        (folder / "db" / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "left",
    [
        {},
        {"LOCK": b"", "LOG": b"", "IDENTITY": b"x"},
        {"rocksdict-config.json": b'{"raw'},
        {"LOCK": b"", "MANIFEST-000001": b""},
        {"LOCK": b"", "MANIFEST-000001": b"torn", "000001.dbtmp": b"MANIFEST-000001\n"},
    ],
)
def test_folder_that_a_crash_left_half_made_is_begun_anew(tmp_path: Path, left: dict[str, bytes]) -> None:
    with make(_half_made(tmp_path, left)) as state:
        commit = state.begin()
        commit.put(b"a", b"1")
        state.commit(commit)
    with make(tmp_path) as state:
        assert state.get(b"a") == b"1"


@pytest.mark.parametrize("left", [{"MANIFEST-000005": b""}, {"000004.log": b""}, {"000009.sst": b""}])
def test_folder_that_has_lost_its_current_file_is_never_begun_anew(
    tmp_path: Path, left: dict[str, bytes]
) -> None:
    with pytest.raises(StateDamagedError, match="cannot be read"):
        make(_half_made(tmp_path, left))


def test_state_without_its_mark_holds_entries_of_nobody(tmp_path: Path) -> None:
    with make(tmp_path):
        pass
    database = Rdict(str(tmp_path / "db"), Options(raw_mode=True))
    database.delete(META_KEY)
    database.close()
    with make(tmp_path):
        pass  # killed between the database and its mark: nothing is in it
    database = Rdict(str(tmp_path / "db"), Options(raw_mode=True))
    database.delete(META_KEY)
    database.put(DATA + b"a", b"1")
    database.close()
    with pytest.raises(StateDamagedError, match="not what role they belong to"):
        make(tmp_path)


class _FailingDisk(RocksDisk):
    """A disk that fails once it is told how."""

    error: Exception | None = None

    def open(self, folder: Path, sync: bool, rows: bool = False) -> Database:
        disk, database = self, super().open(folder, sync)

        class Failing:
            def __getattr__(self, name: str) -> object:
                if disk.error is not None and name not in ("batch", "close"):
                    raise disk.error
                return getattr(database, name)

        return cast(Database, Failing())


@pytest.mark.parametrize(
    ("error", "expected", "says"),
    [
        (Exception("Corruption: block checksum mismatch"), StateDamagedError, "restore the folder"),
        (Exception("IO error: x: No space left on device"), StateFullError, "free some disk space"),
        (Exception("IO error: x: Permission denied"), StateError, "is intact"),
        (Exception("IO error: x: Input/output error"), StateError, "the disk fails"),
        (Exception("Busy: too much to do"), StateError, "is intact"),
        (KeyError("a defect"), KeyError, "a defect"),
        (MemoryError("no memory"), MemoryError, "no memory"),
        (AttributeError("a defect"), AttributeError, "a defect"),
        (RuntimeError("Corruption: of another's"), RuntimeError, "of another's"),
    ],
)
@pytest.mark.parametrize("does", ["get", "offset", "scan", "commit"])
def test_error_is_told_by_what_it_is_and_what_is_unknown_passes(
    tmp_path: Path, error: Exception, expected: type[Exception], says: str, does: str
) -> None:
    disk = _FailingDisk()
    state = RoleState(tmp_path, "joiner", {}, disk=disk)
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: state.get(b"a"),
        "offset": lambda: state.offset("events", 0),
        "scan": lambda: list(state.scan()),
        "commit": lambda: state.commit(state.begin()),
    }
    disk.error = error
    with pytest.raises(Exception, match=None if does == "commit" else says) as caught:
        calls[does]()
    if does == "commit" and expected is StateDamagedError:
        expected = StateError  # a write that fails damages nothing
    assert type(caught.value) is expected
    disk.error = None
    state.close()


def test_block_of_the_outbox_is_bounded_in_bytes_and_in_records(tmp_path: Path) -> None:
    sent = [Outgoing(b"k" * 1000, bytes(BLOCK_BYTES_MAX // 3), 0, "p", i) for i in range(8)]
    sent += [Outgoing(b"k", b"", 0, "p", 8 + i) for i in range(2 * BLOCK_RECORDS_MAX)]
    sent += [Outgoing(b"k", bytes(BLOCK_BYTES_MAX + 1), 0, "p", 10**6)]
    with make(tmp_path) as state:
        commit = state.begin()
        for record in sent:
            commit.emit("t", record)
        state.commit(commit)
    with make(tmp_path) as state:
        blocks = state.unsent()
        assert [record for block in blocks for record in block.records] == sent
        for block in blocks:
            size = sum(len(record.key) + len(record.value) for record in block.records)
            assert size <= BLOCK_BYTES_MAX or len(block.records) == 1
            assert len(block.records) <= BLOCK_RECORDS_MAX

"""`freshet learn` in shards, as processes: one is killed, and what they learn is whole."""

import contextlib
import os
import random
import re
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import starting

from freshet.config import Config, each_model, load_config
from freshet.errors import ConfigError
from freshet.roles.opening import begin_anew, open_topics, shards_folder
from freshet.roles.shards.process import place_of
from freshet.roles.shards.starter import check_one_kind, hold_places, in_shards, torchrun_place
from freshet.roles.voice import Voice
from ground.clock import SYSTEM_CLOCK
from learner.model.model import Model
from learner.shards.live.kept import read_meta
from learner.shards.live.meeting import ROLE
from learner.shards.owners import Owners
from learner.updates.follower import Follower
from stream.errors import StateLockedError
from stream.log.base import EXAMPLES, Log, Outgoing
from stream.orders.view import log_of
from stream.records.types import Example, encode
from stream.state.disk import ROCKS_DISK
from stream.state.folder_lock import FolderLock
from stream.state.role_state import RoleState
from stream.state.undo import UndoableDisk

REQUESTS = 2000
CONFIG = """
log = "sqlite:run/log.db"
state = "run"
[stream]
partitions = 2
[features.user]
dim = 4
[features.item]
dim = 4
[learner]
deep = "none"
publish_every_s = 0.02
[learner.shards]
count = 2
turn = 64
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "freshet.toml").write_text(CONFIG)
    return load_config(tmp_path / "freshet.toml")


def _fill(log: Log, first: int, last: int) -> None:
    rng = random.Random(first)
    for i in range(first, last):
        user = rng.randrange(50)
        at = 1_700_000_000.0 + i
        items, labels = [{"item": rng.randrange(90)}], [float(rng.random() < 0.5)]
        example = Example(f"r{i}", at, at, items, labels, {"user": user})
        log.append(EXAMPLES, [Outgoing(b"k", encode(example), user % log.partitions(EXAMPLES), "joiner", i)])


def _start(folder: Path, command: str = "learn") -> subprocess.Popen[bytes]:
    with (folder / "learn.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "freshet", command, "--config", "freshet.toml"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=log,
            env=starting.environment(),
        )


def _shard_pids(parent: int) -> list[int]:
    """The processes of the shards, by rank: copies of a child of the one that starts them, with keepers."""
    found = {}
    for keeper in [keeper for template in _children(parent) for keeper in _children(template)]:
        found |= {Path(f"/proc/{pid}/comm").read_text(): pid for pid in _children(keeper)}
    return [found[name] for name in sorted(found) if name.startswith("shard-")]


def _children(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


@pytest.mark.long
@pytest.mark.process
def test_shards_of_which_one_is_killed_learn_each_example_once(tmp_path: Path, config: Config) -> None:
    pytest.importorskip("torch")
    log = open_topics(config)
    _fill(log, 0, REQUESTS // 2)
    process = _start(tmp_path)
    assert process.stdout is not None
    follower = Follower(Model(config.features, config.learner))
    follower.start(log)
    with process.stdout:
        try:
            assert [process.stdout.readline() for _ in range(2)] == [b"learn: ready\n"] * 2
            while follower.examples < 100:  # amid the work
                assert process.poll() is None, (tmp_path / "learn.log").read_text()
                follower.poll(log, 0.05)
            os.kill(_shard_pids(process.pid)[1], signal.SIGKILL)
            _fill(log, REQUESTS // 2, REQUESTS)
            assert [process.stdout.readline() for _ in range(2)] == [b"learn: ready\n"] * 2
            while follower.examples < REQUESTS:
                assert process.poll() is None, (tmp_path / "learn.log").read_text()
                follower.poll(log, 0.05)
            process.terminate()
            assert process.wait(60.0) == 0
        finally:
            process.kill()
            process.wait()
    while follower.poll(log):
        pass
    metas, ends = [], [end for _, end in log.ends(EXAMPLES)]
    for rank in range(2):
        folder = shards_folder(config, 2) / str(rank)
        with RoleState(folder, ROLE, None, disk=UndoableDisk(ROCKS_DISK)) as state:
            metas.append(read_meta(state, SYSTEM_CLOCK))
            assert not state.unsent() and state.offset(EXAMPLES, rank) == ends[rank]
    log.close()
    assert sum(meta.requests for meta in metas) == follower.examples == REQUESTS
    assert metas[0].seq == metas[1].seq == follower.seq and follower.gaps == 0
    assert "killed by signal 9" in (tmp_path / "learn.log").read_text()


@pytest.mark.long
@pytest.mark.process
def test_shards_end_with_a_starter_that_is_killed_and_the_same_command_goes_on_without_loading(
    tmp_path: Path, config: Config
) -> None:
    pytest.importorskip("torch")
    log = open_topics(config)
    _fill(log, 0, REQUESTS // 2)
    follower = Follower(Model(config.features, config.learner))
    follower.start(log)
    templates, shards = [], []
    for turn in (1, 2):
        process = _start(tmp_path)
        assert process.stdout is not None
        with process.stdout:
            try:
                assert [process.stdout.readline() for _ in range(2)] == [b"learn: ready\n"] * 2
                while follower.examples < REQUESTS // 2 * turn:
                    assert process.poll() is None, (tmp_path / "learn.log").read_text()
                    follower.poll(log, 0.05)
                shards = [os.pidfd_open(pid) for pid in _shards_in(tmp_path)]
                assert len(shards) == 2
                templates.append({_parent(_parent(pid)) for pid in _shards_in(tmp_path)})
                if turn == 2:
                    process.terminate()
                    assert process.wait(60.0) == 0
            finally:
                process.kill()
                process.wait()
        for shard in shards:
            assert select.select([shard], [], [], 60.0)[0], "it is to end"
            os.close(shard)
        _fill(log, REQUESTS // 2, REQUESTS)
    while follower.poll(log):
        pass
    assert (follower.examples, follower.gaps) == (REQUESTS, 0)
    log.close()
    assert len(templates[0]) == 1 and templates[0] == templates[1]


def _shards_in(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if (process / "comm").read_text().startswith("shard-") and (process / "cwd").readlink() == folder:
                found.append(int(process.name))
    return found


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


MODELS = """
[server]
port = 0
[models.wide]
share = 0.5
set = ["features.user.dim=8", "learner.shards.turn=32"]
[models.alone]
set = ["features.user.dim=2", "learner.shards.count=1"]
"""


def _processes(parent: int) -> dict[str, int]:
    """The learners that `freshet up` has started, by their model."""
    found = {}
    for pid in _children(parent):
        said = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if "learn" in said:
            found[said[said.index("--model") + 1] if "--model" in said else "main"] = pid
    return found


@pytest.mark.long
@pytest.mark.process
def test_each_of_several_models_is_learned_in_its_own_number_of_shards(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "freshet.toml").write_text(CONFIG + MODELS)
    config = load_config(tmp_path / "freshet.toml")
    models = each_model(config)
    log = open_topics(config)
    _fill(log, 0, REQUESTS // 2)
    followers = {name: Follower(Model(one.features, one.learner)) for name, one in models.items()}
    logs = {name: log_of(log, name) for name in models}
    for name, follower in followers.items():
        follower.start(logs[name])

    def follow(requests: int) -> None:
        while min(follower.examples for follower in followers.values()) < requests:
            assert process.poll() is None, (tmp_path / "learn.log").read_text()
            for name, follower in followers.items():
                follower.poll(logs[name], 0.02)

    process = _start(tmp_path, "up")
    try:
        follow(100)
        os.kill(_shard_pids(_processes(process.pid)["wide"])[1], signal.SIGKILL)
        _fill(log, REQUESTS // 2, REQUESTS)
        follow(REQUESTS)
        process.terminate()
        assert process.wait(60.0) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    for name, one in models.items():
        while followers[name].poll(logs[name]):
            pass
        assert (followers[name].examples, followers[name].gaps) == (REQUESTS, 0)
        shards = one.learner.shards.count
        metas = []
        for rank in range(shards) if shards > 1 else ():
            folder = shards_folder(one, shards) / str(rank)
            with RoleState(folder, ROLE, None, disk=UndoableDisk(ROCKS_DISK)) as state:
                metas.append(read_meta(state, SYSTEM_CLOCK))
        assert shards == 1 or sum(meta.requests for meta in metas) == REQUESTS
        assert {meta.seq for meta in metas} <= {followers[name].seq}
    log.close()
    said = [line for line in (tmp_path / "learn.log").read_text().splitlines() if "begin again" in line]
    assert len(said) == 1 and "learn.wide" in said[0] and "killed by signal 9" in said[0]


@pytest.mark.long
@pytest.mark.process
def test_shards_that_are_stopped_go_on_in_another_number_by_the_command(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "freshet.toml").write_text(CONFIG.replace("partitions = 2", "partitions = 3"))
    config = load_config(tmp_path / "freshet.toml")
    log = open_topics(config)
    follower = Follower(Model(config.features, config.learner))
    follower.start(log)
    _fill(log, 0, 300)
    _learn_until(tmp_path, log, follower, 300)

    refused = starting.run("reshard", "--to", "4", "--config", "freshet.toml", cwd=tmp_path)
    assert refused.returncode == 2 and "topic examples has 3 partitions" in refused.stderr
    done = starting.run("reshard", "--to", "3", "--config", "freshet.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = re.search(r"2 shards became 3 shards after update (\d+), with (.*) rows; now set", done.stdout)
    assert said is not None and int(said[1]) == follower.seq
    assert [int(rows) for rows in said[2].split(", ")] == _rows_by_owner(follower.model, 3)
    again = starting.run("reshard", "--to", "3", "--config", "freshet.toml", cwd=tmp_path)
    assert again.returncode == 0 and "holds the state of 3 shards already" in again.stdout
    unset = starting.run("learn", "--config", "freshet.toml", cwd=tmp_path)
    assert unset.returncode == 2 and "freshet reshard --to 2" in unset.stderr

    _fill(log, 300, 600)
    _learn_until(tmp_path, log, follower, 600, "--shards", "3")
    metas = []
    for rank in range(3):
        folder = shards_folder(config, 3) / str(rank)
        with RoleState(folder, ROLE, None, disk=UndoableDisk(ROCKS_DISK)) as state:
            metas.append(read_meta(state, SYSTEM_CLOCK))
            assert not state.unsent() and state.offset(EXAMPLES, rank) == log.ends(EXAMPLES)[rank][1]
    log.close()
    assert sum(meta.requests for meta in metas) == sum(meta.examples for meta in metas) == 600
    assert {meta.seq for meta in metas} == {follower.seq} and follower.gaps == 0


def _learn_until(folder: Path, log: Log, follower: Follower, examples: int, *more: str) -> None:
    """Let shards learn until the follower has so many examples, and stop them."""
    with (folder / "learn.log").open("ab") as told:
        process = starting.start("learn", "--config", "freshet.toml", *more, cwd=folder, stderr=told)
    try:
        while follower.examples < examples:
            assert process.poll() is None, (folder / "learn.log").read_text()
            follower.poll(log, 0.05)
        process.terminate()
        assert process.wait(60.0) == 0
    finally:
        process.kill()
        process.wait()
    while follower.poll(log):
        pass


def _rows_by_owner(model: Model, shards: int) -> list[int]:
    owners, rows = Owners(shards), np.zeros(shards, np.int64)
    for table in model.tables:
        rows += np.bincount(owners.of(table.items()[0]), minlength=shards)
    return rows.tolist()


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.5", "MASTER_PORT": "29500"}


def test_torchruns_variables_are_honoured_and_checked(config: Config) -> None:
    assert torchrun_place({"RANK": "1"}) is None, "all of them, or none"
    assert torchrun_place(TORCHRUN) == place_of("1/2@10.0.0.5:29500")
    assert torchrun_place({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True"}) == place_of(
        "1/2@10.0.0.5:29501"
    )
    assert in_shards(config, TORCHRUN) == config == in_shards(config, {})
    with pytest.raises(ConfigError, match=r"learner.shards.count is 2, and torchrun's WORLD_SIZE is 3"):
        in_shards(config, {**TORCHRUN, "WORLD_SIZE": "3"})
    wrong = {"RANK": "2", "WORLD_SIZE": "two", "MASTER_PORT": "0", "LOCAL_RANK": "-1"}
    for name, value in wrong.items():
        with pytest.raises(ConfigError, match=value):
            torchrun_place({**TORCHRUN, name: value})


def test_a_state_of_another_number_of_processes_is_refused_until_one_begins_anew(
    config: Config, tmp_path: Path
) -> None:
    one = load_config(tmp_path / "freshet.toml", ["learner.shards.count=1"])
    check_one_kind(config)
    (shards_folder(config, 2) / "0" / "db").mkdir(parents=True)
    check_one_kind(config)
    with pytest.raises(ConfigError, match="a learner in 2 shards, and the config says one process"):
        check_one_kind(one)
    (config.state_of("learn") / "db").mkdir()
    four = load_config(tmp_path / "freshet.toml", ["learner.shards.count=4", "stream.partitions=4"])
    with pytest.raises(ConfigError, match=r"one process and of one in 2 shards, .* says 4"):
        check_one_kind(four)
    begin_anew(four)
    check_one_kind(four)


def test_shards_whose_starter_was_killed_are_waited_for(tmp_path: Path) -> None:
    lock, stop = FolderLock(tmp_path), threading.Event()
    stop.set()
    with pytest.raises(StateLockedError):
        hold_places([tmp_path], stop, Voice("learn"))
    stop.clear()
    threading.Timer(0.05, lock.release).start()
    (place,) = hold_places([tmp_path], stop, Voice("learn"))  # it returns once the lock is released
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[place.descriptor]) as shard:
        place.release()
        stop.set()
        with pytest.raises(StateLockedError):  # by a shard that has not come to open its state
            hold_places([tmp_path], stop, Voice("learn"))
        assert shard.stdin is not None
        shard.stdin.close()
    hold_places([tmp_path], stop, Voice("learn"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("count=0", "count must be 1 to 256"),
        ("count=257", "count must be 1 to 256"),
        ("turn=1", "turn must be from count, 2, to"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, config: Config, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "freshet.toml", [f"learner.shards.{setting}"])

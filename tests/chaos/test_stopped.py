"""A shard is stopped (SIGSTOP) for a minute amid an exchange: nothing is lost or repeated."""

import os
import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import starting
from copies import Copy
from paths import ROOT

from freshet.config import Config, load_config
from freshet.roles.opening import open_topics, shards_folder
from ground.clock import SYSTEM_CLOCK
from learner.model.model import Model
from learner.shards.live.kept import read_meta
from learner.shards.live.meeting import ROLE
from learner.updates.follower import Follower
from stream.log.base import EXAMPLES, Log, Outgoing
from stream.records.types import Example, encode
from stream.state.disk import ROCKS_DISK
from stream.state.role_state import RoleState
from stream.state.undo import UndoableDisk

REQUESTS = 4000
MINUTE_S = 60.0
AT = 120  # calls: an even one sends messages whose lengths all know
CONFIG = """
log = "LOG"
state = "run"
[stream]
partitions = 2
[stream.log]
sync = false
[group]
beat_s = 0.5
timeout_s = TIMEOUT
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

pytestmark = [pytest.mark.long, pytest.mark.process, pytest.mark.timeout(600)]


@pytest.fixture(params=["sqlite", "kafka"])
def log_url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return "sqlite:run/log.db"
    address, prefix = (request.getfixturevalue(name) for name in ("kafka_broker", "kafka_prefix"))
    return f"kafka://{address}/{prefix}"


class Learning:
    """A learner in two shards as processes, of which shard 1 stops amid an exchange."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder, self.config = folder, config
        self.log: Log = open_topics(config)
        self.follower = Follower(Model(config.features, config.learner))
        self.follower.start(self.log)
        self.started: list[Copy] = []
        (folder / "shard-death").write_text(f"1 stops-amid-an-exchange {AT}")

    def start(self, **variables: str) -> None:
        with (self.folder / "learn.log").open("ab") as told:
            self.started.append(
                starting.start(
                    "shards", "0", "learn", "--config", "freshet.toml",
                    program=str(ROOT / "tests" / "chaos" / "chaos_role.py"),
                    cwd=self.folder, stderr=told, env=starting.environment(**variables),
                )
            )  # fmt: skip

    def fill(self) -> None:
        rng = random.Random(3)
        for i in range(REQUESTS):
            user, at = rng.randrange(50), 1_700_000_000.0 + i
            items, labels = [{"item": rng.randrange(90)}], [float(rng.random() < 0.5)]
            example = Example(f"r{i}", at, at, items, labels, {"user": user})
            self.log.append(EXAMPLES, [Outgoing(b"k", encode(example), user % 2, "joiner", i)])

    def stopped(self) -> int:
        """Wait until shard 1 has stopped itself; returns its process."""
        while True:
            self.follow()
            pid = self.shards().get(1)
            if pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T":
                (self.folder / "shard-death").write_text("")
                return pid

    def shards(self) -> dict[int, int]:
        """The processes of the shards, by rank."""
        found: dict[int, int] = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has just ended
                said = re.match(r"shard-(\d)", (process / "comm").read_text())
                if said is not None and (process / "cwd").readlink() == self.folder:
                    found[int(said[1])] = int(process.name)
        return found

    def follow(self) -> None:
        assert all(one.poll() is None for one in self.started), self.told()
        self.follower.poll(self.log, 0.05)

    def told(self) -> str:
        return (self.folder / "learn.log").read_text()

    def check_whole(self) -> None:
        """Let it learn what is left, stop it, and check that each example was learned once."""
        while self.follower.examples < REQUESTS:
            self.follow()
        for one in self.started:
            one.terminate()
        assert [one.wait(60.0) for one in self.started] == [0] * len(self.started), self.told()
        while self.follower.poll(self.log):
            pass
        metas = []
        for rank in range(2):
            folder = shards_folder(self.config, 2) / str(rank)
            with RoleState(folder, ROLE, None, disk=UndoableDisk(ROCKS_DISK)) as state:
                metas.append(read_meta(state, SYSTEM_CLOCK))
                assert not state.unsent()
                assert state.offset(EXAMPLES, rank) == self.log.ends(EXAMPLES)[rank][1]
        assert sum(meta.requests for meta in metas) == self.follower.examples == REQUESTS
        assert metas[0].seq == metas[1].seq == self.follower.seq and self.follower.gaps == 0


@pytest.fixture
def learning(tmp_path: Path, log_url: str, request: pytest.FixtureRequest) -> Iterator[Learning]:
    pytest.importorskip("torch")
    text = CONFIG.replace("LOG", log_url).replace("TIMEOUT", str(request.param))
    (tmp_path / "freshet.toml").write_text(text)
    made = Learning(tmp_path, load_config(tmp_path / "freshet.toml"))
    made.fill()
    yield made
    for one in made.started:
        one.kill()
        one.wait()
    made.log.close()


# Long: a minute goes by.
@pytest.mark.parametrize("learning", [600.0], indirect=True)
def test_shards_wait_for_one_that_is_stopped_for_less_than_the_time_out(learning: Learning) -> None:
    learning.start()
    pid, before = learning.stopped(), learning.shards()
    until_s = time.monotonic() + MINUTE_S
    while time.monotonic() < until_s:
        learning.follow()
    assert learning.follower.examples < REQUESTS and learning.shards() == before
    os.kill(pid, signal.SIGCONT)
    learning.check_whole()
    assert "begin again" not in learning.told()


# Long: a minute goes by. Each shard has a starter of its own, as on two machines: nobody kills it.
@pytest.mark.parametrize("learning", [2.0], indirect=True)
def test_a_shard_that_was_given_up_a_minute_ago_adds_nothing_when_it_goes_on(learning: Learning) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    for rank in ("0", "1"):
        learning.start(RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    pid = learning.stopped()
    until_s = time.monotonic() + MINUTE_S
    while time.monotonic() < until_s:
        learning.follow()
    assert learning.follower.examples < REQUESTS and learning.shards()[1] == pid
    assert "shard-1-of-2: no beat came within 2 s" in learning.told()
    os.kill(pid, signal.SIGCONT)
    learning.check_whole()
    assert learning.told().count("begin again") >= 2

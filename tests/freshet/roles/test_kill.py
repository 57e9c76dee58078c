"""A learner killed with SIGKILL again and again learns every example, and none twice."""

import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import starting

from freshet.config import Config, load_config
from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions
from freshet.roles.opening import open_topics
from freshet.roles.roles import run_join
from freshet.tools.produce import produce
from learner.model.model import Model
from learner.role.learner import Learner
from learner.updates.follower import Follower
from stream.log.base import EXAMPLES
from stream.state.role_state import RoleState

REQUESTS = 8000
CONFIG = """
log = "sqlite:run/log.db"
state = "run"
[stream]
partitions = 2
[stream.runner]
read_max = 40
[features.user]
dim = 4
[features.item]
dim = 4
admit_after = 2
[learner]
publish_every_s = 0.02
deep = "none"
"""


# Long: chaos kills learners every day.
@pytest.mark.long
@pytest.mark.process
def test_learner_killed_many_times_learns_each_example_once(tmp_path: Path) -> None:
    (tmp_path / "freshet.toml").write_text(CONFIG)
    config = load_config(tmp_path / "freshet.toml")
    rng = random.Random(0)
    rows = [
        f"{1_700_000_000 + i},{rng.randrange(50)},{rng.randrange(90)},{rng.randrange(2)}"
        for i in range(REQUESTS)
    ]
    (tmp_path / "clicks.csv").write_text("\n".join(["time,user,item,label", *rows]))
    produce(config, tmp_path / "clicks.csv")
    _join_all(config)
    kills = 0
    deadline = time.monotonic() + 120.0
    while (done := _consumed(config)) < REQUESTS:
        assert time.monotonic() < deadline, f"{done} of {REQUESTS} after {kills} kills"
        process = starting.start(
            "learn", "--config", "freshet.toml",
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        with process.stdout as said:
            assert "learn: ready" in said.readline()
            if kills < 5:
                time.sleep(rng.uniform(0.005, 0.1))  # into the middle of a batch, a commit or a send
            else:
                while _consumed(config) < REQUESTS and time.monotonic() < deadline:
                    time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
        kills += 1
    assert kills > 1, "the learner was done before it could be killed"

    with RoleState(
        config.state_of("learn"), "learner", Learner.fingerprint(config.features, config.learner)
    ) as state:
        learner = Learner(config.features, config.learner, state)
        digest = learner.digest()
        assert learner.meta.requests == REQUESTS
        assert learner.meta.watermark == {0: _end(config, 0), 1: _end(config, 1)}
        unsent = {block.topic for block in state.unsent()}
    # One uninterrupted life over the same records in the same order ends in the same bits.
    assert replay(config, ReplayOptions(journal=str(config.state_of("learn"))))["state_hash"] == digest
    if not unsent:
        log = open_topics(config)
        follower = Follower(Model(config.features, config.learner))
        follower.start(log)
        while follower.poll(log):
            pass
        assert follower.gaps == 0 and follower.seq == learner.meta.seq
        assert follower.model.table_rows() == learner.model.table_rows()
        log.close()


def _join_all(config: Config) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=run_join, args=(config, stop))
    thread.start()
    deadline = time.monotonic() + 60.0
    while _end(config, 0) + _end(config, 1) < REQUESTS and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    thread.join()
    assert _end(config, 0) + _end(config, 1) == REQUESTS


def _end(config: Config, partition: int) -> int:
    log = open_topics(config)
    try:
        return log.ends(EXAMPLES)[partition][1]
    finally:
        log.close()


def _consumed(config: Config) -> int:
    """What the learner's group has told the log, which it does after each commit."""
    log = open_topics(config)
    try:
        return sum(log.committed("learn", EXAMPLES).values())
    finally:
        log.close()

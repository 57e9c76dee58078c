"""Another model on a log that has updates, as a user types it."""

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import starting
from copies import Copy

from freshet.config import Config, load_config
from freshet.roles.opening import open_topics
from freshet.roles.roles import run_join
from freshet.tools.produce import produce
from learner.model.model import Model
from learner.updates.follower import Follower
from stream.log.base import EXAMPLES

REQUESTS = 400
CONFIG = """
log = "sqlite:log.db"
[stream]
partitions = 1
[features.user]
dim = 4
[features.item]
dim = 4
[learner]
deep = "none"
"""
NEW = CONFIG.replace("[features.item]", '[features.item]\noptimizer = "adam"')


@contextmanager
def learning(folder: Path, *options: str) -> Iterator[Copy]:
    """A learner, which says what it has to say in the folder's file `said`."""
    with (folder / "said").open("wb") as said:
        process = starting.start("learn", *options, cwd=folder, stdout=said, stderr=said)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60.0)


def learnt(config: Config) -> tuple[str, dict[int, int], int]:
    """What a server with this config would do about the log's updates, how far they are, and their epoch."""
    log = open_topics(config)
    follower = Follower(Model(config.features, config.learner))
    follower.start(log)
    while follower.poll(log):
        pass
    log.close()
    return follower.other, follower.watermark, follower.model.epoch


def until_learnt(config: Config, watermark: int) -> int:
    """Wait until a learner of this config has learnt so many examples and leads; returns its epoch."""
    deadline = time.monotonic() + 300.0
    while (found := learnt(config))[0] or found[1] != {0: watermark}:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found[2]


@pytest.mark.process
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same state", "another state folder"])
def test_changed_config_is_refused_and_begins_anew_with_one_command(tmp_path: Path, elsewhere: bool) -> None:
    file = tmp_path / "freshet.toml"
    rows = [f"{1_700_000_000 + i},{i % 7},{i % 11},{i % 2}" for i in range(REQUESTS)]
    (tmp_path / "clicks.csv").write_text("\n".join(["time,user,item,label", *rows]))
    file.write_text(CONFIG)
    old = load_config(file)
    produce(old, tmp_path / "clicks.csv")
    join_all(old)
    with learning(tmp_path):
        first = until_learnt(old, REQUESTS)

    file.write_text(NEW)
    new = load_config(file)
    there = ("--set", "state=.freshet2") if elsewhere else ()
    assert "freshet learn --anew" in learnt(new)[0], "a server of the new config leaves the old weights out"
    with learning(tmp_path, *there) as refused:
        assert refused.wait(timeout=300) == 2
        said = (tmp_path / "said").read_text()
        assert re.search(r"freshet learn --anew" if elsewhere else r"features", said), said
    with learning(tmp_path, "--anew", *there):
        second = until_learnt(new, REQUESTS)
    assert second > first
    assert learnt(old)[0], "a server of the old config says that another model has come"
    kept = tmp_path / ".freshet" / "learn" / "db.before-anew"
    assert kept.is_dir() != elsewhere, "what was learnt is put aside, where there is something"
    with learning(tmp_path, *there):
        assert until_learnt(new, REQUESTS) == second, "a restart goes on with it"


def join_all(config: Config) -> None:
    """Make examples of all events."""
    stop = threading.Event()
    thread = threading.Thread(target=run_join, args=(config, stop))
    thread.start()
    log = open_topics(config)
    while sum(end for _, end in log.ends(EXAMPLES)) < REQUESTS:
        time.sleep(0.05)
    log.close()
    stop.set()
    thread.join()

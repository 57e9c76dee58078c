"""Forgetting in a running system: within a second in what answers, soon after in every file of the state."""

import contextlib
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import starting
from load import Process, until

from freshet.config import load_config
from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions
from freshet.roles.opening import open_topics
from ground.keys import key_of
from learner.model.model import Model
from learner.updates.follower import Follower
from stream.log.base import EVENTS, Outgoing
from stream.records.types import Impression, encode

START_S_MAX = 200.0  # kernels not yet compiled, on a busy machine
USER, ITEM = "ann-7f3a9c1e5b", 0x5EC2E7C0FFEE1234
CONFIG = """
log = "LOG"
state = "state"
[stream]
partitions = 2
[stream.log]
sync = false
[stream.log.kafka]
away_after_s = 60.0
[group]
beat_s = 0.25
timeout_s = 2.0
snapshot_every_s = 1.0
[features.user]
dim = 4
[features.item]
dim = 4
[learner]
deep = "none"
[server]
port = 0
"""


def files_with(folder: Path) -> list[str]:
    """The files in which the user or the item is: as text, or as its key in either byte order."""
    traces = [USER.encode(), str(ITEM).encode()]
    traces += [key_of(one).to_bytes(8, order) for one in (USER, ITEM) for order in ("little", "big")]  # type: ignore[arg-type]
    found = []
    for file in paths_in(folder):
        try:
            data = file.read_bytes() if file.is_file() else b""
        except FileNotFoundError:  # merged away just now
            continue
        if any(trace in data for trace in traces):
            found.append(str(file.relative_to(folder)))
    return found


def paths_in(folder: Path) -> list[Path]:
    """All paths in a folder; looked at again where a folder in it is gone meanwhile."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return list(folder.rglob("*"))


def run_forget(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`freshet forget`."""
    return starting.run("forget", *words, cwd=folder)


@pytest.fixture(params=["sqlite", "kafka"])
def url(request: pytest.FixtureRequest) -> str:
    """A log that nothing is in yet."""
    if request.param == "sqlite":
        return "sqlite:log.db"
    return f"kafka://{request.getfixturevalue('kafka_broker')}/{request.getfixturevalue('kafka_prefix')}"


@pytest.mark.process
def test_running_system_forgets(tmp_path: Path, url: str) -> None:
    (tmp_path / "freshet.toml").write_text(CONFIG.replace("LOG", url))
    state = tmp_path / "state"
    config = load_config(tmp_path / "freshet.toml")
    log = open_topics(config)
    processes = [Process(role, tmp_path, time.monotonic()) for role in ("join", "learn", "serve")]
    try:
        until(lambda: all(": ready" in one.said for one in processes), START_S_MAX, "the roles to start")
        url = processes[2].said.split("serve: ready ")[1].split()[0]
        client = httpx.Client(base_url=url, timeout=60.0)
        now = time.time()
        users = [USER, *(f"u{i}" for i in range(20))]
        shown = [
            Impression(
                f"r{i}", now - 300.0 + i, [{"item": ITEM}, {"item": i % 7}], {"user": users[i % 21]},
                labels=[1.0, 0.0] if i < 270 else None,
            )
            for i in range(300)
        ]  # fmt: skip
        log.append(EVENTS, [Outgoing(e.request_id.encode(), encode(e)) for e in shown])

        def model() -> dict[str, dict[str, int]]:
            return client.get("/v1/model").json()

        def scores(user: str) -> list[float]:
            body = {"context": {"user": user}, "candidates": [{"item": i} for i in range(7)], "log": False}
            return list(client.post("/v1/score", json=body).json()["corrected"])

        until(lambda: model()["table_rows"].get("user") == 21, 60.0, "the model to learn")
        everywhere = {"join", "learn", "snapshots"}  # a snapshot may go, and another come, during one look
        until(lambda: {name.split("/")[0] for name in files_with(state)} == everywhere, 60.0, "it to lie")
        assert scores(USER) != scores("nobody")

        done = run_forget(tmp_path, f"user={USER}", f"item={ITEM}")
        assert done.returncode == 0, done.stderr
        began = time.monotonic()
        until(lambda: model()["table_rows"]["user"] == 20, 60.0, "the server to forget")
        until(lambda: scores(USER) == scores("nobody"), 60.0, "the error memory to forget")
        forgotten_s = time.monotonic() - began
        until(lambda: not files_with(state), 60.0, "the files to be rewritten")
        files_s = time.monotonic() - began
        print(f"forgotten by what answers after {forgotten_s:.2f} s, by every file after {files_s:.2f} s")
        client.close()
        for one in processes:
            one.stop()
        assert not files_with(state)
        late = Follower(Model(config.features, config.learner))  # a server that starts now
        late.start(log)
        while late.poll(log):
            pass
        assert late.model.table_rows()["user"] == 20
        assert set(late.model.tables[1].items()[0].tolist()) == {key_of(i) for i in range(7)}
        report = replay(config, ReplayOptions(journal=str(tmp_path / "state" / "learn")))
        assert report["equals_live_state"]
    finally:
        for one in processes:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()
        log.close()


@pytest.mark.process
def test_command_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "freshet.toml").write_text(CONFIG.replace("LOG", "sqlite:log.db"))
    for words, why in (
        (["ann"], "'ann' is not FEATURE=ID"),
        (["usr=ann"], "feature 'usr' is not declared; ids to forget may be of: user, item"),
    ):
        done = run_forget(tmp_path, *words)
        assert done.returncode == 2 and why in done.stderr

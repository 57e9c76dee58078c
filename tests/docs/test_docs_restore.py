"""docs/operations.md, "Backup and restore": its own commands, then a ledger that balances."""

import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blocks import ROOT, blocks_of
from copies import ORIGINAL
from ledger import WINDOW_S, Ledger
from load import Process, until
from starting import COPY, original

from freshet.config import Config, load_config
from freshet.roles.opening import open_topics
from learner.role.learner import Learner
from stream.log.base import EVENTS, EXAMPLES, Log, Outgoing
from stream.state.role_state import RoleState

SECTION = "## Backup and restore"
PARTITIONS = 2
REQUESTS = 400
START_S_MAX = 200.0  # on a busy machine, kernels not yet compiled
CONFIG = f"""
[stream]
partitions = {PARTITIONS}
[stream.log]
sync = false
[group]
beat_s = 0.25
timeout_s = 2.0
snapshot_every_s = 0.5
[join]
window_s = {WINDOW_S}
late = "learn"
[features.user]
dim = 2
[features.item]
dim = 2
[features.once]
dim = 2
pairs = false
[learner]
publish_every_s = 0.05
deep = "none"
dead_letter_share_max = 1.0
"""


class Site:
    """A folder with a Freshet whose roles run and stop, and the document's commands to be run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "freshet.toml").write_text(CONFIG)
        self.config: Config = load_config(folder / "freshet.toml")
        self.roles: list[Process] = []
        tools = folder / "bin"
        tools.mkdir()
        (tools / "freshet").write_text(f'#!/bin/sh\nexec {shlex.join(COPY)} "$@"\n')
        (tools / "freshet").chmod(0o755)

    def start(self) -> None:
        self.roles = [Process(role, self.folder, time.monotonic()) for role in ("join", "learn")]
        until(lambda: all(": ready" in one.said for one in self.roles), START_S_MAX, "the roles to start")

    def stop(self) -> None:
        for one in self.roles:
            one.stop()

    def kill(self) -> None:
        for one in self.roles:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()

    def learn(self, records: list[Outgoing]) -> None:
        """Send these, and see that the roles take them."""
        with self.log() as log:
            log.append(EVENTS, records)
            until(lambda: _waiting(log) == 0, 60.0, "the roles to take it")

    @contextmanager
    def log(self) -> Iterator[Log]:
        log = open_topics(self.config)
        try:
            yield log
        finally:
            log.close()

    def do(self, text: str) -> None:
        """Run a block of the document."""
        path = f"{self.folder / 'bin'}:/usr/bin:/bin"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder, env={"PATH": path, ORIGINAL: original()}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"


def _waiting(log: Log) -> int:
    waiting = 0
    for group, topic in (("join", EVENTS), ("learn", EXAMPLES)):
        committed = log.committed(group, topic)
        waiting += sum(end - committed.get(p, 0) for p, (_, end) in enumerate(log.ends(topic)))
    return waiting


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.kill()


@pytest.mark.process
def test_what_was_lost_is_got_back_and_nothing_is_learnt_twice(site: Site) -> None:
    page = ROOT / "docs" / "operations.md"
    begins = page.read_text().count("\n", 0, page.read_text().index(SECTION))
    copy, put_back, copy_learnt, put_learnt_back = (
        block.text for block in blocks_of(page) if block.line > begins and block.language == "sh"
    )
    state = site.folder / ".freshet"
    ledger = Ledger(7)
    site.start()
    site.learn(ledger.take(REQUESTS))
    site.stop()
    site.do(copy)
    site.start()
    since = ledger.take(REQUESTS)
    site.learn(since)
    site.stop()

    # the log is lost alone: the states say that it is another
    for file in state.glob("log.db*"):
        file.unlink()
    refused = Process("learn", site.folder, time.monotonic())
    assert refused.process.wait(START_S_MAX) == 2
    assert "this is not the log that state" in refused.last_words()

    # a copy of everything takes its place, and producers send again
    site.do(put_back)
    site.start()
    site.learn(since)

    # what was learnt is copied while the roles run; later all but the log is lost
    until(lambda: any(state.glob("snapshots/learn-*")), 60.0, "a snapshot")
    site.do(copy_learnt)
    site.learn(ledger.take(REQUESTS))
    site.kill()
    site.do(put_learnt_back)
    site.start()
    assert "begins from snapshot" in site.roles[1].last_words()
    site.learn(ledger.take(REQUESTS))

    # and single folders, as the table says
    site.stop()
    shutil.rmtree(state / "join")
    shutil.rmtree(state / "learn")
    site.start()
    site.learn(ledger.close(PARTITIONS))
    site.stop()

    fingerprint = Learner.fingerprint(site.config.features, site.config.learner)
    with RoleState(site.config.state_of("learn"), "learner", fingerprint) as kept:
        learner = Learner(site.config.features, site.config.learner, kept)
        with site.log() as log:
            books = ledger.balance(log, learner)
    assert not any(books.values()), books
    assert learner.meta.requests > 3 * REQUESTS
    assert not (state / "learn" / "db.aside").exists()

"""Groups of real processes with the settings that ship: who takes over, when, and who stands back."""

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import starting
from copies import Copy
from waiting import WAIT_S, wait_until

from freshet.config import Config, load_config
from freshet.roles.opening import open_topics
from freshet.tools.produce import produce
from learner.model.model import Model
from learner.updates.follower import Follower
from stream.log.base import EVENTS, EXAMPLES

CONFIG = """
log = "sqlite:run/log.db"
state = "run"
[stream]
partitions = 4
[features.user]
[features.item]
[learner]
publish_every_s = 0.1
deep = "none"
"""


class Group:
    """Processes of one role, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, Copy] = {}

    def start(self, role: str, name: str) -> None:
        with (self.folder / f"{role}-{name}.out").open("ab") as out, self._log(role, name).open("ab") as log:
            arguments = [role, "--config", "freshet.toml", "--name", name]
            self.running[f"{role}-{name}"] = starting.start(
                *arguments, cwd=self.folder, stdout=out, stderr=log
            )
        wait_until(lambda: b": ready" in (self.folder / f"{role}-{name}.out").read_bytes())

    def said(self, role: str, name: str) -> str:
        return self._log(role, name).read_text()

    def held(self, name: str) -> set[int]:
        """The partitions that a joiner has, by what it says."""
        held: set[int] = set()
        for what, number in re.findall(r"(acquired|released) partition (\d+)", self.said("join", name)):
            (held.add if what == "acquired" else held.discard)(int(number))
        return held

    def signal(self, role: str, name: str, number: signal.Signals) -> None:
        self.running[f"{role}-{name}"].send_signal(number)

    def stop(self, role: str, name: str) -> float:
        """How long it takes to end by itself."""
        began = time.monotonic()
        self.signal(role, name, signal.SIGTERM)
        assert self.running[f"{role}-{name}"].wait(WAIT_S) == 0
        return time.monotonic() - began

    def _log(self, role: str, name: str) -> Path:
        return self.folder / f"{role}-{name}.err"


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    (tmp_path / "freshet.toml").write_text(CONFIG)
    group = Group(tmp_path)
    yield group
    for process in group.running.values():
        if process.poll() is None:
            process.kill()
        process.wait()


def write_clicks(folder: Path, name: str, n: int) -> Path:
    file = folder / name
    lines = [f"{1_700_000_000 + i},{i % 13},{i % 7},{int((i % 13 + i % 7) % 3 == 0)}" for i in range(n)]
    file.write_text("\n".join(["time,user,item,label", *lines]))
    return file


def learnt(config: Config) -> tuple[int, int]:
    """What one who follows the updates has: (examples, gaps)."""
    log = open_topics(config)
    try:
        follower = Follower(Model(config.features, config.learner))
        follower.start(log)
        while follower.poll(log):
            pass
        return follower.examples, follower.gaps
    finally:
        log.close()


def joined(config: Config) -> int:
    """How many examples a reader takes: those that two joiners sent count once."""
    log = open_topics(config)
    try:
        wait_until(lambda: sum(log.committed("join", EVENTS).values()) == sum(e for _, e in log.ends(EVENTS)))
        records = (record for p in range(4) for record in log.read(EXAMPLES, p, 0, 10_000))
        return len({(record.producer, record.seq) for record in records})
    finally:
        log.close()


@pytest.mark.process
def test_paused_leader_is_followed_and_stands_back_when_it_wakes(
    group: Group, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(tmp_path / "freshet.toml")
    produce(config, write_clicks(tmp_path, "first.csv", 3_000))
    group.start("join", "a")
    group.start("learn", "a")
    wait_until(lambda: "leads, in term" in group.said("learn", "a"))
    group.start("learn", "b")
    wait_until(lambda: learnt(config)[0] == 3_000)
    group.signal("learn", "a", signal.SIGSTOP)
    produce(config, write_clicks(tmp_path, "second.csv", 2_000))
    paused_s = time.monotonic()
    wait_until(lambda: "leads, in term" in group.said("learn", "b"))
    taken_s = time.monotonic() - paused_s
    wait_until(lambda: learnt(config)[0] == 5_000)
    group.signal("learn", "a", signal.SIGCONT)
    wait_until(lambda: "another learner leads" in group.said("learn", "a"))
    produce(config, write_clicks(tmp_path, "third.csv", 1_000))
    wait_until(lambda: learnt(config)[0] == 6_000)
    assert learnt(config) == (6_000, 0)
    with capsys.disabled():
        print(f"\n[a standby took over {taken_s:.1f} s after its leader was paused]", end="")
    for role, name in (("learn", "b"), ("learn", "a"), ("join", "a")):
        group.stop(role, name)


@pytest.mark.process
def test_joiners_share_and_hand_over_when_one_is_killed_or_leaves(group: Group, tmp_path: Path) -> None:
    config = load_config(tmp_path / "freshet.toml")
    produce(config, write_clicks(tmp_path, "first.csv", 500))
    group.start("join", "a")
    wait_until(lambda: group.held("a") == {0, 1, 2, 3})
    group.start("join", "b")
    wait_until(lambda: group.held("a") == {0, 2} and group.held("b") == {1, 3})
    group.signal("join", "a", signal.SIGKILL)
    wait_until(lambda: group.held("b") == {0, 1, 2, 3})
    produce(config, write_clicks(tmp_path, "second.csv", 500))
    group.start("join", "c")
    wait_until(lambda: group.held("b") == {0, 2} and group.held("c") == {1, 3})
    group.stop("join", "b")
    wait_until(lambda: group.held("c") == {0, 1, 2, 3})
    assert joined(config) == 1_000

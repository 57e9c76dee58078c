"""The demo as a user meets it: it ends by itself with a report, and nothing outlives it."""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import starting
from copies import Copy
from ledger import fresh_records

from freshet.config import load_config
from freshet.demo.demo import CONFIG_NAME, run_demo
from freshet.demo.history import FILE_NAME
from freshet.demo.scenes import RatingsScene, WorldScene
from freshet.errors import ConfigError, RoleError
from freshet.roles.children import Children
from freshet.tools.inspect import read_state
from stream.errors import StateError
from stream.files.sources import read_examples
from stream.log.base import EXAMPLES
from stream.log.open import open_log
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent
from stream.records.types import Example, Impression

START_S_MAX = 200.0  # on a busy machine, kernels not yet compiled


def children_of(folder: Path) -> list[int]:
    """Processes whose output is in this folder."""
    found = []
    for output in Path("/proc").glob("[0-9]*/fd/1"):
        with contextlib.suppress(OSError):  # it has just ended, or is somebody else's
            if output.readlink().is_relative_to(folder):
                found.append(int(output.parts[2]))
    return found


def wait_until_gone(folder: Path, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while children_of(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture
def playing(tmp_path: Path) -> Iterator[tuple[Copy, Path]]:
    """A demo that has started its first processes, and the folder that it keeps."""
    keep = tmp_path / "kept"
    command = ["demo", "--seconds", "300", "--keep", str(keep), "--report", str(tmp_path / "r.html")]
    with (tmp_path / "out").open("wb") as out:
        process = starting.start(*command, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + START_S_MAX
        while len(children_of(keep)) < 2:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "out").read_text()
            time.sleep(0.1)
        yield process, keep
    finally:
        process.kill()
        process.wait()
        wait_until_gone(keep)


@pytest.mark.process
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_demo_leaves_nothing_running_when_stopped(
    playing: tuple[Copy, Path], number: signal.Signals, status: int
) -> None:
    process, keep = playing
    process.send_signal(number)
    assert process.wait(60.0) == status
    assert wait_until_gone(keep)
    if number != signal.SIGKILL:
        assert "too early for a report" in (keep.parent / "out").read_text()


# Long: twenty seconds; that a demo which ends by itself reports is a test every day.
@pytest.mark.long
@pytest.mark.process
def test_demo_interrupted_while_it_plays_still_reports(playing: tuple[Copy, Path], tmp_path: Path) -> None:
    process, keep = playing
    deadline = time.monotonic() + START_S_MAX
    while b"AUC" not in (tmp_path / "out").read_bytes():  # printed every few seconds of the play
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "out").read_text()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60.0) == 130
    assert wait_until_gone(keep)
    told = (tmp_path / "out").read_text()
    assert "stopped early" in told and "each answered four ways" in told
    assert "frozen + error memory" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.process
def test_demo_whose_roles_cannot_run_ends_and_says_so(
    playing: tuple[Copy, Path],
) -> None:
    process, keep = playing
    (keep / CONFIG_NAME).write_text("[nonsense]")
    for pid in children_of(keep):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert process.wait(60.0) == 2
    assert wait_until_gone(keep)


@pytest.mark.process
def test_demo_ends_by_itself_with_a_report_and_learns_each_request_once_though_its_learner_is_killed(
    tmp_path: Path,
) -> None:
    keep = tmp_path / "kept"
    state = keep / "state" / "learn"
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        """Kill the learner once it has learnt a thousand requests and is at work."""
        while not over.wait(0.3) and not killed:
            with contextlib.suppress(StateError, OSError, ValueError, KeyError):
                if read_state(state)["learnt"]["requests"] > 1000:
                    pid = int((state / "lock").read_text())
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        done = starting.run(
            "demo", "--seconds", "15", "--seed", "1",
            "--report", str(tmp_path / "r.html"), "--keep", str(keep),
            timeout=280.0,
        )  # fmt: skip
    finally:
        over.set()
        killer.join()
    assert done.returncode == 0, done.stderr
    assert killed
    assert wait_until_gone(keep, 0.0)
    log = open_log(f"sqlite:{keep / 'log.db'}")
    sent = list(fresh_records(log, EXAMPLES))
    log.close()
    found = read_state(state)
    consumed = [r for r in sent if r.offset < found["next_offsets"][f"{EXAMPLES}/{r.partition}"]]
    assert len(consumed) <= len(sent)  # the joiner sends its last examples while all of them are stopping
    # Whether the file or the log taught it, each request was learnt, and once; late clicks, and purchases
    # and minutes, come on top.
    decode = Decoder[Example | EntityEvent](Example, EntityEvent).decode
    taken = [decode(record.value) for record in consumed]
    of_log = [example for example in taken if isinstance(example, Example)]
    of_entities = len(taken) - len(of_log)
    assert of_entities >= 500
    in_file = {example.request_id for example in read_examples(keep / FILE_NAME)}
    in_log = {example.request_id for example in of_log if not (example.late or example.target)}
    late = sum(example.late for example in of_log)
    further = sum(bool(example.target) and not example.late for example in of_log)
    # a slow machine has little time left to play, so none of that may have been joined yet
    assert len(in_file | in_log) >= WorldScene.history_requests and in_file & in_log
    assert found["learnt"]["requests"] == len(in_file | in_log) + late + further
    told, page = done.stdout, (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "frozen + error memory" in page and "tastes shift" in page
    assert "with its attributes" in told and "What Freshet knows by itself" in page
    assert "buy, of clicks" in told and "minutes, of clicks" in told
    assert "each answered four ways" in told and "r.html" in told
    assert load_config(keep / CONFIG_NAME).join.window_s == WorldScene.window_s
    assert re.search(r"history [\d,]+ requests trained on in batch up to \S+ \S+, then live", told)
    in_batch = found["learnt"]["requests"] + found["learnt"]["of_history"] - len(of_log)
    assert f"{in_batch:,} requests trained on in batch" in told
    assert f"{in_batch:,} requests trained on in batch" in page


@pytest.mark.process
def test_child_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    with Children(tmp_path / "logs") as children:
        child = children.start("join", "join", "--config", str(tmp_path / "none.toml"))
        child.process.wait(60.0)
        assert children.states() == [("join", "gone")]
        with pytest.raises(RoleError, match=r"join cannot run \(exit status 2\)(.|\n)*none\.toml"):
            children.watch()


def test_used_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ConfigError, match="not empty"):
        run_demo(keep=tmp_path)


def test_too_short_a_play_is_refused() -> None:
    with pytest.raises(ConfigError, match="--seconds is 1"):
        run_demo(seconds=1.0)


def test_data_without_ratings_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "clicks.csv"
    file.write_text("time,label,a\n1,0,2\n")
    with pytest.raises(ConfigError, match="freshet replay"):
        RatingsScene(file, 10.0)


@pytest.mark.slow
def test_world_never_runs_ahead_of_the_wall_clock() -> None:
    scene = WorldScene(seconds=60.0, seed=0)
    history = [one for one in scene.history() if isinstance(one, Impression)]
    assert len(history) == scene.history_requests
    turns = [scene.turn() for _ in range(int(60.0 * scene.rate))]
    last = turns[-1]
    assert last is not None
    assert history[-1].time < turns[0].impression.time if turns[0] else False
    assert last.impression.time + 10 * scene.settle_s * scene.speed < time.time()


def test_turn_tells_no_label_before_its_time() -> None:
    scene = WorldScene(seconds=10.0, seed=0)
    for _ in range(50):
        turn = scene.turn()
        assert turn.impression.labels is None
        assert set(np.flatnonzero(turn.y).tolist()) == {action.candidate for action in turn.clicks}
        assert all(action.time >= turn.impression.time for action in turn.clicks)


def test_ratings_are_played_in_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "ratings"
    folder.mkdir()
    (folder / "movies.dat").write_text("0000001::A (1999)::Drama|War\n")
    lines = [f"{1 + i % 7}::0000001::{1 + i % 10}::{1_380_000_000 + i}" for i in range(2_000)]
    (folder / "ratings.dat").write_text("\n".join(lines) + "\n")
    scene = RatingsScene(folder, seconds=5.0, history_requests=1_500)
    history = list(scene.history())
    assert isinstance(history[0], Impression) and history[0].labels is not None
    assert scene.history_requests == len(history)
    played = []
    while (turn := scene.turn()) is not None:
        played.append(turn)
    assert played[0].impression.time > history[-1].time
    assert played[0].impression.labels is None and played[0].clicks == []
    assert {float(turn.y[0]) for turn in played} == {0.0, 1.0}

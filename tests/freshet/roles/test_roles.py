"""The roles as real processes over a real log: they start, stop, survive a kill, and can be followed."""

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import starting
from copies import Copy
from waiting import WAIT_S, wait_until

from freshet.config import Config, load_config, of_model
from freshet.errors import ProduceError, ReplayError
from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions
from freshet.roles.opening import open_topics, wait_for_log
from freshet.roles.roles import run_join, run_learn
from freshet.roles.voice import Voice
from freshet.tools.inspect import read_state
from freshet.tools.produce import produce
from stream.errors import LogAwayError, StateError, StateFullError
from stream.log.base import EVENTS, EXAMPLES

CONFIG = """
log = "LOG"
state = "run"
[stream]
partitions = 2
[stream.log.kafka]
away_after_s = 60.0
[features.user]
[features.item]
[server]
port = 0
[learner]
publish_every_s = 0.1
"""


BOTH_LOGS = pytest.mark.parametrize(
    "config", ["sqlite", pytest.param("kafka", marks=pytest.mark.process)], indirect=True
)


@pytest.fixture
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """A config on the embedded log, or where a test asks for it on Kafka."""
    log = "sqlite:run/log.db"
    if getattr(request, "param", "sqlite") == "kafka":
        broker, prefix = (request.getfixturevalue(name) for name in ("kafka_broker", "kafka_prefix"))
        log = f"kafka://{broker}/{prefix}"
    (tmp_path / "freshet.toml").write_text(CONFIG.replace("LOG", log))
    return load_config(tmp_path / "freshet.toml")


def write_clicks(folder: Path, n: int = 600) -> Path:
    file = folder / "clicks.csv"
    lines = [f"{1_700_000_000 + i},{i % 13},{i % 7},{int((i % 13 + i % 7) % 3 == 0)}" for i in range(n)]
    file.write_text("\n".join(["time,user,item,label", *lines]))
    return file


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Copy]]:
    running: list[Copy] = []

    def begin(*arguments: str) -> Copy:
        with (tmp_path / f"{arguments[0]}.err").open("a") as told:
            process = starting.start(*arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=told)
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_line(process: Copy, start: str) -> str:
    """The next line of a process's output that begins with `start`."""
    assert process.stdout is not None
    timer = threading.Timer(WAIT_S, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            if line.startswith(start):
                return line.strip()
    finally:
        timer.cancel()
    raise AssertionError(f"the process ended without saying {start!r}")


def ends(config: Config, topic: str) -> int:
    log = open_topics(config)
    try:
        return sum(end for _, end in log.ends(topic))
    finally:
        log.close()


def run_until(
    role: Callable[[Config, threading.Event], None], config: Config, done: Callable[[], bool]
) -> None:
    """Run a role in a thread until `done`, then stop it."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            role(config, stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(lambda: bool(failed) or done())
    finally:
        stop.set()
        thread.join(WAIT_S)
    assert not failed, failed


@pytest.mark.slow
@BOTH_LOGS
def test_events_become_a_model_that_replay_reaches_bit_for_bit(config: Config, tmp_path: Path) -> None:
    file = write_clicks(tmp_path)
    assert produce(config, file) == 600
    run_until(run_join, config, lambda: ends(config, EXAMPLES) == 600)
    learn = config.state_of("learn")

    def learnt() -> bool:
        try:
            return sum(read_state(learn)["next_offsets"].values()) == 600
        except StateError:
            return False  # it is just being made

    run_until(run_learn, config, learnt)
    report = replay(config, ReplayOptions(journal=str(learn)))
    assert report["events"] == 600
    assert report["equals_live_state"]
    assert report["state_hash"] == report["live_state_hash"]


def test_what_a_learner_says_names_its_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "freshet.toml"
    models = 'deep = "none"\n[models.other]\nset = ["features.user.dim=4"]\n'
    file.write_text(CONFIG.replace("LOG", "sqlite:run/log.db") + models)
    said: list[str] = []

    def ready() -> bool:
        said.append(capsys.readouterr().out)
        return "ready" in "".join(said)

    run_until(run_learn, of_model(load_config(file), "other"), ready)
    assert "".join(said).startswith("learn.other: ready")


def test_sending_a_file_again_changes_nothing_however_it_is_packed(config: Config, tmp_path: Path) -> None:
    file = write_clicks(tmp_path, 100)
    produce(config, file, events_per_message=3, limit=60)  # cut short
    assert 20 <= ends(config, EVENTS) <= 22
    produce(config, file)
    assert ends(config, EVENTS) <= 24
    produce(config, file, events_per_message=7)
    join = config.state_of("join")

    def taken() -> bool:
        with contextlib.suppress(StateError):  # it is being made
            return sum(read_state(join)["next_offsets"].values()) == ends(config, EVENTS)
        return False

    run_until(run_join, config, taken)
    assert ends(config, EXAMPLES) == 100
    assert read_state(join)["joined"]["examples"] == 100


@BOTH_LOGS
def test_replay_takes_a_range_of_a_log_by_offset_or_by_time(config: Config, tmp_path: Path) -> None:
    produce(config, write_clicks(tmp_path, 300))
    run_until(run_join, config, lambda: ends(config, EXAMPLES) == 300)
    log = open_topics(config)
    half = [end // 2 for _, end in log.ends(EXAMPLES)]
    log.close()
    at = f"offset:{half[0]},{half[1]}"

    def replayed(begin: str | None, end: str | None) -> dict[str, Any]:
        return replay(config, ReplayOptions(data=config.log, begin=begin, end=end))

    whole, first, last = replayed(None, None), replayed(None, at), replayed(at, None)
    assert (whole["events"], first["events"], last["events"]) == (300, sum(half), 300 - sum(half))
    assert len({report["data_hash"] for report in (whole, first, last)}) == 3
    assert replayed("offset:0,0", "offset:300,300")["state_hash"] == whole["state_hash"]
    assert replayed("1700000100", "1700000150")["events"] == 50
    for begin, message in (
        ("offset:1", "one number per partition, of which there are 2"),
        ("offset:a,b", "one number per partition"),
        ("offset:0,9999", "partition 1 holds offsets 0 to"),
        ("yesterday", "--from"),
    ):
        with pytest.raises(ReplayError, match=message):
            replayed(begin, None)


def test_two_files_with_the_same_line_numbers_are_both_learnt(config: Config, tmp_path: Path) -> None:
    file = write_clicks(tmp_path, 50)
    other = tmp_path / "more.csv"
    other.write_text(file.read_text())
    produce(config, file)
    produce(config, other)
    run_until(run_join, config, lambda: ends(config, EXAMPLES) == 100)


def test_produce_sends_events_as_they_are(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(
        '{"type":"impression","request_id":"r","time":1e9,"candidates":[{"item":1}],"context":{"user":2}}\n'
        "\n"
        '{"type":"action","request_id":"r","time":1000000003,"candidate":0}\n'
    )
    assert produce(config, file, holds="events") == 2
    assert ends(config, EVENTS) == 1, "both in one message"
    assert produce(config, file, holds="events", producer="another", events_per_message=1) == 2
    assert ends(config, EVENTS) == 3
    file.write_text('{"type":"action"}\n')
    with pytest.raises(ProduceError, match=r"events\.jsonl:1: "):
        produce(config, file, holds="events")
    with pytest.raises(ProduceError, match="cannot be read"):
        produce(config, tmp_path / "no.jsonl", holds="events")


@pytest.mark.process
@BOTH_LOGS
def test_joiner_stops_cleanly_on_sigterm_and_by_itself_when_its_parent_is_gone(
    config: Config, start: Callable[..., Copy]
) -> None:
    first = start("join", "--config", "freshet.toml")
    wait_line(first, "join: ready")
    first.send_signal(signal.SIGTERM)
    assert first.wait(WAIT_S) == 0
    interrupted = start("join", "--config", "freshet.toml")
    wait_line(interrupted, "join: ready")
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(WAIT_S) == 130
    orphan = start("join", "--config", "freshet.toml", "--with-parent", "1")
    assert orphan.wait(WAIT_S) == 0


@pytest.mark.process
@BOTH_LOGS
def test_roles_told_to_stop_under_load_do_and_lose_nothing(
    config: Config, start: Callable[..., Copy], tmp_path: Path
) -> None:
    produce(config, write_clicks(tmp_path, 6_000))
    roles = {role: start(role, "--config", "freshet.toml") for role in ("join", "learn")}
    for role, process in roles.items():
        wait_line(process, f"{role}: ready")
    wait_until(lambda: ends(config, EXAMPLES) > 0)
    for process in roles.values():
        process.send_signal(signal.SIGTERM)
    assert [process.wait(WAIT_S) for process in roles.values()] == [0, 0]
    run_until(run_join, config, lambda: ends(config, EXAMPLES) == 6_000)
    assert read_state(config.state_of("join"))["joined"]["examples"] == 6_000


@pytest.mark.process
def test_second_process_on_one_state_is_told_who_has_it(
    config: Config, start: Callable[..., Copy], tmp_path: Path
) -> None:
    first = start("join", "--config", "freshet.toml")
    wait_line(first, "join: ready")
    second = start("join", "--config", "freshet.toml")
    assert second.wait(WAIT_S) == 2
    assert f"in use by process {first.pid}" in (tmp_path / "join.err").read_text()


@pytest.mark.process
@BOTH_LOGS
def test_up_serves_learns_restarts_what_dies_and_leaves_nothing(
    config: Config, start: Callable[..., Copy], tmp_path: Path
) -> None:
    up = start("up", "--config", "freshet.toml")
    url = ""
    for _ in range(3):
        line = wait_line(up, "")
        url = line.split()[-1] if line.startswith("serve: ready") else url
    assert url.startswith("http://127.0.0.1:")
    produce(config, write_clicks(tmp_path))

    def learnt() -> bool:
        return int(httpx.get(f"{url}/v1/model").json()["examples_learnt"]) == 600

    wait_until(learnt)
    answer = httpx.post(
        f"{url}/v1/score", json={"context": {"user": 1}, "candidates": [{"item": 2}, {"item": 3}]}
    )
    assert answer.status_code == 200
    assert len(answer.json()["corrected"]) == 2

    joiner = int((config.state_of("join") / "lock").read_text())
    os.kill(joiner, signal.SIGKILL)
    assert wait_line(up, "join: ready")
    assert int((config.state_of("join") / "lock").read_text()) != joiner

    pids = [int((config.state_of(role) / "lock").read_text()) for role in ("join", "learn")]
    up.send_signal(signal.SIGTERM)
    assert up.wait(WAIT_S) == 0
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/v1/model")
    events = [json.loads(line) for line in (tmp_path / "up.err").read_text().splitlines() if line[:1] == "{"]
    assert {event["role"] for event in events} >= {"join", "learn", "serve", "up"}
    assert [event["of"] for event in events if event["event"] == "restart"] == ["join"]


@pytest.mark.process
def test_up_that_is_killed_leaves_nothing_running(config: Config, start: Callable[..., Copy]) -> None:
    up = start("up", "--config", "freshet.toml")
    for _ in range(3):
        wait_line(up, "")
    pids = [int((config.state_of(role) / "lock").read_text()) for role in ("join", "learn")]
    up.kill()
    up.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.process
def test_up_ends_when_a_role_cannot_run(start: Callable[..., Copy], config: Config, tmp_path: Path) -> None:
    config.state_of("learn").parent.mkdir(parents=True)
    config.state_of("learn").write_text("a file where the learner's folder belongs")
    up = start("up", "--config", "freshet.toml")
    assert up.wait(WAIT_S) == 2
    told = (tmp_path / "up.err").read_text()
    assert str(config.state_of("learn")) in told
    assert "freshet: learn cannot run" in told


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"


def test_inspect_tells_what_a_learner_holds(config: Config, tmp_path: Path, capsys: Any) -> None:
    from freshet.cli.main import main

    produce(config, write_clicks(tmp_path, 40))
    run_until(run_join, config, lambda: ends(config, EXAMPLES) == 40)
    assert main(["inspect", str(config.state_of("join"))]) == 0
    told = capsys.readouterr().out
    assert "joiner" in told and "examples" in told
    assert main(["inspect", str(config.state_of("join")), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["joined"]["impressions"] == 40


def test_role_waits_for_room_on_the_disk() -> None:
    stop, tries = threading.Event(), iter([StateFullError("no room"), LogAwayError("locked"), None])

    def action() -> None:
        failure = next(tries)
        if failure is not None:
            raise failure
        stop.set()

    wait_for_log(action, stop, Voice("join"))
    assert stop.is_set()

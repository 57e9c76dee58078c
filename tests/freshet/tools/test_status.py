"""`freshet status` and `freshet check` beside live roles, and what `check` says of what is wrong."""

import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import starting
from copies import Copy
from scraping import free_port

from freshet.cli.main import main

WAIT_S = 100.0
CONFIG = """
log = "sqlite:run/log.db"
state = "run"
[features.user]
[features.item]
[group]
timeout_s = 5.0
beat_s = 0.2
[server]
port = PORT
[learner]
deep = "none"
publish_every_s = 0.1
"""


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, in a config in this test's folder."""
    monkeypatch.chdir(tmp_path)
    chosen = free_port()
    Path("freshet.toml").write_text(CONFIG.replace("PORT", str(chosen)))
    return chosen


@pytest.fixture
def start(port: int) -> Iterator[Callable[[str], Copy]]:
    """Starts a role as a process; the log is there before the first one."""
    running: list[Copy] = []

    def begin(role: str) -> Copy:
        with Path(f"{role}.err").open("wb") as err:
            process = starting.start(role, cwd=Path.cwd(), stdout=err, stderr=err)
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


class Status:
    """What `freshet status` prints."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def text(self) -> tuple[int, list[str]]:
        code = main(["status"])
        return code, self._capsys.readouterr().out.splitlines()

    def read(self) -> tuple[int, dict[str, Any]]:
        code = main(["status", "--json"])
        return code, json.loads(self._capsys.readouterr().out)

    def until(self, done: Callable[[dict[str, dict[str, Any]], dict[str, Any]], bool]) -> int:
        """Ask until `done` says so of the members by role and the whole answer; returns the exit status."""
        deadline = time.monotonic() + WAIT_S
        while True:
            code, found = self.read()
            if done({member["role"]: member for member in found["members"]}, found):
                return code
            assert time.monotonic() < deadline, found
            time.sleep(0.2)


@pytest.mark.process
def test_status_shows_roles_that_run_stop_and_are_killed(
    start: Callable[[str], Copy], port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    status = Status(capsys)
    lines = [f"{1_700_000_000 + i},{i % 13},{i % 7},{int(i % 3 == 0)}" for i in range(300)]
    Path("clicks.csv").write_text("\n".join(["time,user,item,label", *lines]))
    assert main(["produce", "clicks.csv"]) == 0
    capsys.readouterr()
    code, lines = status.text()
    assert code == 1
    subjects = ["log", "records", "join", "learn", "serve", "health"]
    assert [line.split()[0] for line in lines] == subjects
    assert all("none runs" in line for line in lines[2:5]) and "does not answer http" in lines[5]

    begun = time.time()
    join, learn = start("join"), start("learn")
    start("serve")
    code = status.until(
        lambda of, found: (
            of.keys() == {"join", "learn", "serve"}
            and all(member["state"] == "runs" for member in of.values())
            and of["join"]["numbers"].get("records", 0) > 0
            and of["learn"]["numbers"].get("examples", 0) > 0
            and of["learn"]["leads"]
            and found["server"]["state"] == "ready"
        )
    )
    assert code == 0
    code, lines = status.text()
    assert code == 0
    assert re.search(r"events [\d,]+, examples [1-9][\d,]*, updates [1-9][\d,]*, dead_letters 0", lines[1])
    assert [line.split()[0] for line in lines] == subjects
    since = r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.match(rf"join +runs +\S+, {since}: [1-9][\d,]* records", lines[2])
    assert re.match(rf"learn +leads +\S+, {since}: .*[1-9][\d,]* examples", lines[3])
    assert re.match(rf"serve +runs +\S+:{port}, {since}", lines[4])
    assert re.match(rf"health +ready +http://127\.0\.0\.1:{port}$", lines[5])
    _, found = status.read()
    for member in found["members"]:
        assert begun - 2.0 < member["since"] < time.time(), "the moment of the start"

    assert main(["check"]) == 0
    checked = capsys.readouterr().out
    assert checked.count("in use by a running role") == 2 and "a server runs already" in checked

    join.send_signal(signal.SIGTERM)
    learn.kill()
    code = status.until(lambda of, _: of["join"]["state"] == "stopped" and of["learn"]["state"] == "silent")
    assert code == 1, "no joiner and no learner"
    _, lines = status.text()
    assert re.match(r"join +stopped +\S+, last beat .* ago$", lines[2])
    assert re.match(r"learn +silent +\S+, last beat .* ago$", lines[3])


def checks(capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[int, dict[str, str]]:
    """The exit status of `freshet check`, and each line that is not in order, by its subject."""
    options = [part for setting in overrides for part in ("--set", setting)]
    code = main(["check", *options])
    wrong = {}
    for line in capsys.readouterr().out.splitlines():
        verdict, subject, text = re.split(r" {2,}", line, maxsplit=2)
        if verdict == "not ok":
            wrong[subject] = text
    return code, wrong


@pytest.mark.parametrize(
    ("override", "subject", "words"),
    [
        ("log=oracle:run/log.db", "log", "sqlite:PATH"),
        ("log=sqlite:freshet.toml", "log", "freshet.toml"),
        ("log=sqlite:freshet.toml/log.db", "log", "cannot be written by this user"),
        ("log=kafka://127.0.0.1:1", "log", "127.0.0.1:1"),
        ("features.item.kind=idd", "config", "features.item.kind"),
        ("features.item.dim=0", "config", "[features.item]: dim must be 1 to 512"),
        ("features.item={kind='hour',of='user'}", "config", "section [features.item]: `of` belongs to a seq"),
        ("features.item.of=usr", "config", "feature item: `of` is 'usr', which is not declared"),
        ("server.host=0.0.0.0", "access", "tokens"),
    ],
)
def test_check_names_what_is_wrong_and_what_to_do(
    override: str, subject: str, words: str, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    code, wrong = checks(capsys, override)
    assert code == 1 and wrong.keys() == {subject}
    assert words in wrong[subject]
    assert not Path("run").exists(), "nothing is made"


def test_check_finds_a_port_in_use(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", port)):
        code, wrong = checks(capsys)
    assert code == 1 and wrong.keys() == {"server"}
    assert f"port {port}" in wrong["server"] and "server.port" in wrong["server"]


def test_check_takes_another_programs_server_for_a_port_in_use(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    other = HTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler)  # answers 501 to everything
    thread = Thread(target=other.serve_forever, daemon=True)
    thread.start()
    try:
        code, wrong = checks(capsys)
    finally:
        other.shutdown()
        other.server_close()
    assert code == 1 and f"port {port}" in wrong["server"]

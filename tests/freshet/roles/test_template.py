"""Copies of a template: they run, end and are killed as processes that `subprocess` starts."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

from freshet.errors import RoleError
from freshet.roles.shards.copied import serve
from freshet.roles.shards.template import UNKNOWN, Template, template_name

SCRIPT = """
import os, sys, time
from freshet.roles.shards import copied

def run(arguments):
    what, *rest = arguments
    if what == "exit":
        return int(rest[0])
    if what == "tell":
        name = open("/proc/self/comm").read().strip()
        open(os.environ["TOLD"], "w").write(f"{name}, {os.getsid(0) == os.getpid()}")
        return 0
    time.sleep(600)

sys.exit(copied.main(int(sys.argv[1]), run, lambda: None))
"""

pytestmark = pytest.mark.process


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def name() -> str:
    return f"freshet-test-{uuid.uuid4().hex}"


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    (tmp_path / "script.py").write_text(SCRIPT)
    return [str(tmp_path / "script.py")]


@pytest.fixture
def template(name: str, environment: dict[str, str], program: list[str]) -> Iterator[Template]:
    made = Template(name, environment, program)
    yield made
    made.close()


def _gone(pid: int) -> None:
    """Wait until a process, which is not this one's child, has ended."""
    with contextlib.suppress(ProcessLookupError):
        ended = os.pidfd_open(pid)
        assert select.select([ended], [], [], 60.0)[0], "it is to end"
        os.close(ended)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_copies_run_end_and_are_killed(
    template: Template, environment: dict[str, str], tmp_path: Path
) -> None:
    statuses = [template.start("a", ["exit", str(status)], environment).wait() for status in (0, 75, 2)]
    assert statuses == [0, 75, 2]
    told = tmp_path / "told"
    assert template.start("a name of more than 15", ["tell"], {**environment, "TOLD": str(told)}).wait() == 0
    assert told.read_text() == "a name of more, True", "a session of its own"
    sleeping = [template.start("b", ["sleep"], environment) for _ in range(2)]
    assert [copy.poll() for copy in sleeping] == [None, None] and sleeping[0].pid != sleeping[1].pid
    with pytest.raises(subprocess.TimeoutExpired):
        sleeping[0].wait(0.01)
    sleeping[0].kill()
    sleeping[1].terminate()
    assert [copy.wait() for copy in sleeping] == [-signal.SIGKILL, -signal.SIGTERM]
    sleeping[0].kill()  # it does no harm
    assert sleeping[0].poll() == -signal.SIGKILL


def test_copies_live_on_when_their_template_is_killed_and_another_is_loaded(
    template: Template, environment: dict[str, str]
) -> None:
    copy = template.start("c", ["sleep"], environment)
    killed = _parent(_parent(copy.pid))
    os.kill(killed, signal.SIGKILL)
    _gone(killed)
    template.look()
    other = template.start("d", ["exit", "3"], environment)
    assert copy.poll() is None and other.wait() == 3
    copy.kill()
    assert copy.wait() == -signal.SIGKILL


def test_a_copy_ends_with_its_keeper(template: Template, environment: dict[str, str]) -> None:
    copy = template.start("e", ["sleep"], environment)
    os.kill(_parent(copy.pid), signal.SIGKILL)
    assert copy.wait(60.0) == UNKNOWN
    _gone(copy.pid)


STARTER = """
import os, sys, time
from freshet.roles.shards.template import Template

name, program = sys.argv[1:]
template = Template(name, os.environ, [program])
copy = template.start("f", ["sleep"], os.environ)
print(copy.pid, flush=True)
time.sleep(600)
"""


def test_copies_end_at_once_with_who_asked_for_them_and_the_next_one_finds_the_template(
    name: str, program: list[str], environment: dict[str, str]
) -> None:
    lines, templates = [], []
    for _ in range(2):
        command = [sys.executable, "-c", STARTER, name, *program]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as starter:
            assert starter.stdout is not None
            try:
                lines.append(int(starter.stdout.readline()))
                templates.append(_parent(_parent(lines[-1])))
            finally:
                starter.kill()
            # who reads the output of who was killed sees its end, though the template lives
            assert starter.stdout.read() == ""
        _gone(lines[-1])
    assert templates[0] == templates[1]
    found = Template(name, environment, program)
    found.close()
    _gone(templates[0])


def test_a_template_that_says_why_it_cannot_be_loaded_is_an_error(
    name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    template = Template(name, environment, [str(tmp_path / "broken.py")])
    with pytest.raises(RoleError, match="that shards are copies of has ended"):
        template.start("g", ["sleep"], environment)
    template.close()


def test_a_template_without_copies_ends_after_a_while() -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0freshet-test-{uuid.uuid4().hex}")
        listening.listen()
        assert serve(listening, kept_s=0.01) is None


def test_only_the_same_command_of_the_same_code_finds_a_template(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = template_name(["learn", "--shards", "2"])
    assert template_name(["learn", "--shards", "2"]) == name != template_name(["learn", "--shards", "3"])
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert template_name(["learn", "--shards", "2"]) != name
    monkeypatch.delenv("NUMBA_CPU_NAME")
    monkeypatch.setattr("freshet.roles.shards.template.code_stamps", lambda: iter([1]))
    assert template_name(["learn", "--shards", "2"]) != name
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert template_name(["learn", "--shards", "2"]) != name

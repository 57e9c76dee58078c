"""Copies of a template: they run, end and are killed as processes that `subprocess` starts."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

from freshet.errors import RoleError
from freshet.roles.shards.template import UNKNOWN, Template

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
def template(environment: dict[str, str], tmp_path: Path) -> Iterator[Template]:
    (tmp_path / "script.py").write_text(SCRIPT)
    made = Template(environment, program=[str(tmp_path / "script.py")])
    yield made
    made.close()


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
    assert sleeping[0].poll() == -signal.SIGKILL and template.alive


def test_a_template_that_was_killed_makes_no_copies_and_its_copies_can_be_ended(
    template: Template, environment: dict[str, str]
) -> None:
    copy = template.start("c", ["sleep"], environment)
    os.kill(int(Path(f"/proc/{copy.pid}/stat").read_text().split()[3]), signal.SIGKILL)  # its parent
    with pytest.raises(RoleError, match="that shards are copies of has ended"):
        template.start("d", ["sleep"], environment)
    assert not template.alive and copy.poll() is None
    copy.kill()
    assert copy.wait() == UNKNOWN

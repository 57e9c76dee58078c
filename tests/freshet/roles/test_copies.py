"""The process that tests' copies of `freshet` are made by: asked before it is ready, it is waited for."""

import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest
from paths import ROOT
from waiting import wait_until

LATE = """
import shutil, socket, sys, time
from freshet.roles.shards.copied import serve

time.sleep(0.5)
with socket.socket(fileno=int(sys.argv[1])) as listening:
    if serve(listening, tie=0):
        sys.exit(7)
    shutil.rmtree(sys.argv[2])
"""
"""An original that takes its time, and whose copies do nothing."""

USER = """
import sys
from pathlib import Path
from copies import Copy
from starting import use_original

name, program = sys.argv[1], Path(sys.argv[2])
use_original(name, program)
use_original(name, program)  # what a second process finds: it runs, and does not serve yet
with open("/dev/null", "r+b") as nothing:
    copies = [Copy("freshet", [], [nothing.fileno()] * 3, "/", {}, name) for _ in range(2)]
    sys.exit(sum(copy.wait(60.0) for copy in copies))
"""


@pytest.mark.process
def test_copy_of_an_original_that_still_loads_comes_when_it_has(tmp_path: Path) -> None:
    name, program = f"freshet-test-{uuid.uuid4().hex}", tmp_path / "late.py"
    program.write_text(LATE)
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'helpers')!r})\n{USER}"
    done = subprocess.run([sys.executable, "-c", code, name, str(program)], timeout=120, check=False)
    assert done.returncode == 14
    wait_until(lambda: not (Path(tempfile.gettempdir()) / name).exists(), "the original to end")

"""Programs beside the tests run as their first lines say, by an installed Freshet and nothing else."""

import os
import subprocess
import sys

import pytest
from paths import ROOT


@pytest.mark.process
@pytest.mark.parametrize("program", ["tests/chaos/chaos.py", "tests/chaos/load.py"])
def test_program_finds_the_packages_and_not_the_tests_folders_of_their_names(program: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, program, "--help"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr

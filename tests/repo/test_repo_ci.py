"""Continuous integration runs the command that README names, and that runs everything."""

import os
import re
import subprocess

import pytest
from paths import ROOT

README = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()


def commands_of(target: str) -> str:
    """What `make` would run, lines of a `make` within it too; nothing is run but make itself.

    It does not see the ARGS of the `make` that runs this test.
    """
    of_caller = {"ARGS", "WORKERS", "MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS"}
    done = subprocess.run(
        ["make", "--dry-run", "--old-file=.venv/.installed", target],
        cwd=ROOT, capture_output=True, text=True, check=True,
        env={name: value for name, value in os.environ.items() if name not in of_caller},
    )  # fmt: skip
    return done.stdout


def test_ci_runs_the_command_that_readme_names_and_then_the_simulator() -> None:
    commands = re.findall(r"^(?:exec )?make .*$", CI, re.MULTILINE)
    before, test, simulate = commands
    assert before == "make --jobs=2 kernels lint", "what the next one would do first"
    assert test == "make test" and re.fullmatch(r"exec make simulate SEEDS=0:\d+", simulate)
    assert re.search(r"^make test$", README, re.MULTILINE)


@pytest.mark.parametrize("tool", re.findall(r"missing\+=\(([^)]+)\)", CI))
def test_ci_installs_what_readme_names(tool: str) -> None:
    asked = re.search(r"apt install ([\w .+-]+)", README)
    assert asked is not None
    assert set(tool.split()) - {"fonts-dejavu-core"} <= set(asked[1].split())


def test_make_test_runs_lint_types_and_every_test_that_is_not_long() -> None:
    commands = commands_of("test")
    for tool in ("ruff check .", "ruff format --check .", "bin/mypy"):
        assert tool in commands, tool
    (pytest_line,) = [line for line in commands.splitlines() if "-m pytest" in line]
    assert pytest_line.endswith('-m "not long" ') and " -k" not in pytest_line

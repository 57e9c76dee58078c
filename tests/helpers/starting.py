"""Starts processes of `freshet` as copies of one that is started at the first need; see `copies.py`."""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO

from copies import ORIGINAL, Copy
from paths import ROOT

ORIGINALS = ROOT / "tests" / "helpers" / "original.py"
COPY = [sys.executable, "-IS", str(ROOT / "tests" / "helpers" / "copies.py")]
"""What stands for `python -m freshet` in a shell; the variable ORIGINAL has to name the original."""


@cache
def original() -> str:
    """The name of the process to copy: one that a variable names, or one for all processes of a test run."""
    if given := os.environ.get(ORIGINAL):
        return given
    return use_original(f"freshet-{os.environ.get('PYTEST_XDIST_TESTRUNUID') or uuid.uuid4().hex}", ORIGINALS)


def use_original(name: str, program: Path) -> str:
    """Start `program` as the original of that name, unless it runs; returns the name.

    It need not be ready: its socket listens before it begins, so who asks it for a copy waits for as long as
    it loads. Whoever uses it holds a pipe open, and it ends when nobody does.
    """
    folder = Path(tempfile.gettempdir()) / name
    with ORIGINALS.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        users = folder / "users"
        with contextlib.suppress(OSError):  # there is none yet, or it has just ended
            os.open(users, os.O_WRONLY | os.O_NONBLOCK)  # stays open until this process ends
            return name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        os.mkfifo(users)
        reading = os.open(users, os.O_RDONLY | os.O_NONBLOCK)
        os.open(users, os.O_WRONLY)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"\0{name}")
            listening.listen(64)
            process = subprocess.Popen(
                [sys.executable, str(program), str(listening.fileno()), str(folder)],
                stdin=reading, stdout=subprocess.DEVNULL, env=environment(), start_new_session=True,
                pass_fds=[listening.fileno()],
            )  # fmt: skip
        os.close(reading)
        process.returncode = 0  # it may outlive this process, which does not wait for it
    return name


def environment(**more: str) -> dict[str, str]:
    """The variables of a process of this checkout, with one thread for each pool."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def start(
    *arguments: str,
    cwd: Path = ROOT,
    stdout: int | IO[bytes] | IO[str] = subprocess.DEVNULL,
    stderr: int | IO[bytes] | IO[str] | None = None,
    env: Mapping[str, str] | None = None,
    program: str = "freshet",
) -> Copy:
    """Start `freshet ARGUMENTS`, or a script, in a session of its own, without stdin.

    Args:
        cwd: where it runs.
        stdout: an open file, DEVNULL, or PIPE: the copy's `stdout` then is text to be read.
        stderr: the same; None: this process's.
        env: its variables, instead of `environment()`.
    """
    with contextlib.ExitStack() as opened:
        nothing = opened.enter_context(Path(os.devnull).open("r+b"))
        reader: IO[str] | None = None
        if stdout == subprocess.PIPE:
            ours, theirs = os.pipe()
            reader, stdout = os.fdopen(ours, encoding="utf-8"), opened.enter_context(os.fdopen(theirs, "wb"))
        files = [
            nothing.fileno() if file == subprocess.DEVNULL else other if file is None else file.fileno()
            for file, other in ((nothing, 0), (stdout, 1), (stderr, 2))
        ]
        copy = Copy(program, arguments, files, str(cwd), env or environment(), original())
    copy.stdout = reader
    return copy


def run(
    *arguments: str,
    cwd: Path = ROOT,
    timeout: float = 120.0,
    env: Mapping[str, str] | None = None,
    program: str = "freshet",
) -> subprocess.CompletedProcess[str]:
    """Run `freshet ARGUMENTS`, or a script, to its end, and return what it said."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        copy = start(*arguments, cwd=cwd, stdout=out, stderr=err, env=env, program=program)
        try:
            status = copy.wait(timeout)
        finally:
            copy.kill()
            copy.wait()
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
        return subprocess.CompletedProcess(arguments, status, *said)

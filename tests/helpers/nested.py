"""What a copy of `freshet` starts as `python -m freshet` is a copy too, and its child all the same.

Before the copy runs, it forks a process that has no threads and waits. At each start that one forks a
process which forks the new one and ends, and Linux makes the copy the parent of the orphan: the copy has said
that it takes in what its descendants leave behind.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

START = [sys.executable, "-m", "freshet"]
REQUEST_BYTES_MAX = 1 << 20
_PR_SET_CHILD_SUBREAPER = 36
_asking: tuple[socket.socket, threading.Lock] | None = None


class Child:
    """One such process, with the part of `subprocess.Popen` that Freshet uses."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdin: int,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
    ) -> None:
        assert stdin == subprocess.DEVNULL and _asking is not None
        self.returncode: int | None = None
        self._lock = threading.Lock()
        asked = {
            "program": "freshet",
            "arguments": [*arguments],
            "folder": str(Path.cwd()),
            "environment": {**(os.environ if env is None else env)},
            "session": start_new_session,
        }
        sent = json.dumps(asked).encode() + b"\n"
        asking, alone = _asking
        with alone, Path(os.devnull).open("rb") as nothing:
            out, err = (own if file is None else file.fileno() for own, file in ((1, stdout), (2, stderr)))
            socket.send_fds(asking, [sent[:1]], [nothing.fileno(), out, err])
            asking.sendall(sent[1:])
            self.pid = int(asking.recv(32))

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        with self._lock:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended."""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(START, timeout or 0.0)
            time.sleep(0.005)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Nested(subprocess.Popen[bytes]):
    """What stands for `subprocess.Popen`: other programs are started as ever."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        if arguments and list(arguments[0][:3]) == START:
            return Child(arguments[0][3:], **named)
        return super().__new__(cls)


def install(become: Callable[..., None]) -> None:
    """Fork the process that waits, and have this one's children started by it.

    Args:
        become: makes of a new process what is asked for, and returns when that has run.
    """
    global _asking
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        _wait(theirs, become)
        sys.exit(0)
    theirs.close()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _asking = ours, threading.Lock()
    subprocess.Popen = Nested  # type: ignore[misc]


def _wait(asked: socket.socket, become: Callable[..., None]) -> None:
    """Start what is asked for until the copy ends; returns in what was started alone, when it has run."""
    os.setsid()
    with Path(os.devnull).open("r+b") as nothing:
        for number in range(3):  # or who reads the copy's output would wait for this process too
            os.dup2(nothing.fileno(), number)
    while True:
        data, files, _, _ = socket.recv_fds(asked, REQUEST_BYTES_MAX, 3)
        if not data:
            os._exit(0)
        while not data.endswith(b"\n"):
            data += asked.recv(REQUEST_BYTES_MAX)
        reading, writing = os.pipe()
        middle = os.fork()
        if middle == 0:
            middle = os.getpid()
            new = os.fork()
            if new:
                os.write(writing, b"%d" % new)
                os._exit(0)
            os.close(reading)
            os.close(writing)
            asked.close()
            while os.getppid() == middle:
                time.sleep(0.001)
            become(files, **json.loads(data))
            return
        os.waitpid(middle, 0)
        asked.sendall(os.read(reading, 32))
        for file in (reading, writing, *files):
            os.close(file)

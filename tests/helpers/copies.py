"""Processes of `freshet` for tests of something else than a process's start.

Python, its imports and the kernels take one and a half seconds of a processor at each start. So these begin
as copies of a process that has done all that (`original.py`): with a process id, a session, files, a folder
and an environment of their own, to be waited for, signalled and killed as one that `subprocess` starts.

    python -IS tests/helpers/copies.py ARGUMENTS...     `freshet ARGUMENTS`, for shells

The variable FRESHET_TESTS_ORIGINAL then names the original.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys

TYPE_CHECKING = False  # importing typing takes as long as the rest of a client
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO

ORIGINAL = "FRESHET_TESTS_ORIGINAL"


class Copy:
    """One process, with the part of `subprocess.Popen` that tests use; it is killed with who made it.

    Args:
        program: "freshet", or the path of a script.
        arguments: its arguments.
        files: its stdin, stdout and stderr: file descriptors, open for as long as this call takes.
        folder: in which it runs.
        environment: its variables.
        original: the name of the process to copy.
        session: give it a session of its own.

    Attributes:
        stdout: what it says, where `start` was asked for a pipe.
    """

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        files: Sequence[int],
        folder: str,
        environment: Mapping[str, str],
        original: str,
        session: bool = True,
    ) -> None:
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        asked = {
            "program": program,
            "arguments": [*arguments],
            "folder": folder,
            "environment": {**environment},
            "session": session,
        }
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(f"\0{original}")
        sent = json.dumps(asked).encode() + b"\n"
        socket.send_fds(self._socket, [sent[:1]], files)
        self._socket.sendall(sent[1:])
        self._said = self._socket.makefile("rb")
        said = self._said.readline()
        assert said, "the original has ended; see what it says on stderr"
        self.pid = int(said)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status: minus the number of the signal that killed it.

        Raises:
            TimeoutError: it runs for longer than `timeout` seconds.
        """
        if self.returncode is None:
            if not select.select([self._socket], [], [], timeout)[0]:
                raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
            self.returncode = int(self._said.readline())
            self._said.close()
            self._socket.close()
        return self.returncode

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        with contextlib.suppress(TimeoutError):
            self.wait(0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _main() -> int:
    here = os.getcwd()  # noqa: PTH109
    copy = Copy("freshet", sys.argv[1:], (0, 1, 2), here, os.environ, os.environ[ORIGINAL], session=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: copy.send_signal(number))
    status = copy.wait()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(_main())

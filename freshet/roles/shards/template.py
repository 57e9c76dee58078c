"""Shards as copies of one process that has imported all that they need: so they begin again within a moment.

Python, its imports, PyTorch and the kernels take seconds of a processor at each start. The process that
starts shards has a *template* (`freshet.roles.shards.copied`), which does all that once, and is copied. A
template outlives whoever starts shards by a minute: the same command, started again, is a copy of it too.
"""

import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from freshet.errors import RoleError
from freshet.roles.shards.copied import is_own

UNKNOWN = -signal.SIGKILL
"""The status of a copy whose keeper was killed."""

MODULE = "freshet.roles.shards.copied"
PACKAGES = ("freshet", "serving", "learner", "embeddings", "error_memory", "stream", "ground")
WAITING_MAX = 64
"""Askers that may wait for a template that is being loaded."""

LOOK_EVERY_S = 0.2
_ENDED = "the process that shards are copies of has ended; see its message above"


class Copy:
    """A copy of a template, as `subprocess.Popen` shows a process.

    It is killed when this process closes the connection to its keeper, as it does at its end.
    """

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._connection, self._name = connection, name
        self._said = connection.makefile("rb")
        self._status: int | None = None
        try:
            self.pid = int(self._said.readline() or 0)
        except OSError:
            self.pid = 0
        if not self.pid:
            self.close()
            raise RoleError(_ENDED)

    def poll(self) -> int | None:
        """Its exit status, below 0 for a signal; None: it runs."""
        return self._look(0.0)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        status = self._look(timeout_s)
        if status is None:
            raise subprocess.TimeoutExpired(f"{self._name}, process {self.pid}", timeout_s or 0.0)
        return status

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Leave it, which ends it."""
        self._said.close()
        self._connection.close()

    def _signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def _look(self, timeout_s: float | None) -> int | None:
        if self._status is None and select.select([self._connection], [], [], timeout_s)[0]:
            try:
                self._status = int(self._said.readline() or UNKNOWN)
            except OSError:
                self._status = int(UNKNOWN)
            self.close()
        return self._status


class Template:
    """The template of a name: one that an earlier start has left, or a new one.

    Args:
        name: see `template_name`.
        environment: variables that libraries read when they are loaded.
        program: what Python runs, with the socket to listen at as its argument.
    """

    def __init__(
        self, name: str, environment: Mapping[str, str], program: Sequence[str] = ("-m", MODULE)
    ) -> None:
        self._name, self._environment, self._program = name, dict(environment), program
        self._process: subprocess.Popen[bytes] | None = None  # None: it is an earlier start's
        if (connection := _connected(name)) is not None:
            connection.close()
        else:
            self._load()

    def look(self) -> None:
        """Load another if this one was killed: copies live on without it, but no other can be made."""
        status = None if self._process is None else self._process.poll()
        if status is not None and status <= 0:  # above, it has said why it cannot be loaded
            self._load()

    def start(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], held: Sequence[int] = ()
    ) -> Copy:
        """Run `freshet ARGUMENTS` in a copy, which `ps` shows by a name; waits until the template is loaded.

        Args:
            held: files that the copy holds open too, until it ends.

        Raises:
            RoleError: the template has ended.
        """
        copy = copied(self._name, name, arguments, environment, held)
        if copy is None:  # it has ended since
            self._load()
            copy = copied(self._name, name, arguments, environment, held)
        if copy is None:
            raise RoleError(_ENDED)
        return copy

    def close(self) -> None:
        """End it. Copies live on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        elif (connection := _connected(self._name)) is not None:
            _send(connection, {"end": True}, ())
            connection.close()

    def _load(self) -> None:
        if self._process is not None:  # it listens no longer, and has ended or is about to
            self._process.kill()
            self._process.wait()
        with socket.socket(socket.AF_UNIX) as listening:
            try:
                listening.bind(f"\0{self._name}")
            except OSError:
                raise RoleError("another process begins to be the one that shards are copies of") from None
            listening.listen(WAITING_MAX)
            self._process = subprocess.Popen(
                [sys.executable, *self._program, str(listening.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[listening.fileno()],
                start_new_session=True,
                env=self._environment,
            )


def template_name(arguments: Sequence[str]) -> str:
    """The name of a template that only the same command has, of the same code and started the same way."""
    parts = [
        *arguments,
        *sorted(f"{name}={value}" for name, value in os.environ.items()),
        *(sys.executable, *sys.path, str(Path.cwd())),
        *(os.getuid(), os.getpriority(os.PRIO_PROCESS, 0), *sorted(os.sched_getaffinity(0))),
        *(Path(f"/proc/self/ns/{kind}").stat().st_ino for kind in ("pid", "mnt")),
        *code_stamps(),
    ]
    return f"freshet-{hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()}"


def run_as_copy(template: str, name: str, arguments: Sequence[str], stop: threading.Event) -> int | None:
    """Run `freshet ARGUMENTS` in a copy of a template that an earlier start has left.

    Args:
        template: its name.
        name: what `ps` shows.
        stop: ask the copy to end then.

    Returns:
        Its exit status, as a shell says it; None: there is no such template.
    """
    try:
        copy = copied(template, name, arguments, os.environ)
    except RoleError:
        return None
    if copy is None:
        return None
    while copy.poll() is None:
        if stop.wait(LOOK_EVERY_S):
            copy.terminate()
            break
    status = copy.wait()
    return 128 - status if status < 0 else status


def copied(
    template: str,
    name: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    held: Sequence[int] = (),
) -> Copy | None:
    """A copy of the template of a name that runs `freshet ARGUMENTS`; None: there is none.

    Raises:
        RoleError: it ended before it made one.
    """
    connection = _connected(template)
    if connection is None:
        return None
    order = {"name": name, "arguments": [*arguments], "folder": str(Path.cwd())}
    _send(connection, {**order, "environment": dict(environment)}, (1, 2, *held))
    return Copy(connection, name)


def _connected(template: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"\0{template}")
    except ConnectionRefusedError:
        connection.close()
        return None
    if not is_own(connection):  # who hears what a role's variables are?
        connection.close()
        raise RoleError(f"the socket @{template} is another user's")
    return connection


def _send(connection: socket.socket, order: Mapping[str, object], files: Sequence[int]) -> None:
    data = json.dumps(order).encode() + b"\n"
    with contextlib.suppress(OSError):  # it has just ended, which its silence says
        socket.send_fds(connection, [data[:1]], files)
        connection.sendall(data[1:])


def code_stamps() -> Iterator[int]:
    """Numbers that differ when the code does: what changed last of Freshet, and of installed packages."""
    here = Path(__file__).resolve().parents[3]
    for package in PACKAGES:
        for folder, _, files in os.walk(here / package):
            if not folder.endswith("__pycache__"):
                stats = [os.stat(os.path.join(folder, file)).st_ctime_ns for file in files]  # noqa: PTH116, PTH118
                yield max(stats, default=0)
                yield len(files)
    for folder in sys.path:
        if folder.endswith("-packages"):
            yield Path(folder).stat().st_mtime_ns

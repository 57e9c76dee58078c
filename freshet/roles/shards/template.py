"""Shards as copies of one process that has imported all that they need: so they begin again within a moment.

Python, its imports, PyTorch and the kernels take seconds of a processor at each start. The process that
starts shards keeps a *template* (`freshet.roles.shards.copied`), which does all that once, and is copied.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from freshet.errors import RoleError

READ_BYTES = 1 << 16
STATUS_S_MAX = 2.0
"""How long a template that has much to do may take to report the end of a copy."""

UNKNOWN = -signal.SIGKILL
"""The status of a copy whose template was killed."""

MODULE = "freshet.roles.shards.copied"


class Copy:
    """A copy of a template, as `subprocess.Popen` shows a process."""

    def __init__(self, template: "Template", pid: int) -> None:
        self.pid = pid
        self._template = template
        self._status: int | None = None
        try:
            self._ended = os.pidfd_open(pid)  # no later process can be mistaken for it
        except ProcessLookupError:  # it has ended at once
            self._status = template.status_of(pid)

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
            raise subprocess.TimeoutExpired(f"shard {self.pid}", timeout_s or 0.0)
        return status

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._ended, number)

    def _look(self, timeout_s: float | None) -> int | None:
        if self._status is None and select.select([self._ended], [], [], timeout_s)[0]:
            self._status = self._template.status_of(self.pid)
            os.close(self._ended)
        return self._status


class Template:
    """The template, as the process that starts shards sees it.

    Args:
        environment: variables that libraries read when they are loaded.
        held: descriptors of locks, which the template and its copies hold too until they end.
        program: what Python runs, with the file to report to as its argument.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        held: Sequence[int] = (),
        program: Sequence[str] = ("-m", MODULE),
    ) -> None:
        self._reports, told = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, *program, str(told)],
                stdin=subprocess.PIPE,
                pass_fds=[told, *held],
                start_new_session=True,
                env=dict(environment),
            )
        finally:
            os.close(told)
        self._lines: list[str] = []
        self._rest = b""
        self._gone = False  # its reports have ended, and it has or is about to
        self._statuses: dict[int, int] = {}

    @property
    def alive(self) -> bool:
        """Whether it can be copied."""
        return not self._gone and self._process.poll() is None

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Copy:
        """Run `freshet ARGUMENTS` in a copy, which `ps` shows by a name; waits until the template is loaded.

        Raises:
            RoleError: the template has ended.
        """
        order = json.dumps({"name": name, "arguments": [*arguments], "environment": dict(environment)})
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(order.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its reports end too
        while not self._lines:
            if not self._read(None):
                raise RoleError("the process that shards are copies of has ended; see its message above")
        return Copy(self, int(self._lines.pop(0)))

    def status_of(self, pid: int) -> int:
        """How a copy that has ended did."""
        until_s = time.monotonic() + STATUS_S_MAX
        while pid not in self._statuses:
            if not self._read(max(until_s - time.monotonic(), 0.0)):
                return UNKNOWN
        return self._statuses.pop(pid)

    def close(self) -> None:
        """End it, which copies that still run notice."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        os.close(self._reports)

    def _read(self, timeout_s: float | None) -> bool:
        """Read a report; False: none came, or none will come any more."""
        if not select.select([self._reports], [], [], timeout_s)[0]:
            return False
        found = os.read(self._reports, READ_BYTES)
        self._gone = not found
        *lines, self._rest = (self._rest + found).split(b"\n")
        for line in lines:
            pid, _, status = line.decode().partition(" ")
            if status:
                self._statuses[int(pid)] = int(status)
            else:
                self._lines.append(pid)
        return bool(found)

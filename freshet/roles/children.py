"""Roles as child processes: started together, watched, and stopped with their parent.

Each child has its own session, so that Ctrl-C reaches only the parent, which then stops the children in
order. Each child polls for its parent (`--with-parent`), so that no child outlives a parent that is killed.
A child that crashes is restarted, a limited number of times.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from freshet.errors import RoleError
from ground.retry import Backoff, Pauses

STOP_S_MAX = 15.0
TAIL_LINES = 6
RESTARTS_MAX = 5
RESTARTS_WINDOW_S = 60.0
RESTART_PAUSES = Pauses(first_s=0.25, longest_s=5.0)  # between restarts of a child that keeps crashing
EXIT_USER_ERROR = 2


class Restart(NamedTuple):
    """A child has crashed and will be restarted."""

    of: str
    how: str  # "exit status 1", "killed by signal 9"
    wait_s: float


class Child:
    """One role's process.

    Args:
        name: for messages.
        arguments: the arguments of `freshet`.
        folder: for files with its stdout (`output`) and stderr (`log`); None: it inherits the parent's.
        restart: restart it after a crash; False: `watch` raises.
    """

    def __init__(self, name: str, arguments: Sequence[str], folder: Path | None, restart: bool) -> None:
        self.name = name
        self.output = self.log = Path(os.devnull)
        self._folder = folder
        self._restart = restart
        self._crashes: list[float] = []
        self._backoff = Backoff(RESTART_PAUSES)
        self._again_at: float | None = None
        self._said = 0
        self._command = [sys.executable, "-m", "freshet", *arguments, "--with-parent", str(os.getpid())]
        self.process = self._start()

    def watch(self) -> Restart | None:
        """Restart it if it has crashed, and return the crash.

        Raises:
            RoleError: it cannot run as configured, keeps crashing, or may not be restarted.
        """
        now = time.monotonic()
        if self._again_at is not None:
            if now >= self._again_at:
                self._again_at = None
                self.process = self._start()
            return None
        status = self.process.poll()
        if status is None:
            return None
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        if not any(now - at < RESTARTS_WINDOW_S for at in self._crashes):
            self._backoff.reset()
        self._crashes = [at for at in self._crashes if now - at < RESTARTS_WINDOW_S] + [now]
        if status == EXIT_USER_ERROR:
            raise RoleError(f"{self.name} cannot run ({how}){self.last_words()}")
        if not self._restart:
            raise RoleError(f"{self.name} ended ({how}){self.last_words()}")
        if len(self._crashes) > RESTARTS_MAX:
            raise RoleError(
                f"{self.name} ended {len(self._crashes)} times within {RESTARTS_WINDOW_S:.0f} s, "
                f"last {how}{self.last_words()}"
            )
        wait_s = self._backoff.next_s() or 0.0
        self._again_at = now + wait_s
        return Restart(self.name, how, wait_s)

    @property
    def state(self) -> str:
        """ "ready", "starting" or "gone"."""
        if self.process.poll() is not None:
            return "gone"
        return "starting" if self.ready() is None else "ready"

    def ready(self) -> str | None:
        """The detail of its line `ROLE: ready`, such as a URL; None until it is ready."""
        said = self.output.read_bytes()[self._said :].decode(errors="replace")
        for line in said.splitlines(keepends=True):
            role, found, rest = line.partition(": ready")
            if found and " " not in role and line.endswith("\n"):
                return rest.strip()
        return None

    def last_words(self) -> str:
        """For an error message: the last lines of its log, or of its output if the log is empty."""
        if self._folder is None:
            return "; see its message above"
        for file in (self.log, self.output):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            if lines:
                return "; the end of its log:\n  " + "\n  ".join(lines[-TAIL_LINES:])
        return "; its log is empty"

    def _start(self) -> subprocess.Popen[bytes]:
        # one thread each: several processes share few cores, and thread pools would compete for them
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        if self._folder is None:
            return subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, start_new_session=True, env=environment
            )
        self.output, self.log = self._folder / f"{self.name}.out", self._folder / f"{self.name}.log"
        with self.output.open("ab") as output, self.log.open("ab") as log:
            self._said = output.tell()
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
                env=environment,
            )


class Children:
    """A context manager that stops all children at its end, also after an exception."""

    def __init__(self, folder: Path | None = None) -> None:
        """Create `folder` for the children's output; None: they write to the parent's stdout and stderr."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, *arguments: str, restart: bool = True) -> Child:
        """Start `freshet ARGUMENTS` as a child called `name`."""
        child = Child(name, arguments, self._folder, restart)
        self._children.append(child)
        return child

    def watch(self) -> list[Restart]:
        """Restart the children that have crashed, and return the crashes.

        Raises:
            RoleError: one cannot run, keeps crashing, or may not be restarted.
        """
        return [restart for child in self._children if (restart := child.watch())]

    def states(self) -> list[tuple[str, str]]:
        """Each child's name and whether it is "ready", "starting" or "gone"."""
        return [(child.name, child.state) for child in self._children]

    def stop(self) -> None:
        """Send SIGTERM to all in order of their start; kill those that run for longer than `STOP_S_MAX`."""
        running = [child.process for child in self._children if child.process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_S_MAX
        for process in running:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

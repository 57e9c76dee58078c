"""Roles as child processes: started together, watched, and all gone when the one who started them is.

Each child is a session of its own, so that Ctrl-C reaches the parent alone, which then stops them in
order; and each watches for its parent (`--with-parent`), so that even a parent that is killed leaves
nothing running. A child that crashes is started again, a bounded number of times.
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
RESTART_PAUSES = Pauses(first_s=0.25, longest_s=5.0)  # of a child that crashes again and again
EXIT_USER_ERROR = 2


class Restart(NamedTuple):
    """A child has crashed and will be started again."""

    of: str
    how: str  # it ended
    wait_s: float


class Child:
    """One role's process.

    Args:
        name: for messages.
        arguments: of `freshet`.
        folder: takes what it says on stdout (`output`) and stderr (`log`); None: it says it here.
        restart: start it again after a crash; False: a crash is the parent's end too.
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
        """Start it again if it has crashed; says so when it has.

        Raises:
            RoleError: it cannot run as configured, crashes again and again, or may not be restarted.
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
        """What it said when it was ready ("" for nothing more than that), None until then."""
        said = self.output.read_bytes()[self._said :].decode(errors="replace")
        for line in said.splitlines(keepends=True):
            role, found, rest = line.partition(": ready")
            if found and role.isalpha() and line.endswith("\n"):
                return rest.strip()
        return None

    def last_words(self) -> str:
        """What to add to a message: the last lines of its log, or of its output if there is none."""
        if self._folder is None:
            return "; its own message is above"
        for file in (self.log, self.output):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            if lines:
                return "; its last words:\n  " + "\n  ".join(lines[-TAIL_LINES:])
        return "; it said nothing"

    def _start(self) -> subprocess.Popen[bytes]:
        # one thread each: several processes share few cores, and pools of threads would fight for them
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
    """A context manager: whatever ends the `with`, no child outlives it."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` takes what the children say, and is made if need be; None: they say it here."""
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
        """Start again what has crashed, and say what it was.

        Raises:
            RoleError: one cannot run, crashes again and again, or may not be restarted.
        """
        return [restart for child in self._children if (restart := child.watch())]

    def states(self) -> list[tuple[str, str]]:
        """Each child's name and whether it is "ready", "starting" or "gone"."""
        return [(child.name, child.state) for child in self._children]

    def stop(self) -> None:
        """Ask all to stop, the first one first, so that those behind it take what it sends; kill the slow."""
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

"""Roles as child processes: started together, watched, and all gone when the one who started them is.

Each child is a session of its own, so that Ctrl-C reaches the parent alone, which then stops them in
order; and each watches for its parent (`--with-parent`), so that even a parent that is killed leaves
nothing running.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from freshet.errors import RoleError

STOP_S_MAX = 8.0
TAIL_LINES = 6


class Child:
    """One running role; what it says is in `output` (stdout) and `log` (stderr)."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        self.name = name
        self.output, self.log = folder / f"{name}.out", folder / f"{name}.log"
        command = [sys.executable, "-m", "freshet", *arguments, "--with-parent", str(os.getpid())]
        # one thread each: several processes share few cores, and pools of threads would fight for them
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with self.output.open("wb") as output, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
                env=environment,
            )

    def ready(self) -> str | None:
        """What it said when it was ready ("" for nothing more than that), None until then."""
        for line in self.output.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            role, said, rest = line.partition(": ready")
            if said and role.isalpha() and line.endswith("\n"):
                return rest.strip()
        return None

    def last_words(self) -> str:
        """The last lines of its log, or of its output if there is none."""
        for file in (self.log, self.output):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            if lines:
                return "\n  ".join(lines[-TAIL_LINES:])
        return "(it said nothing)"


class Children:
    """A context manager: whatever ends the `with`, no child outlives it."""

    def __init__(self, folder: Path) -> None:
        """`folder` takes what the children say; it is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, *arguments: str) -> Child:
        """Start `freshet ARGUMENTS` as a child called `name`."""
        child = Child(name, arguments, self.folder)
        self._children.append(child)
        return child

    def check(self) -> None:
        """Check that all of them live.

        Raises:
            RoleError: one has ended; the message has its last words.
        """
        for child in self._children:
            status = child.process.poll()
            if status is not None:
                how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
                raise RoleError(f"{child.name} ended ({how}); its last words:\n  {child.last_words()}")

    def states(self) -> list[tuple[str, str]]:
        """Each child's name and whether it is "ready", "starting" or "gone"."""
        return [
            (
                child.name,
                "gone"
                if child.process.poll() is not None
                else "starting"
                if child.ready() is None
                else "ready",
            )
            for child in self._children
        ]

    def stop(self) -> None:
        """Ask all to stop, last one first; kill those that take too long."""
        running = [child.process for child in reversed(self._children) if child.process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_S_MAX
        for process in running:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

"""`freshet up`: joiner, learner and server as children of one process, started again when they crash.

Children run in sessions of their own, so that Ctrl-C reaches them only through here and they end in
order; each also stops by itself when this process is gone.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from freshet.config import Config
from freshet.errors import RoleError
from freshet.process import Voice
from freshet.roles import open_topics
from freshet.warmup import warm_up

ROLES = ("join", "learn", "serve")
WATCH_EVERY_S = 0.1
STOP_S = 15.0
RESTARTS_MAX = 5
RESTARTS_WINDOW_S = 60.0
EXIT_USER_ERROR = 2


class Child:
    """One role's process. It is started again after a crash, a bounded number of times."""

    def __init__(self, role: str, command: Sequence[str]) -> None:
        self.role = role
        self._command = command
        self._restarts: list[float] = []
        self._again_at = 0.0
        self._process: subprocess.Popen[bytes] | None = self._start()

    def watch(self, voice: Voice) -> None:
        """Start the role again if it has crashed.

        Raises:
            RoleError: it cannot run as configured, or crashes again and again.
        """
        now = time.monotonic()
        if self._process is None:
            if now >= self._again_at:
                self._process = self._start()
            return
        status = self._process.poll()
        if status is None:
            return
        if status == EXIT_USER_ERROR:
            raise RoleError(f"{self.role} cannot run; its own message is above")
        self._restarts = [at for at in self._restarts if now - at < RESTARTS_WINDOW_S] + [now]
        if len(self._restarts) > RESTARTS_MAX:
            raise RoleError(
                f"{self.role} ended {len(self._restarts)} times within {RESTARTS_WINDOW_S:.0f} s, "
                f"last with status {status}; its own messages are above"
            )
        wait_s = min(0.25 * 2 ** (len(self._restarts) - 1), 5.0)
        voice.log("restart", level="warning", of=self.role, status=status, wait_s=wait_s)
        self._process, self._again_at = None, now + wait_s

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def end(self, deadline: float) -> None:
        """Wait for it until `deadline` (monotonic), then kill it."""
        if self._process is None:
            return
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)


def role_command(role: str, config_file: str, overrides: Sequence[str] = ()) -> list[str]:
    """The command line that runs one role as a child of this process."""
    command = [
        sys.executable,
        "-m",
        "freshet",
        role,
        "--config",
        config_file,
        "--with-parent",
        str(os.getpid()),
    ]
    for override in overrides:
        command += ["--set", override]
    return command


def run_up(config: Config, config_file: str, overrides: Sequence[str], stop: threading.Event) -> None:
    """Run all roles until `stop` is set; leaves none running.

    Raises:
        RoleError: a role cannot run, or crashes again and again.
        LogError: the log cannot be opened.
    """
    voice = Voice("up")
    warm_up()
    open_topics(config).close()
    children: list[Child] = []
    try:
        for role in ROLES:
            children.append(Child(role, role_command(role, config_file, overrides)))
        while not stop.wait(WATCH_EVERY_S):
            for child in children:
                child.watch(voice)
    finally:
        # The joiner first, so that those behind it still take what it sends.
        for child in children:
            child.ask_to_stop()
        deadline = time.monotonic() + STOP_S
        for child in children:
            child.end(deadline)
        voice.log("stopped")

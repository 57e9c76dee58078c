"""The process that shards are copies of: it loads all that they need, never starts a thread, and forks.

    python -m freshet.roles.shards.copied FD     reports to file FD how its copies are called and end

A copy has a session, an environment and a command line of its own. The process ends when its stdin ends,
which is when the process that started it does.
"""

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from freshet.kernel_cache import use_writable_copy

IMPORTED = (
    "freshet.cli.main",
    "freshet.config",
    "freshet.exercise",
    "freshet.roles.shards.process",
    "freshet.roles.shards.starter",
    "learner.shards.live.session",
    "stream.log.open",
)
LOOK_EVERY_S = 0.05
READ_BYTES = 1 << 16
NAME_MAX = 15
"""Characters of a process's name that Linux keeps."""


def main(reports: int, run: Callable[[Sequence[str]], int], load: Callable[[], None] | None = None) -> int:
    """Be the template; returns in a copy what `run` of its arguments returns, in the template at its end.

    Args:
        reports: the file to report to.
        load: what is done once, before all copies; None: load what shards need.
    """
    (load or load_all)()
    assert threading.active_count() == 1, f"threads are not copied: {threading.enumerate()}"
    gc.collect()
    gc.freeze()  # collections of copies would write to pages that they share
    while True:
        readable = select.select([0], [], [], LOOK_EVERY_S)[0]
        _report_ends(reports)
        if not readable:
            continue
        orders = os.read(0, READ_BYTES)
        while orders and not orders.endswith(b"\n"):
            orders += os.read(0, READ_BYTES)
        if not orders:
            return 0
        for order in orders.splitlines():
            said = json.loads(order)
            pid = os.fork()
            if pid == 0:
                os.close(reports)
                _become(said["name"], said["environment"])
                return run([*said["arguments"], "--with-parent", str(os.getppid())])
            _write(reports, f"{pid}\n")


def run_freshet(arguments: Sequence[str]) -> int:
    """Run `python -m freshet ARGUMENTS` in this process; ends it."""
    sys.argv = ["freshet", *arguments]
    runpy.run_module("freshet", run_name="__main__", alter_sys=True)
    return 0


def load_all() -> None:
    """Import what a shard needs, and load the kernels."""
    use_writable_copy()
    for module in IMPORTED:
        import_module(module)
    import_module("learner.shards.gloo").load_torch()
    import_module("freshet.exercise").model()


def _become(name: str, environment: Mapping[str, str]) -> None:
    os.setsid()
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name[:NAME_MAX])
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _report_ends(reports: int) -> None:
    with contextlib.suppress(ChildProcessError):  # there are no copies
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            _write(reports, f"{pid} {os.waitstatus_to_exitcode(status)}\n")


def _write(reports: int, line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # who started it has ended; so does its stdin
        os.write(reports, line.encode())


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), run_freshet))

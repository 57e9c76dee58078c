"""The process that shards are copies of: it loads all that they need, never starts a thread, and forks.

    python -m freshet.roles.shards.copied FD     takes connections of the listening socket FD

Who asks for a copy sends files and a line of JSON, is told the copy's process id, and at its end its exit
status. Each copy has a *keeper*: a process that waits for the end of the copy and of the connection, and
kills the copy when who asked for it is gone. So copies end with their asker, and live on without
this process.
"""

import contextlib
import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from freshet.kernel_cache import use_writable_copy

IMPORTED = (
    "freshet.cli.main",
    "freshet.config",
    "freshet.exercise",
    "freshet.roles.roles",
    "freshet.roles.shards.process",
    "freshet.roles.shards.starter",
    "learner.shards.live.session",
    "stream.log.open",
)
KEPT_S = 60.0
"""The template ends when it has had no copy for so long: whoever starts shards was killed, and does not come
back."""

ORDER_BYTES_MAX = 1 << 20
FILES_MAX = 8
NAME_MAX = 15
"""Characters of a process's name that Linux keeps."""

_PR_SET_PDEATHSIG = 1
_PEER = struct.Struct("3i")  # process, user and group at the other end of a socket


class CopyOrder(NamedTuple):
    """What a copy is asked to be."""

    files: list[int]
    said: dict[str, Any]


def main(listening: int, run: Callable[[Sequence[str]], int], load: Callable[[], None] | None = None) -> int:
    """Be the template; returns in a copy what `run` of its arguments returns, in the template at its end.

    Args:
        listening: the socket at which it is asked for copies.
        load: what is done once, before all copies; None: load what shards need.
    """
    (load or load_all)()
    freeze()
    with Path(os.devnull).open("r+b") as nothing:
        for number in (1, 2):  # or who reads the output of who started it would wait for this process too
            os.dup2(nothing.fileno(), number)
    with socket.socket(fileno=listening) as asked_at:
        asked = serve(asked_at, kept_s=KEPT_S)
    if asked is None:
        return 0
    _become(asked.files, asked.said["name"], asked.said["folder"], asked.said["environment"])
    return run(asked.said["arguments"])


def freeze() -> None:
    """Make this process ready to be copied."""
    assert threading.active_count() == 1, f"threads are not copied: {threading.enumerate()}"
    gc.collect()
    gc.freeze()  # collections of copies would write to pages that they share


def serve(listening: socket.socket, tie: int = -1, kept_s: float | None = None) -> CopyOrder | None:
    """Make the copies that are asked for.

    Args:
        tie: a file; when it ends, so does this.
        kept_s: the same, after so many seconds in which there was no copy; None: any number.

    Returns:
        In a copy what it is to be, in the template None at its end.
    """
    keepers: dict[int, int] = {}  # their processes, by a file that tells of their end
    while True:
        watched = [listening.fileno(), *keepers, *([tie] if tie >= 0 else [])]
        ready = select.select(watched, [], [], None if keepers else kept_s)[0]
        if not ready or tie in ready:
            return None
        for ended in keepers.keys() & set(ready):
            os.waitpid(keepers.pop(ended), 0)
            os.close(ended)
        if listening.fileno() not in ready:
            continue
        asker, _ = listening.accept()
        with asker:
            asked = _read(asker) if is_own(asker) else None
            if asked is None:
                continue
            if asked.said.get("end"):
                return None
            keeper = os.fork()
            if keeper == 0:
                listening.close()
                for ended in keepers:
                    os.close(ended)
                return _keep(asker, asked)
        for number in asked.files:
            os.close(number)
        keepers[os.pidfd_open(keeper)] = keeper


def is_own(connection: socket.socket) -> bool:
    """Whether a process of this user is at the other end: anybody may connect to these sockets."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return bool(_PEER.unpack(peer)[1] == os.geteuid())


def _read(asker: socket.socket) -> CopyOrder | None:
    """An asker's order; None: it is gone."""
    files: list[int] = []
    with contextlib.suppress(OSError):
        data, files, _, _ = socket.recv_fds(asker, ORDER_BYTES_MAX, FILES_MAX)
        while data and not data.endswith(b"\n") and (more := asker.recv(ORDER_BYTES_MAX)):
            data += more
        if data.endswith(b"\n"):
            return CopyOrder(files, json.loads(data))
    for number in files:
        os.close(number)
    return None


def _keep(asker: socket.socket, asked: CopyOrder) -> CopyOrder:
    """Make a copy and be its keeper until it ends; returns in the copy alone."""
    keeper = os.getpid()
    copy = os.fork()
    if copy == 0:
        asker.close()
        end_with(keeper)
        return asked
    for number in (0, 1, 2, *asked.files):  # or who reads the copy's output would wait for its keeper too
        os.close(number)
    ended = os.pidfd_open(copy)
    with contextlib.suppress(OSError):
        asker.sendall(b"%d\n" % copy)
    if ended not in select.select([ended, asker.fileno()], [], [])[0]:  # the asker is gone
        os.kill(copy, signal.SIGKILL)
    _, status = os.waitpid(copy, 0)
    with contextlib.suppress(OSError):
        asker.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def end_with(parent: int) -> None:
    """Have Linux kill this process when its parent, a process of one thread, ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it has just ended
        os._exit(0)


def run_freshet(arguments: Sequence[str]) -> int:
    """Run `python -m freshet ARGUMENTS` in this process; ends it."""
    sys.argv = ["freshet", *arguments]
    runpy.run_module("freshet", run_name="__main__", alter_sys=True)
    return 0


def load_all() -> None:
    """Import what a shard needs, and whoever starts shards, and load the kernels."""
    use_writable_copy()
    for module in IMPORTED:
        import_module(module)
    import_module("learner.shards.gloo").load_torch()
    import_module("freshet.exercise").model()
    import_module("freshet.warmup").marker_path()  # it reads all sources, once


def _become(files: Sequence[int], name: str, folder: str, environment: Mapping[str, str]) -> None:
    """Take a name, a folder, variables and the first two files, as stdout and stderr; others stay open."""
    os.setsid()
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name[:NAME_MAX])
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, file in zip((1, 2), files, strict=False):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), run_freshet))

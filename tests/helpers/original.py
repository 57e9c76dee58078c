"""A process that has imported Freshet and loaded its kernels, and becomes `freshet` in a copy of itself.

`copies.py` asks it for copies over a socket, whose abstract name is in argv: the three files of a copy,
then a line of JSON. It answers with the copy's process id, and at the copy's end with its exit status. A copy
is killed when its asker closes the connection. The original ends when nobody holds its stdin open any more,
and then removes the folder in argv.
"""

import contextlib
import fcntl
import gc
import io
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import threading
from importlib import import_module

import nested

IMPORTED = (
    "freshet.cli.main",
    "freshet.config",
    "freshet.decide.compare",
    "freshet.decide.evaluate",
    "freshet.decide.sweep",
    "freshet.init.command",
    "freshet.replay.replay",
    "freshet.replay.train",
    "freshet.roles.opening",
    "freshet.roles.roles",
    "freshet.roles.up",
    "freshet.tools.check",
    "freshet.tools.export",
    "freshet.tools.inspect",
    "freshet.tools.produce",
    "freshet.warm.command",
    "stream.log.open",
)
REQUEST_BYTES_MAX = 1 << 20
PARENTS = ("demo", "sweep", "up")
"""Commands that start others."""


def main(name: str, folder: str) -> None:
    """Wait for askers until stdin ends."""
    for module in IMPORTED:
        import_module(module)
    from freshet import exercise

    exercise.everything()
    assert threading.active_count() == 1, f"threads are not copied: {threading.enumerate()}"
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{name}")
        listening.listen(64)
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select([listening, sys.stdin], [], [])
            if sys.stdin in readable:
                with open(__file__) as lock:  # noqa: PTH123
                    fcntl.flock(lock, fcntl.LOCK_EX)  # so that nobody begins to use it meanwhile
                    if sys.stdin in select.select([sys.stdin], [], [], 0.0)[0]:
                        shutil.rmtree(folder)
                        listening.close()
                        return
                continue
            asker, _ = listening.accept()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:  # keepers that have ended
                    pass
            with asker:
                if os.fork() == 0:
                    listening.close()
                    _keep(asker)
                    return  # the copy, which has run


def _keep(asker: socket.socket) -> None:
    """Make the copy asked for, and tell its asker how it ends; returns in the copy alone."""
    data, files, _, _ = socket.recv_fds(asker, REQUEST_BYTES_MAX, 3)
    while not data.endswith(b"\n"):
        data += asker.recv(REQUEST_BYTES_MAX)
    copy = os.fork()
    if copy == 0:
        asker.close()
        _become(files, **json.loads(data))
        return
    for number in (0, 1, 2, *files):  # or who reads the copy's output would wait for this process too
        os.close(number)
    asker.sendall(b"%d\n" % copy)
    ended = os.pidfd_open(copy)
    readable, _, _ = select.select([ended, asker], [], [])
    if ended not in readable:  # the asker is gone
        os.kill(copy, signal.SIGKILL)
    _, status = os.waitpid(copy, 0)
    with contextlib.suppress(OSError):
        asker.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(
    files: list[int],
    program: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    session: bool,
) -> None:
    """Run `python -m freshet ARGUMENTS` here, or `python PROGRAM ARGUMENTS`."""
    if session:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    if program == "freshet" and (arguments[0] in PARENTS or "--shards" in arguments):
        nested.install(_become)
    # new ones: a terminal is written to line by line, and a pipe is not
    sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False))  # noqa: SIM115
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(open(number, "wb", closefd=False), line_buffering=number == 2 or os.isatty(number))  # noqa: SIM115
        for number in (1, 2)
    )
    sys.argv = [program, *arguments]
    if program == "freshet":
        sys.path[:0] = [folder]  # as -m does
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.path[:0] = [os.path.dirname(program)]  # noqa: PTH120
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

"""A process that has imported Freshet and loaded its kernels, and becomes `freshet` in a copy of itself.

`copies.py` asks it for copies over a socket, whose descriptor is in argv, as shards are made
(`freshet.roles.shards.copied`), with three files. The original ends when nobody holds its stdin open any
more, and then removes the folder in argv.
"""

import fcntl
import io
import os
import runpy
import select
import shutil
import signal
import socket
import sys
from importlib import import_module

import nested

from freshet.roles.shards.copied import freeze, serve

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
PARENTS = ("demo", "sweep", "up")
"""Commands that start others."""


def main(descriptor: int, folder: str) -> None:
    """Wait for askers until stdin ends."""
    for module in IMPORTED:
        import_module(module)
    from freshet import exercise

    exercise.everything()
    freeze()
    with socket.socket(fileno=descriptor) as listening:
        while (asked := serve(listening, tie=0)) is None:
            with open(__file__) as lock:  # noqa: PTH123
                fcntl.flock(lock, fcntl.LOCK_EX)  # so that nobody begins to use it meanwhile
                if select.select([0], [], [], 0.0)[0]:
                    shutil.rmtree(folder)
                    listening.close()  # another may take the name as soon as the lock is free
                    return
    _become(asked.files, **asked.said)


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
    if program == "freshet" and arguments[0] in PARENTS:
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
    main(int(sys.argv[1]), sys.argv[2])

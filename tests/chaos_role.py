"""A role of Freshet that may kill itself at a named point: what `tests/chaos.py` starts.

    python tests/chaos_role.py POINT COUNT ROLE ARGUMENTS...

The points are put around Freshet's own functions from outside, here, so that Freshet itself knows
nothing of them. POINT "none" runs the role as it is. The process dies of SIGKILL when it comes to the
point for the COUNT-th time.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from freshet.cli import main
from stream.runner import Runner
from stream.state import RoleState

INSIDE_S_MAX = 0.002
"""How far into a commit's write it may die; most take less."""


def die() -> None:
    """As abruptly as a process can."""
    os.kill(os.getpid(), signal.SIGKILL)


class Countdown:
    """True at the `count`-th call."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def arm(owner: Any, name: str, count: int, around: Callable[[Callable[[], Any]], Any]) -> None:
    """Have `owner.name` called through `around` at its `count`-th call."""
    real = getattr(owner, name)
    now = Countdown(count)

    def wrapped(*args: Any, **more: Any) -> Any:
        if now():
            return around(lambda: real(*args, **more))
        return real(*args, **more)

    setattr(owner, name, wrapped)


def before(call: Callable[[], Any]) -> Any:
    die()
    return call()


def after(call: Callable[[], Any]) -> Any:
    call()
    die()


def inside(call: Callable[[], Any]) -> Any:
    """While it runs: at a moment that differs from time to time, at its end at the latest."""
    wait_s = time.monotonic_ns() % 997 / 997 * INSIDE_S_MAX
    threading.Thread(target=lambda: (time.sleep(wait_s), die()), daemon=True).start()
    call()
    time.sleep(INSIDE_S_MAX)
    die()


POINTS: dict[str, tuple[Any, str, Callable[[Callable[[], Any]], Any]]] = {
    "before-checkpoint": (RoleState, "commit", before),
    "inside-checkpoint": (RoleState, "commit", inside),
    "between-checkpoint-and-publish": (RoleState, "commit", after),
    "inside-publish": (Runner, "_append", inside),
    "between-publish-and-note": (RoleState, "mark_sent", before),
}


if __name__ == "__main__":
    point, count, *arguments = sys.argv[1:]
    if point != "none":
        target, attribute, how = POINTS[point]
        arm(target, attribute, int(count), how)
    sys.exit(main(arguments))

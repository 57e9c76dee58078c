"""A role of Freshet that may kill itself at a named point: what `tests/chaos/chaos.py` starts.

    python tests/chaos/chaos_role.py POINT COUNT ROLE ARGUMENTS...

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

from freshet.cli.main import main
from learner.role.succession import Session
from stream.group.membership import Member
from stream.join.assignment import Shares
from stream.join.joiner import Joiner
from stream.run.runner import Runner
from stream.state.role_state import RoleState

INSIDE_S_MAX = 0.002
"""How far into a commit's write it may die; most take less."""

Call = Callable[[], Any]


def die() -> None:
    """As abruptly as a process can."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(owner: Any, name: str, count: int, around: Callable[[Call], Any]) -> None:
    """Have `owner.name` called through `around` at its `count`-th call."""
    real = getattr(owner, name)
    left = count

    def wrapped(*args: Any, **more: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            return around(lambda: real(*args, **more))
        return real(*args, **more)

    setattr(owner, name, wrapped)


def before(call: Call) -> Any:
    die()
    return call()


def after(call: Call) -> Any:
    call()
    die()


def inside(call: Call) -> Any:
    """While it runs: at a moment that differs from time to time, at its end at the latest."""
    wait_s = time.monotonic_ns() % 997 / 997 * INSIDE_S_MAX

    def soon() -> None:
        time.sleep(wait_s)
        die()

    threading.Thread(target=soon, daemon=True).start()
    call()
    time.sleep(INSIDE_S_MAX)
    die()


COMMITS: dict[str, tuple[Any, str, Callable[[Call], Any]]] = {
    "before-checkpoint": (RoleState, "commit", before),
    "inside-checkpoint": (RoleState, "commit", inside),
    "between-checkpoint-and-publish": (RoleState, "commit", after),
    "inside-publish": (Runner, "send_block", inside),
    "between-publish-and-note": (RoleState, "mark_sent", before),
}
JOINS: dict[str, tuple[Any, str, Callable[[Call], Any]]] = {
    "before-taking-up": (Shares, "acquire", before),
    "inside-taking-up": (Shares, "acquire", inside),
    "after-taking-up": (Shares, "acquire", after),
    "inside-beginning-anew": (Joiner, "begin_at", inside),
}
LEARNS: dict[str, tuple[Any, str, Callable[[Call], Any]]] = {
    "between-claim-and-term": (Member, "claim", after),
    "inside-beginning-a-term": (Session, "take_over", inside),
    "after-beginning-a-term": (Session, "take_over", after),
    "inside-snapshot": (RoleState, "copy_to", inside),
}
POINTS = {**COMMITS, **JOINS, **LEARNS}


if __name__ == "__main__":
    point, times, *arguments = sys.argv[1:]
    if point != "none":
        target, attribute, how = POINTS[point]
        arm(target, attribute, int(times), how)
    sys.exit(main(arguments))

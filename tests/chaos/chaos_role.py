"""A role of Freshet that may kill itself at a named point: what `tests/chaos/chaos.py` starts.

    python tests/chaos/chaos_role.py POINT COUNT ROLE ARGUMENTS...
    python tests/chaos/chaos_role.py shards 0 learn --shards N ARGUMENTS...

The points are put around Freshet's own functions from outside, here, so that Freshet itself knows
nothing of them. POINT "none" runs the role as it is. The process dies of SIGKILL when it comes to the
point for the COUNT-th time. POINT "shards" starts shards each of which looks, when it starts, into a file
that may name its rank, a point and how often it comes there.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from freshet.cli.main import main
from freshet.roles.shards import copied, template
from learner.role.session import Session
from learner.shards.live.kept import KeptShard
from stream.group.membership import Member
from stream.join.assignment import Shares
from stream.join.joiner import Joiner
from stream.run.runner import Runner
from stream.state.disk import RocksDisk
from stream.state.role_state import RoleState

INSIDE_S_MAX = 0.002
"""How far into a commit's write it may die; most take less."""

PLAN = Path("shard-death")  # see chaos_shards.PLAN

Call = Callable[[], Any]


dies_by_plan = False


def die() -> None:
    """As abruptly as a process can."""
    if dies_by_plan:
        PLAN.write_text("")
    os.kill(os.getpid(), signal.SIGKILL)


def arm(owner: Any, name: str, count: int, around: Callable[[Call], Any]) -> None:
    """Have `owner.name` called through `around` at its `count`-th call; the owner may be a module's name."""
    owner = import_module(owner) if isinstance(owner, str) else owner
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


def stopped(call: Call) -> Any:
    """It goes on when somebody continues the process."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return call()


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
SHARDS: dict[str, tuple[Any, str, Callable[[Call], Any]]] = {
    "before-all-have-met": (KeptShard, "equal_everywhere", before),
    "before-an-update-counts": (KeptShard, "committed", before),
    "after-an-update-counts": (KeptShard, "committed", after),
}
RESHARDS: dict[str, tuple[Any, str, Callable[[Call], Any]]] = {
    "inside-writing-new-states": (RoleState, "commit", inside),
    "before-moving-new-states": (RocksDisk, "move", before),
    "after-moving-new-states": (RocksDisk, "move", after),
    "inside-removing-states": (RocksDisk, "remove", inside),
}
STOPS: dict[str, tuple[Any, str, Callable[[Call], Any]]] = {
    # an exchange calls it twice: for the lengths of messages, and for these
    "stops-amid-an-exchange": ("torch.distributed", "all_to_all_single", stopped),
}
POINTS = {**COMMITS, **JOINS, **LEARNS, **SHARDS, **RESHARDS, **STOPS}


class StartedTemplate(subprocess.Popen[bytes]):
    """The process that shards are copies of, as this script instead."""

    def __init__(self, command: Sequence[str], **more: Any) -> None:
        if command[1:3] == ["-m", template.MODULE]:
            command = [command[0], __file__, "template", "0", *command[3:]]
        super().__init__(command, **more)


def planned(arguments: Sequence[str]) -> tuple[str, str]:
    """The point and count at which the shard of these arguments dies."""
    if "--shard" not in arguments:  # whoever starts them, again
        return "shards", "0"
    rank = arguments[arguments.index("--shard") + 1].partition("/")[0]
    shard, *death = (PLAN.read_text() or "none none 0").split()
    return (death[0], death[1]) if shard == rank else ("none", "0")


def run_planned(arguments: Sequence[str]) -> int:
    """Run a shard that dies as the file says."""
    global dies_by_plan
    dies_by_plan = True
    return run_armed(*planned(arguments), arguments)


def run_armed(point: str, times: str, arguments: Sequence[str]) -> int:
    """Run a command that dies when it comes to a point for so many times."""
    if point == "shards":
        subprocess.Popen = StartedTemplate  # type: ignore[misc]
    elif point != "none":
        target, attribute, how = POINTS[point]
        arm(target, attribute, int(times), how)
    return main(arguments)


if __name__ == "__main__":
    point, times, *arguments = sys.argv[1:]
    if point == "template":
        sys.exit(copied.main(int(arguments[0]), run_planned))
    sys.exit(run_armed(point, times, arguments))

"""Watches the other shards from a thread: a shard that waits for one that is gone would wait for long.

Who is gone is said by the group's beats (`stream.group.membership`). An exchange cannot be interrupted. So
this process ends, and begins again at the last common commit.
"""

import re
import threading
from collections.abc import Callable
from types import TracebackType

from ground import FreshetError
from ground.clock import Clock
from ground.threads import HelperThread
from learner.errors import ShardError, ShardLostError
from stream.group.membership import LOOK_EVERY_S, Member

ALONE_TIMEOUTS = 10.0
"""Beats of a busy machine come late, so that who is gone may be noticed some time-outs after its last one."""

_NAME = re.compile(r"shard-(\d+)-of-(\d+)")


def shard_name(rank: int, shards: int) -> str:
    """The name of a shard in its group.

    >>> shard_name(2, 4)
    'shard-2-of-4'
    """
    return f"shard-{rank}-of-{shards}"


def is_shard(name: str) -> bool:
    """Whether a member of a group of learners is a shard, by its name."""
    return _NAME.fullmatch(name) is not None


class ShardWatch:
    """A context manager that is entered while this shard waits for others, which is no stall of its own.

    Args:
        member: of this shard.
        shards: how many there are.
        end: called in the thread when this process has to end: it gets the reason.
    """

    def __init__(
        self, member: Member, shards: int, end: Callable[[FreshetError], None], clock: Clock
    ) -> None:
        self._member = member
        self._shards = shards
        self._names = {shard_name(rank, shards) for rank in range(shards)}
        self._end = end
        self._clock = clock
        self._seen: set[str] = set()
        self._waits = 0
        self._thread = HelperThread("shards", self._run, clock=clock)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._thread.stop()

    def check_alone(self) -> None:
        """Wait until no learner that is none of these shards is alive.

        One that was killed has not left the group. That it is gone shows after some beats of this member: it
        has to live as long, since the next one would begin to count anew.

        Raises:
            ShardLostError: one is still there after `ALONE_TIMEOUTS` of the group's time-outs.
        """
        until_s = self._clock.now_s() + ALONE_TIMEOUTS * self._member.settings.timeout_s
        while (others := self._others()) and self._clock.now_s() < until_s:
            self._member.turn()
            self._clock.sleep(LOOK_EVERY_S)
        if others:
            numbers = {int(found[2]) for name in others if (found := _NAME.fullmatch(name))}
            what = f"shards of {min(numbers)}" if numbers else "learners that are no shards"
            raise ShardLostError(
                f"{what} are alive ({', '.join(others)}), and this is a shard of {self._shards}: one learner "
                "leads a log; stop them, or wait until they are gone"
            )

    def _others(self) -> list[str]:
        return [name for name in self._member.names if name not in self._names]

    def look(self) -> None:
        """Look once.

        Raises:
            ShardLostError: a shard that was there is gone.
            GroupError: another process has this one's name.
        """
        names = set(self._member.names)
        self._seen |= names & self._names
        gone = self._seen - names
        if names and gone:
            raise ShardLostError(
                f"{', '.join(sorted(gone))}: no beat came within {self._member.settings.timeout_s:g} s"
            )
        if self._waits:
            self._member.turn()

    def __enter__(self) -> "ShardWatch":
        self._waits += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waits -= 1
        self._member.turn()

    def _run(self, stop: threading.Event) -> None:
        while not self._clock.wait(stop, LOOK_EVERY_S):
            try:
                self.look()
            except FreshetError as error:
                self._end(error)
                return


def check_partitions(shards: int, partitions: int) -> None:
    """Check that each shard has a partition of topic `examples` to read.

    Raises:
        ShardError: some would have none.
    """
    if shards > partitions:
        raise ShardError(
            f"{shards} shards, but topic examples has {partitions} partitions, and shard r reads the "
            f"partitions p with p % {shards} = r: configure at most {partitions} shards, or more partitions"
        )

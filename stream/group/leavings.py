"""What a state still has of partitions that other members of its group read now."""

import logging
from collections.abc import Collection
from typing import Protocol

from ground.clock import Clock

_log = logging.getLogger("freshet.shares")

KEPT_S = 30.0
"""How long a state keeps a partition that another member has. It hears of no request to forget any more."""


class Keeper(Protocol):
    """Who has partitions in a state."""

    def keeps(self, partition: int) -> bool:
        """Whether the state has anything of a partition."""

    def erase(self, partition: int) -> None:
        """Remove a partition from the state, and soon from its files."""


class Leavings:
    """Erases partitions some time after they were left, or after the start if they were left before it."""

    def __init__(self, keeper: Keeper, clock: Clock) -> None:
        self._keeper = keeper
        self._clock = clock
        self._since_s: dict[int, float] | None = None  # of those in the state; None: not looked yet

    def leave(self, partition: int) -> None:
        """Another member has a partition from now on."""
        if self._since_s is not None:
            self._since_s[partition] = self._clock.now_s()

    def erase_due(self, partitions: int, read: Collection[int]) -> None:
        """Erase what was left `KEPT_S` ago.

        Args:
            partitions: of the topic.
            read: those that this member reads.
        """
        now_s = self._clock.now_s()
        if self._since_s is None:
            self._since_s = {p: now_s for p in range(partitions) if self._keeper.keeps(p)}
        for partition, since_s in list(self._since_s.items()):
            if partition in read:
                del self._since_s[partition]
            elif now_s - since_s >= KEPT_S:
                self._keeper.erase(partition)
                del self._since_s[partition]
                _log.info("erased partition %d, which another process has, from the state", partition)

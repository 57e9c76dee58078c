"""Exponential backoff with jitter, for operations that fail now and may succeed later.

Each pause is shortened at random by up to `JITTER` of its length, so that many clients that lost the same log
at the same moment do not all retry at the same moment.
"""

import math
import threading

import msgspec

from ground.clock import SYSTEM_CLOCK, Clock

JITTER = 0.5  # share of a pause that is random


class Pauses(msgspec.Struct, frozen=True):
    """How long to wait between attempts, in seconds, and when to give up.

    Raises:
        ValueError: the first pause is not over 0, or longer than the longest.
    """

    first_s: float  # doubled for each further attempt
    longest_s: float
    give_up_s: float = math.inf  # after the first attempt; the last one is made about then

    def __post_init__(self) -> None:
        if not (0.0 < self.first_s <= self.longest_s and self.give_up_s >= 0.0):
            raise ValueError(f"{self}: expected 0 < first_s <= longest_s, and give_up_s 0 or more")


class Backoff:
    """The pauses between attempts of one operation.

    >>> from ground.clock import ManualClock
    >>> clock = ManualClock()
    >>> backoff = Backoff(Pauses(1.0, 4.0, give_up_s=9.0), clock)
    >>> tries = 1
    >>> while backoff.sleep():
    ...     tries += 1
    >>> tries >= 4 and clock.now_s() == 1_009.0
    True
    """

    def __init__(self, pauses: Pauses, clock: Clock = SYSTEM_CLOCK) -> None:
        """Start counting: the first attempt is made now."""
        self._pauses = pauses
        self._clock = clock
        self.reset()

    @property
    def failed(self) -> bool:
        """Whether an attempt has failed since the beginning, or since `reset`."""
        return self._failures > 0

    def reset(self) -> None:
        """An attempt succeeded: the next failure is the first one again."""
        self._failures = 0
        self._give_up_at_s = self._clock.now_s() + self._pauses.give_up_s

    def next_s(self) -> float | None:
        """An attempt failed: how long to wait before the next one; None: give up."""
        left_s = self._give_up_at_s - self._clock.now_s()
        if left_s <= 0.0:
            return None
        full_s = self._pauses.longest_s
        if self._failures < 64:  # 2.0 ** 1024 is an error
            full_s = min(full_s, self._pauses.first_s * 2.0**self._failures)
        self._failures += 1
        return min(full_s * (1.0 - JITTER * self._clock.draw()), left_s)

    def sleep(self) -> bool:
        """An attempt failed: wait for the next one; False: give up."""
        pause_s = self.next_s()
        if pause_s is None:
            return False
        self._clock.sleep(pause_s)
        return True

    def wait(self, stop: threading.Event) -> bool:
        """As `sleep`, but return at once when `stop` is set; False: give up, or stop."""
        pause_s = self.next_s()
        return pause_s is not None and not self._clock.wait(stop, pause_s)

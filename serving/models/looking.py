"""The loop of threads that look at the log now and then."""

import logging
import threading
from collections.abc import Callable

from ground.clock import Clock
from ground.retry import Backoff
from serving.replica.replica import AWAY_PAUSES
from stream.errors import LogError

logger = logging.getLogger("freshet.serving")


def keep_looking(
    look: Callable[[], None], every_s: float, stop: threading.Event, clock: Clock, trouble: str
) -> None:
    """Call `look` every so often until `stop` is set; while the log fails, say once what the trouble is."""
    backoff = Backoff(AWAY_PAUSES, clock)
    while not stop.is_set():
        try:
            look()
            backoff.reset()
            clock.wait(stop, every_s)
        except LogError as error:
            if not backoff.failed:
                logger.warning("%s: %s; trying again until it can", trouble, error)
            backoff.wait(stop)

"""Producers whose clock runs ahead: counted by name, logged from time to time."""

import logging

from ground.clock import SYSTEM_CLOCK, Clock

_log = logging.getLogger("freshet.joiner")

NAMES_MAX = 100
LOG_EVERY_S = 10.0
OTHERS = "(others)"
NAMELESS = "(no name)"


class Ahead:
    """Events ahead of the log's clock, by producer. At most `NAMES_MAX` names; the rest count as one."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self.by_producer: dict[str, int] = {}
        self._logged_s = float("-inf")
        self._unlogged = 0

    def counts(self) -> dict[str, int]:
        """Events by producer so far. May be called from any thread."""
        return dict(self.by_producer)

    def note(self, producer: str, ahead_s: float, refused: bool) -> None:
        """Count one event and, at most every `LOG_EVERY_S`, say so in the log."""
        name = producer or NAMELESS
        if name not in self.by_producer and len(self.by_producer) >= NAMES_MAX:
            name = OTHERS
        self.by_producer[name] = self.by_producer.get(name, 0) + 1
        self._unlogged += 1
        now_s = self._clock.now_s()
        if now_s - self._logged_s >= LOG_EVERY_S:
            self._logged_s = now_s
            _log.warning(
                "producer %s sent an event %.1f s ahead of the log's clock, which was %s (%d such events "
                "since the last line like this): set its clock right",
                name,
                ahead_s,
                "refused" if refused else "taken as of now",
                self._unlogged,
            )
            self._unlogged = 0

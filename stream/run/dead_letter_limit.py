"""The share of bad records: a role stops before it drains a stream into dead letters."""

from collections import deque

from stream.errors import DeadLetterFloodError
from stream.log.base import DEAD_LETTERS


class BadShare:
    """The share of bad records over a window of records.

    Kept in the role's state (`saved`, `encode`), so that a restarted role continues to count.

    Args:
        role: its command, for the message.
        section: of the config, that the limits stand in.
        window: records over which the share is taken; no limit applies before there are so many.
        share_max: the role stops when the share is above it.
        saved: the result of `encode`.
    """

    def __init__(self, role: str, section: str, window: int, share_max: float, saved: bytes = b"") -> None:
        self._role = role
        self._section = section
        self._window = window
        self._share_max = share_max
        self._last = deque(saved, maxlen=window)  # 1: bad
        self._bad = sum(self._last)

    def encode(self) -> bytes:
        """One byte for each record of the window."""
        return bytes(self._last)

    def good(self, count: int = 1) -> None:
        """Count good records."""
        if self._bad:
            for _ in range(min(count, self._window)):
                self._push(0)
        else:
            self._last.extend(bytes(min(count, self._window)))

    def bad(self, topic: str, partition: int, offset: int, reason: str) -> None:
        """Count a bad record.

        Raises:
            DeadLetterFloodError: the share of bad records is above the limit.
        """
        self._push(1)
        if len(self._last) == self._window and self._bad > self._share_max * self._window:
            raise DeadLetterFloodError(
                f"topic {topic!r}, partition {partition}, offset {offset}: {self._bad} of the last "
                f"{self._window} records were bad, more than {self._section}.dead_letter_share_max = "
                f"{self._share_max:g} allows, the last one because: {reason}. The role has stopped before it "
                f"drains the stream into topic {DEAD_LETTERS!r}; it has taken nothing since its last commit, "
                "and a restart stops here again. Fix the sender ('freshet dead-letters "
                "list' shows those before). To let what is in the log already pass into the dead letters, "
                f"start it once with: freshet {self._role} --set {self._section}.dead_letter_share_max=1"
            )

    def _push(self, bad: int) -> None:
        if len(self._last) == self._window:
            self._bad -= self._last[0]
        self._last.append(bad)
        self._bad += bad

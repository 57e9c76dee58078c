"""Unusable records of topic `examples`: written to the dead letters, and too many stop the learner."""

from learner.settings import LearnerSettings
from stream.log.base import DEAD_LETTERS, Outgoing, Record
from stream.records.types import DeadLetter, encode
from stream.run.dead_letter_limit import BadShare
from stream.state.role_state import Commit


class DeadLetterWriter:
    """Writes a learner's dead letters, and stops the learner if too many records are unusable.

    Args:
        settings: the learner's; they limit the share of unusable records.
        saved: the result of `encode`.
    """

    def __init__(self, settings: LearnerSettings, saved: bytes = b"") -> None:
        self.count = 0  # written since it was made
        self._share = BadShare(
            "learn", "learner", settings.dead_letter_window, settings.dead_letter_share_max, saved
        )

    def encode(self) -> bytes:
        """The state to save: which of the last records were unusable."""
        return self._share.encode()

    def note_good(self) -> None:
        """Count a usable record."""
        self._share.good()

    def write(self, record: Record, reason: str, commit: Commit) -> None:
        """Write an unusable record to the dead letters.

        Raises:
            DeadLetterFloodError: too many of the last records were unusable.
        """
        self.count += 1
        letter = DeadLetter(
            reason=reason,
            stage="learner",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            original=record.value,
            key=record.key,
        )
        # every learner of the group gives it the same producer and number, so readers drop a repeat
        producer = f"learner-{record.partition}-dead"
        commit.emit(
            DEAD_LETTERS,
            Outgoing(key=b"learner", value=encode(letter), producer=producer, seq=record.offset),
        )
        self._share.bad(record.topic, record.partition, record.offset, reason)

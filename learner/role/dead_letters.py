"""What of topic `examples` cannot be learnt: into the dead letters, and how much of it a learner bears."""

from learner.settings import LearnerSettings
from stream.log.base import DEAD_LETTERS, Outgoing, Record
from stream.records.types import DeadLetter, encode
from stream.run.dead_letter_limit import BadShare
from stream.state.role_state import Commit


class DeadLetterWriter:
    """Writes a learner's dead letters, and stops it where too many records are of no use.

    Args:
        settings: the learner's; they limit the share of useless records.
        saved: what `encode` gave.
    """

    def __init__(self, settings: LearnerSettings, saved: bytes = b"") -> None:
        self.count = 0  # written since it was made
        self._share = BadShare(
            "learn", "learner", settings.dead_letter_window, settings.dead_letter_share_max, saved
        )

    def encode(self) -> bytes:
        """Which of the last records were of no use."""
        return self._share.encode()

    def note_good(self) -> None:
        """Count a record that was of use."""
        self._share.good()

    def bury(self, record: Record, reason: str, commit: Commit) -> None:
        """Put a record that was of no use into the dead letters.

        Raises:
            DeadLetterFloodError: too many of the last records were.
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
        # whichever learner buries it gives it the same name and number, and readers take it once
        producer = f"learner-{record.partition}-dead"
        commit.emit(
            DEAD_LETTERS,
            Outgoing(key=b"learner", value=encode(letter), producer=producer, seq=record.offset),
        )
        self._share.bad(record.topic, record.partition, record.offset, reason)

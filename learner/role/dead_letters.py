"""Unusable records of topic `examples`: written to the dead letters, and too many stop the learner."""

from collections.abc import Mapping, Sequence

from learner.errors import FeatureError
from learner.features.encoder import Encoder
from learner.features.labelled import Labelled
from learner.settings import LearnerSettings
from stream.log.base import DEAD_LETTERS, Outgoing, Record
from stream.records.targets import Targets
from stream.records.types import DeadLetter, Example, encode
from stream.run.dead_letter_limit import BadShare
from stream.state.role_state import Commit


def fitting(
    encoder: Encoder, targets: Targets, examples: Mapping[int, Example], bad: dict[int, str]
) -> Labelled | None:
    """The examples, by offset, that fit the schema, encoded; the reasons of the others go into `bad`."""
    if not examples:
        return None
    try:
        return Labelled.of(encoder, list(examples.values()), targets)
    except FeatureError:  # find the examples that do not fit
        found: list[Example] = []
        for offset, example in examples.items():
            try:
                Labelled.of(encoder, [example], targets)
            except FeatureError as error:
                bad[offset] = str(error)
            else:
                found.append(example)
        return Labelled.of(encoder, found, targets) if found else None


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

    def write(self, records: Sequence[Record], bad: Mapping[int, str], commit: Commit) -> None:
        """Count the records, and write the unusable ones to the dead letters.

        Args:
            records: of one partition, in their order.
            bad: why a record is unusable, by offset.
            commit: gets the dead letters.

        Raises:
            DeadLetterFloodError: too many of the last records were unusable.
        """
        for record in records:
            reason = bad.get(record.offset)
            if reason is None:
                self._share.good()
            else:
                self._write(record, reason, commit)

    def _write(self, record: Record, reason: str, commit: Commit) -> None:
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

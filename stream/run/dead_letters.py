"""Dead letters: list them, and send the original records to their topics again.

Each retry is recorded in topic `dead_letters` itself, in two records: before sending, and when
all are sent. An interrupted retry is finished by the next call, under the same producer name and numbers
as before; so each original takes effect once.
"""

import contextlib
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from stream.errors import DeadLetterError, RecordError
from stream.log.base import DEAD_LETTERS, Log, Outgoing, Record
from stream.records.decoding import Decoder
from stream.records.types import DeadLetter, Retry, encode

RETRY_LETTERS_MAX = 100  # sent again under one name; each may be as large as a record
LETTER_BYTES_MAX = 1 << 30  # a letter holds a whole record, whose size the log has limited already
RETRIES = b"retries"  # the key of their notes


class LetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters are meant; a field that is not given takes all."""

    stage: str = ""  # the role that could not use it
    topic: str = ""  # that it came from
    reason: str = ""  # part of the reason, in any case
    begin_ms: int = 0  # when the dead letter was written, Unix ms, inclusive
    end_ms: int = 1 << 62  # exclusive

    def takes(self, buried_ms: int, letter: DeadLetter) -> bool:
        """Whether a letter is meant."""
        return (
            self.begin_ms <= buried_ms < self.end_ms
            and self.stage in ("", letter.stage)
            and self.topic in ("", letter.topic)
            and self.reason.lower() in letter.reason.lower()
        )


class Found(NamedTuple):
    """One dead letter as found."""

    offset: int  # in topic `dead_letters`: its name
    buried_ms: int  # Unix ms
    letter: DeadLetter
    sent_again: int  # how often


class Listing(NamedTuple):
    """The newest letters that a filter takes, and how many there are in all."""

    letters: list[Found]  # the newest last
    total: int
    by_stage: dict[str, int]


class Retried(NamedTuple):
    """What a retry did."""

    sent: dict[str, int]  # topic -> how many
    before: list[int]  # letters left alone, as they were sent again before
    finished: int  # retries that had broken off and were finished first


class DeadLetters:
    """The dead letters of a log."""

    def __init__(self, log: Log) -> None:
        """Of a log that has topic `dead_letters`."""
        self._log = log
        self._decode = Decoder[DeadLetter | Retry](DeadLetter, Retry, bytes_max=LETTER_BYTES_MAX).decode

    def newest(self, wanted: LetterFilter, limit: int) -> Listing:
        """The newest `limit` letters that a filter takes."""
        newest: deque[tuple[int, int, DeadLetter]] = deque(maxlen=limit)
        by_stage: Counter[str] = Counter()
        sent: Counter[int] = Counter()
        for record, entry in self._entries():
            if isinstance(entry, Retry):
                sent.update(entry.letters if entry.done else ())
            elif wanted.takes(record.ingest_ms, entry):
                newest.append((record.offset, record.ingest_ms, entry))
                by_stage[entry.stage] += 1
        found = [Found(offset, ms, letter, sent[offset]) for offset, ms, letter in newest]
        return Listing(found, sum(by_stage.values()), dict(by_stage))

    def get(self, offset: int) -> Found:
        """One letter.

        Raises:
            DeadLetterError: there is none at this offset.
        """
        sent = sum(
            offset in entry.letters
            for _, entry in self._entries(offset)
            if isinstance(entry, Retry) and entry.done
        )
        record, letter = self._letter(offset)
        return Found(offset, record.ingest_ms, letter, sent)

    def select(self, wanted: LetterFilter) -> list[int]:
        """The offsets of all letters that a filter takes, the oldest first."""
        return [
            record.offset
            for record, entry in self._entries()
            if isinstance(entry, DeadLetter) and wanted.takes(record.ingest_ms, entry)
        ]

    def retry(self, offsets: Sequence[int], again: bool = False) -> Retried:
        """Append the originals of letters to the topics and partitions that they came from.

        Args:
            offsets: of the letters.
            again: send those too that were sent again before.

        Raises:
            DeadLetterError: there is no letter at one of the offsets; nothing was sent.
            LogError: the log fails; call again, and what has begun is finished first.
        """
        offsets = sorted(set(offsets))
        for offset in offsets:
            self._letter(offset)
        notes = self._notes()
        finished = 0
        sent: Counter[str] = Counter()
        done = {note.id for note in notes if note.done}
        for note in notes:
            if note.id not in done:
                done.add(note.id)
                sent += self._send(note, notes)
                finished += 1
        taken = {offset for note in notes for offset in note.letters}
        before = [] if again else [offset for offset in offsets if offset in taken]
        fresh = [offset for offset in offsets if again or offset not in taken]
        for first in range(0, len(fresh), RETRY_LETTERS_MAX):
            retry = Retry(
                id=uuid.uuid4().hex[:16],
                letters=fresh[first : first + RETRY_LETTERS_MAX],
                done=False,
                again=again,
            )
            self._note(retry)
            sent += self._send(retry, self._notes())
        return Retried(dict(sent), before, finished)

    def _send(self, retry: Retry, notes: Sequence[Retry]) -> Counter[str]:
        """Send the records of a noted retry, and note that it is done."""
        owner: dict[
            int, str
        ] = {}  # two retries may have noted the same letter at once: the first one sends it
        for note in notes:
            for offset in note.letters if not note.again else ():
                owner.setdefault(offset, note.id)
        originals: dict[str, list[Outgoing]] = {}
        for seq, offset in enumerate(retry.letters):
            if retry.again or owner.get(offset) == retry.id:
                letter = self._letter(offset)[1]
                originals.setdefault(letter.topic, []).append(
                    Outgoing(letter.key, letter.original, letter.partition, f"retry-{retry.id}", seq)
                )
        for topic, records in originals.items():
            self._log.append(topic, records)
        self._note(msgspec.structs.replace(retry, done=True))
        return Counter({topic: len(records) for topic, records in originals.items()})

    def _note(self, retry: Retry) -> None:
        self._log.append(DEAD_LETTERS, [Outgoing(RETRIES, encode(retry), partition=0)])

    def _notes(self) -> list[Retry]:
        return [entry for _, entry in self._entries() if isinstance(entry, Retry)]

    def _letter(self, offset: int) -> tuple[Record, DeadLetter]:
        found = self._log.read(DEAD_LETTERS, 0, offset, 1) if offset >= 0 else []
        if found and found[0].offset == offset:
            with contextlib.suppress(RecordError):  # not of Freshet's making
                entry = self._decode(found[0].value)
                if isinstance(entry, DeadLetter):
                    return found[0], entry
        first, end = self._log.ends(DEAD_LETTERS)[0]
        raise DeadLetterError(
            f"there is no dead letter at offset {offset} of topic {DEAD_LETTERS!r}, which holds offsets "
            f"{first} to {end - 1}; 'freshet dead-letters list' shows them"
            if end > first
            else f"there is no dead letter at offset {offset}: topic {DEAD_LETTERS!r} is empty"
        )

    def _entries(self, begin: int = 0) -> Iterator[tuple[Record, DeadLetter | Retry]]:
        """Everything in the topic from an offset on."""
        first, end = self._log.ends(DEAD_LETTERS)[0]
        offset = max(begin, first)
        while offset < end:
            records = self._log.read(DEAD_LETTERS, 0, offset)
            if not records:
                return
            for record in records:
                offset = record.offset + 1
                try:
                    yield record, self._decode(record.value)
                except RecordError:
                    continue  # not of Freshet's making

"""The joiner: events in, examples out, and what is of no use into the dead letters.

Each partition is on its own: its clock, its pending requests, its sequence numbers (`Pairing` decides
them). Examples keep the partition of the events they come from.
"""

from collections.abc import Sequence

import msgspec

from stream.bad_share import BadShare
from stream.errors import RecordError
from stream.log import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing, Record
from stream.pairing import JoinCounts, JoinSettings, Origin, Pairing
from stream.records import (
    RECORD_BYTES_MAX,
    Action,
    DeadLetter,
    Decoder,
    Example,
    Impression,
    encode,
)
from stream.state import Commit, RoleState

__all__ = ["JOIN_DEFAULTS", "JoinCounts", "JoinSettings", "Joiner"]

JOIN_DEFAULTS = JoinSettings()

_COUNTS = b"join/counts"
_REENCODED_FROM_BYTES = RECORD_BYTES_MAX // 16  # below, a record stays within the limit whatever its numbers


class _Sent(msgspec.Struct):
    """Per partition: next sequence numbers, and which of the last records were of no use (one byte each)."""

    example_seq: int = 0
    letter_seq: int = 0
    useless: bytes = b""


class _Partition:
    """One partition's pairing and outputs. `commit` is the one being gathered."""

    def __init__(self, joiner: "Joiner", state: RoleState, number: int, commit: Commit) -> None:
        self.number = number
        self.commit = commit
        self._joiner = joiner
        self._key = b"join/sent/" + number.to_bytes(4, "big")
        saved = state.get(self._key)
        self._sent = _Sent() if saved is None else msgspec.msgpack.decode(saved, type=_Sent)
        settings = joiner.settings
        self.share = BadShare(
            "join", "join", settings.dead_letter_window, settings.dead_letter_share_max, self._sent.useless
        )
        self.pairing = Pairing(state, number, joiner.settings, joiner.counts, self._emit, self.bury)

    def bury(self, origin: Origin, reason: str) -> None:
        """Emit a dead letter."""
        self._joiner.counts.dead_letters += 1
        letter = DeadLetter(
            reason=reason,
            stage="joiner",
            topic=self._joiner.topic,
            partition=self.number,
            offset=origin.offset,
            original=origin.value,
            key=origin.key,
        )
        # one key for all of a partition's letters, so that they stay in order
        outgoing = Outgoing(
            key=f"{self._joiner.topic}/{self.number}".encode(),
            value=encode(letter),
            producer=f"joiner-{self.number}-dead",
            seq=self._sent.letter_seq,
        )
        self._sent.letter_seq += 1
        self.commit.emit(DEAD_LETTERS, outgoing)

    def flush(self) -> None:
        """Write what has changed into the commit."""
        self.pairing.flush(self.commit)
        self._sent.useless = self.share.encode()
        self.commit.put(self._key, msgspec.msgpack.encode(self._sent))

    def _emit(self, example: Example) -> None:
        outgoing = Outgoing(
            key=example.request_id.encode(),
            value=encode(example),
            partition=self.number,
            producer=f"joiner-{self.number}",
            seq=self._sent.example_seq,
        )
        self._sent.example_seq += 1
        self.commit.emit(EXAMPLES, outgoing)


class Joiner:
    """A `Handler` for topic `events`. Topic `examples` needs as many partitions; `dead_letters` any."""

    def __init__(self, state: RoleState, settings: JoinSettings = JOIN_DEFAULTS, topic: str = EVENTS) -> None:
        """A joiner that goes on from `state`; `topic` is the one it is run on."""
        self.settings = settings
        self.topic = topic
        saved = state.get(_COUNTS)
        self.counts = JoinCounts() if saved is None else msgspec.msgpack.decode(saved, type=JoinCounts)
        self._state = state
        self._partitions: dict[int, _Partition] = {}
        self._touched: set[int] = set()
        self._decode = Decoder(Impression, Action).decode

    def handle(self, records: Sequence[Record], commit: Commit) -> None:
        """Pair the records' events; emits examples and dead letters.

        Raises:
            DeadLetterFloodError: too many records are of no use.
        """
        for record in records:
            partition = self._partition(record.partition, commit)
            origin = Origin(record.offset, record.key, record.value)
            try:
                partition.pairing.take(self._decode_event(record), origin)
            except RecordError as error:
                partition.bury(origin, str(error))
                partition.share.bad(record.topic, record.partition, record.offset, str(error))
            else:
                partition.share.good()

    def flush(self, commit: Commit) -> None:
        """Write what has changed into the commit."""
        for number in sorted(self._touched):
            self._partition(number, commit).flush()
        self._touched.clear()
        commit.put(_COUNTS, msgspec.msgpack.encode(self.counts))

    def clock(self, partition: int) -> float:
        """The event time of a partition in Unix seconds, 0 before its first event."""
        found = self._partitions.get(partition)
        return 0.0 if found is None else found.pairing.clock

    @property
    def undecided(self) -> int:
        """Requests not decided yet, over the partitions met since the start."""
        return sum(partition.pairing.undecided for partition in self._partitions.values())

    def _partition(self, number: int, commit: Commit) -> _Partition:
        partition = self._partitions.get(number)
        if partition is None:
            partition = self._partitions[number] = _Partition(self, self._state, number, commit)
        partition.commit = commit
        self._touched.add(number)
        return partition

    def _decode_event(self, record: Record) -> Impression | Action:
        event: Impression | Action = self._decode(record.value)
        ahead_s = event.time - record.ingest_ms / 1000.0
        # ingest time 0: a log that does not say
        if record.ingest_ms > 0 and ahead_s > self.settings.max_ahead_s:
            raise RecordError(
                f"time is {event.time:.3f}, {ahead_s:,.0f} s ahead of when the log took the record; "
                f"max_ahead_s = {self.settings.max_ahead_s:g}"
            )
        if isinstance(event, Impression) and len(record.value) > _REENCODED_FROM_BYTES:
            size = len(encode(event)) + _REENCODED_FROM_BYTES
            if size > RECORD_BYTES_MAX:
                raise RecordError(
                    f"the impression's example would have {size:,} bytes, more than {RECORD_BYTES_MAX:,}"
                )
        return event

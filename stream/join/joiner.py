"""The joiner: events in, examples out; records that cannot be used become dead letters.

Each partition is on its own: its clock, its pending requests, its sequence numbers (`Pairing` decides
them). Examples keep the partition of the events they come from.

An output's sequence number consists of the offset of the record that caused it and the output's index
among that record's outputs. So it depends on the partition's records alone: every joiner of a partition,
from any state, sends the same outputs with the same numbers, and readers take each once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from stream.errors import LogError, RecordError
from stream.join.clock_skew import Ahead
from stream.join.pairing import ENTRIES, PROGRESS, REACH_WINDOWS, Decided, Origin, Outputs, Pairing
from stream.join.settings import COUNTS_KEY, JoinCounts, JoinSettings
from stream.limits import OFFSET_END, OUTPUT_BITS, OUTPUTS_MAX, RECORD_BYTES_MAX, SPLICED_BYTES_MAX
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing, Record
from stream.records.decoding import is_batch, split_batch
from stream.records.fast_decoding import EventDecoder
from stream.records.forgetting import Entity
from stream.records.types import Action, DeadLetter, Forget, Impression, Tick, encode
from stream.run.dead_letter_limit import BadShare
from stream.run.runner import Handler
from stream.state.repeats import producers_prefix
from stream.state.role_state import Commit, RoleState

__all__ = ["JOIN_DEFAULTS", "JoinCounts", "JoinSettings", "Joiner"]

JOIN_DEFAULTS = JoinSettings()

_SENT = b"join/sent/"
MARKS_MAX = 32  # in the reach of a record
CLEAR_KEYS = 10_000  # deleted per commit


class ResumePoint(msgspec.Struct, frozen=True, array_like=True):
    """Records before `offset` have no influence once the clock has reached `clock` plus the reach."""

    clock: float
    offset: int
    taken_s: float = 0.0  # when the log took the record before, as far as known


class _Sent(msgspec.Struct):
    """Per partition: points to resume from, and which of the last records were bad."""

    marks: list[ResumePoint] = []
    counted_from: int = 0  # records before it were counted by another joiner
    useless: bytes = b""


class _Partition:
    """One partition's pairing and outputs. `commit` is the one being gathered."""

    def __init__(self, joiner: Joiner, state: RoleState, number: int, commit: Commit) -> None:
        self.number = number
        self._producer = producer_of(number)
        self.commit = commit
        self._joiner = joiner
        self._key = _SENT + number.to_bytes(4, "big")
        saved = state.get(self._key)
        self._sent = _Sent() if saved is None else msgspec.msgpack.decode(saved, type=_Sent)
        settings = joiner.settings
        self._share = BadShare(
            "join", "join", settings.dead_letter_window, settings.dead_letter_share_max, self._sent.useless
        )
        self._offset = -1  # of the record that is being taken
        self._examples = self._letters = 0  # outputs of the current record so far
        self._reach_s = REACH_WINDOWS * settings.window_s
        marks = self._sent.marks
        self._next_mark_s = marks[-1].clock + self._reach_s / MARKS_MAX if marks else float("-inf")
        self._elsewhere = JoinCounts()
        self.quiet_until = 0
        self.pairing = Pairing(state, number, settings, joiner.counts)

    def begin(self, offset: int) -> None:
        """The record at `offset` is taken next.

        Raises:
            LogError: no number is left for its outputs.
        """
        if offset == self._offset:
            return
        if offset >= OFFSET_END:
            raise LogError(
                f"topic {self._joiner.topic!r}, partition {self.number}: offset {offset} is beyond "
                f"{OFFSET_END - 1:,}, the last one that a joiner can number outputs of; use a new topic"
            )
        self._offset = offset
        self._examples = self._letters = 0
        counts = self._joiner.counts if offset >= self._sent.counted_from else self._elsewhere
        self.pairing.counts = counts
        clock = self.pairing.clock
        if clock >= self._next_mark_s and self.pairing.steady:
            marks = self._sent.marks
            marks.append(ResumePoint(clock, offset, self.pairing.taken_s))
            while len(marks) > 1 and marks[1].clock + self._reach_s <= clock:
                del marks[0]
            self._next_mark_s = clock + self._reach_s / MARKS_MAX

    def mark(self) -> ResumePoint | None:
        """The newest mark whose reach is over; None: it has been taken up too recently."""
        first = self._sent.marks[:1]
        return first[0] if first and first[0].clock + self._reach_s <= self.pairing.clock else None

    def start(self, mark: ResumePoint) -> None:
        """Begin, with an empty state, at a mark."""
        self.pairing.begin(mark.clock, mark.taken_s)
        self._sent.marks = [mark]
        self._next_mark_s = mark.clock + self._reach_s / MARKS_MAX

    def keep_quiet(self, until: int) -> None:
        """Send nothing and count nothing until the record at an offset."""
        self.quiet_until = until
        self._sent.counted_from = max(self._sent.counted_from, until)

    def note_good(self, count: int) -> None:
        """Count good events, except those that another joiner has counted."""
        if count and self._offset >= self.quiet_until:
            self._share.good(count)

    def note_bad(self, record: Record, why: str) -> None:
        """Count a bad event, unless another joiner has counted it.

        Raises:
            DeadLetterFloodError: too many of the last events are bad.
        """
        if record.offset >= self.quiet_until:
            self._share.bad(record.topic, record.partition, record.offset, why)

    def send(self, outputs: Outputs) -> str:
        """Emit the outputs of an event; returns why the event itself cannot be used, or ""."""
        refused = ""
        for output in outputs:
            if isinstance(output, Decided):
                self._send(output.request_id.encode(), output.example)
            elif output.origin is not None:
                self.bury(output.origin, output.reason)
            else:
                refused = output.reason
        return refused

    def refuse(self, record: Record, event: bytes, why: str) -> None:
        """Emit a dead letter for an event of a record, and count it.

        Raises:
            DeadLetterFloodError: too many of the last events are bad.
        """
        self.bury(Origin(record.offset, record.key, event), why)
        self.note_bad(record, why)

    def bury(self, origin: Origin, reason: str) -> None:
        """Emit a dead letter."""
        self.pairing.counts.dead_letters += 1
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
            seq=output_seq(self._offset, self._letters),
        )
        self._letters += 1
        if self._offset >= self.quiet_until:
            self.commit.emit(DEAD_LETTERS, outgoing)

    def forget(self, forget: Forget) -> None:
        """Remove some ids from pending requests, and pass the request on at its offset."""
        self.pairing.forget(Entity(forget.entity))
        self.commit.purge = True
        self._send(b"forget", encode(forget))

    def flush(self) -> None:
        """Write what has changed into the commit."""
        self.pairing.flush(self.commit)
        self._sent.useless = self._share.encode()
        self.commit.put(self._key, msgspec.msgpack.encode(self._sent))

    def _send(self, key: bytes, value: bytes) -> None:
        index = self._examples
        self._examples = index + 1
        if self._offset >= self.quiet_until:
            seq = output_seq(self._offset, index)
            self.commit.emit(EXAMPLES, Outgoing(key, value, self.number, self._producer, seq))


def producer_of(partition: int) -> str:
    """The name under which every joiner of a partition sends its examples."""
    return f"joiner-{partition}"


def output_seq(offset: int, index: int) -> int:
    """The sequence number of the record at `offset`'s output number `index`."""
    assert 0 <= index < OUTPUTS_MAX, "the limits of pending requests keep a record's outputs below this"
    return offset << OUTPUT_BITS | index


def offset_of(seq: int) -> int:
    """The offset of the record that caused an output, -1 for an output without a number."""
    return seq >> OUTPUT_BITS


class Joiner(Handler):
    """A `Handler` for topic `events`. Topic `examples` needs as many partitions; `dead_letters` any."""

    def __init__(
        self,
        state: RoleState,
        settings: JoinSettings = JOIN_DEFAULTS,
        topic: str = EVENTS,
        declared: Collection[str] | None = None,
    ) -> None:
        """A joiner that goes on from `state`.

        Args:
            topic: the one that it is run on.
            declared: the features' names; see `stream.records.fields.tidy_features`.
        """
        self.settings = settings
        self.topic = topic
        saved = state.get(COUNTS_KEY)
        self.counts = JoinCounts() if saved is None else msgspec.msgpack.decode(saved, type=JoinCounts)
        self._state = state
        self._partitions: dict[int, _Partition] = {}
        self._touched: set[int] = set()
        self.ahead = Ahead()
        self._decode = EventDecoder(declared).decode

    def handle(self, records: Sequence[Record], commit: Commit) -> None:
        """Pair the records' events; emits examples and dead letters.

        Raises:
            DeadLetterFloodError: too many records are bad.
        """
        partition = self._partition(records[0].partition, commit)
        pairing, decode = partition.pairing, self._decode
        take, note_taken, begin, send = pairing.take, pairing.note_taken, partition.begin, partition.send
        clock_ahead_s, max_ahead_s = self.settings.clock_ahead_s, self.settings.max_ahead_s
        if records[0].ingest_ms > 0 and not pairing.steady:
            pairing.trust_log()
        good = 0  # good events that are not counted yet
        for record in records:
            offset, value = record.offset, record.value
            begin(offset)
            parts: Sequence[bytes] = (value,)
            if is_batch(value):
                try:
                    parts = split_batch(value)
                except RecordError as error:
                    partition.note_good(good)
                    good = 0
                    partition.refuse(record, value, str(error))
                    continue
            told = record.ingest_ms > 0  # the log gives the ingest time
            taken_s = record.ingest_ms / 1e3
            latest_s = taken_s + clock_ahead_s
            for part in parts:
                # each event of a batch is on its own: a bad one goes to the dead letters without the others
                try:
                    event = decode(part)
                    if isinstance(event, Forget):
                        partition.forget(event)  # it moves no clock
                        good += 1
                        continue
                    if isinstance(event, Tick):
                        if told:
                            send(pairing.pass_time(taken_s))
                        continue
                    if not told:
                        latest_s = pairing.latest(event.time)
                        if event.time > latest_s:
                            self.ahead.note(record.producer, event.time - latest_s, refused=False)
                    elif event.time > latest_s or event.time > taken_s + max_ahead_s:
                        self._judge_ahead(record, event.time - taken_s, event.time)
                    if told:
                        note_taken(taken_s)
                    if len(part) > SPLICED_BYTES_MAX:
                        _check_size(event)
                    outputs = take(event, offset, part, latest_s, told)
                    refused = send(outputs) if outputs else ""
                except RecordError as error:
                    refused = str(error)
                if refused:
                    partition.note_good(good)
                    good = 0
                    partition.refuse(record, part, refused)
                else:
                    good += 1
            if offset < partition.quiet_until:
                good = 0  # another joiner has counted them
        partition.note_good(good)

    def flush(self, commit: Commit) -> None:
        """Write what has changed into the commit."""
        for number in sorted(self._touched):
            self._partition(number, commit).flush()
        self._touched.clear()
        commit.put(COUNTS_KEY, msgspec.msgpack.encode(self.counts))

    def keep_quiet(self, partition: int, until: int) -> None:
        """Neither send nor count the outputs of records before offset `until`: they have been sent."""
        self._partition(partition, self._state.begin()).keep_quiet(until)

    def begin_at(self, partition: int, mark: ResumePoint) -> None:
        """Forget what the state has of a partition, and set it to begin at a mark.

        A crash in between leaves a partition of which nothing is in the state.
        """
        self._partitions.pop(partition, None)
        number = partition.to_bytes(4, "big")
        commit = self._state.begin()
        commit.forget_offset(self.topic, partition)
        commit.delete(PROGRESS + number)
        commit.delete(_SENT + number)
        self._state.commit(commit)
        self._clear(*(prefix + number + b"/" for prefix in ENTRIES), producers_prefix(self.topic, partition))
        commit = self._state.begin()
        started = self._partition(partition, commit)
        started.start(mark)
        started.flush()
        commit.set_offset(self.topic, partition, mark.offset)
        self._state.commit(commit)

    def drop(self, partition: int) -> None:
        """Forget a partition in memory; the state keeps it."""
        self._partitions.pop(partition, None)
        self._touched.discard(partition)

    def mark(self, partition: int) -> ResumePoint | None:
        """Where another joiner may begin, to have the present state at the next record."""
        found = self._partitions.get(partition)
        return None if found is None else found.mark()

    def lacks_time(self, partition: int) -> bool:
        """Whether a partition's requests wait only for time to pass, which a `Tick` reports."""
        found = self._partitions.get(partition)
        return found is not None and found.pairing.lacks_time

    def _clear(self, *prefixes: bytes) -> None:
        for prefix in prefixes:
            keys = [key for key, _ in self._state.scan(prefix)]
            for first in range(0, len(keys), CLEAR_KEYS):
                commit = self._state.begin()
                for key in keys[first : first + CLEAR_KEYS]:
                    commit.delete(key)
                self._state.commit(commit)

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

    def _judge_ahead(self, record: Record, ahead_s: float, time: float) -> None:
        """Note an event that is ahead of when the log took it.

        Raises:
            RecordError: it is too far ahead.
        """
        refused = ahead_s > self.settings.max_ahead_s
        self.ahead.note(record.producer, ahead_s, refused)
        if refused:
            raise RecordError(
                f"time is {time:.3f}, {ahead_s:,.0f} s ahead of when the log took the record; "
                f"max_ahead_s = {self.settings.max_ahead_s:g}"
            )


def _check_size(event: Impression | Action) -> None:
    """Check that the example of a large impression is no larger than a record may be.

    Raises:
        RecordError: it is.
    """
    if isinstance(event, Impression):
        size = len(encode(event)) + SPLICED_BYTES_MAX
        if size > RECORD_BYTES_MAX:
            raise RecordError(
                f"the impression's example would have {size:,} bytes, more than {RECORD_BYTES_MAX:,}"
            )

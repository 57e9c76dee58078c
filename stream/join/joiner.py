"""The joiner: events in, examples out; records that cannot be used become dead letters.

Each partition is on its own (`stream.join.partition`): its clock, its pending requests, its sequence numbers.
"""

import logging
from collections.abc import Collection, Mapping, Sequence

import msgspec

from stream.errors import RecordError
from stream.join.clock_skew import Ahead
from stream.join.exposures import LONG_SLATE, UNSAID_MAX
from stream.join.outputs import Outputs
from stream.join.pairing import ENTRIES, PROGRESS
from stream.join.partition import SENT, JoinedPartition, ResumePoint
from stream.join.producers.keys import KeyPlaces
from stream.join.producers.meeting import Meetings
from stream.join.settings import COUNTS_KEY, JoinCounts, JoinSettings
from stream.join.sharding.places import Places
from stream.join.sharding.skew import Skew
from stream.join.targets.rules import rules_of
from stream.limits import RECORD_BYTES_MAX, SPLICED_BYTES_MAX
from stream.log.base import EVENTS, Record
from stream.records.decoding import is_batch, split_batch
from stream.records.entities.record import EntityEvent
from stream.records.fast_decoding import EventDecoder
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Action, Exposure, Forget, Impression, Tick, encode
from stream.run.contract import Handler
from stream.state.repeats import producers_prefix
from stream.state.role_state import Commit, RoleState

logger = logging.getLogger("freshet.joiner")

__all__ = ["JOIN_DEFAULTS", "JoinCounts", "JoinSettings", "Joiner"]

JOIN_DEFAULTS = JoinSettings()

NOWHERE: Mapping[int, int] = {}
CLEAR_KEYS = 10_000  # deleted per commit


class Joiner(Handler):
    """A `Handler` for topic `events`. Topic `examples` needs as many partitions, or those of the settings if
    it is sharded; `dead_letters` any."""

    def __init__(
        self,
        state: RoleState,
        settings: JoinSettings = JOIN_DEFAULTS,
        topic: str = EVENTS,
        declared: Collection[str] | None = None,
        targets: Targets = UNDECLARED,
        partitions: int = 1,
        forget_to: Sequence[str] = (),
    ) -> None:
        """A joiner that goes on from `state`.

        Args:
            topic: the one that it is run on.
            declared: the features' names; see `stream.records.fields.tidy_features`.
            targets: those that requests have; the windows of declared ones replace that of the settings.
            partitions: of the topic.
            forget_to: topics beside the examples to which requests to forget are passed on; each has as many
                partitions.
        """
        self._forget_to = forget_to
        if targets.declared:
            settings = msgspec.structs.replace(settings, window_s=targets[""].observe_s)
        self._rules = rules_of(targets, settings)
        self.settings = settings
        self.topic = topic
        saved = state.get(COUNTS_KEY)
        self.counts = JoinCounts() if saved is None else msgspec.msgpack.decode(saved, type=JoinCounts)
        self._state = state
        self._partitions: dict[int, JoinedPartition] = {}
        self._touched: set[int] = set()
        self.ahead = Ahead()
        self.meetings = Meetings()
        self.keys = KeyPlaces(partitions)
        self.shard_by = by = settings.shard_by
        self._places = Places(by, settings.partitions or partitions) if by else None
        self.skew = None if self._places is None else Skew(by, self._places.partitions)
        self._warned = False
        self._decode = EventDecoder(declared, targets).decode

    def may_cut(self) -> bool:
        return True

    def handle(self, records: Sequence[Record], commit: Commit) -> int | None:
        """Pair the records' events; emits examples and dead letters.

        A record that makes many requests due at once is taken in several calls, with a commit after each.

        Raises:
            DeadLetterFloodError: too many records are bad.
        """
        partition = self._partition(records[0].partition, commit)
        pairing, decode = partition.pairing, self._decode
        take, begin, progress = pairing.take, partition.begin, pairing.progress
        meetings, number_here, places = self.meetings, partition.number, self._places
        clock_ahead_s, max_ahead_s = self.settings.clock_ahead_s, self.settings.max_ahead_s
        if records[0].ingest_ms > 0 and not progress.steady:
            progress.trust_log()
        if not is_batch(records[0].value):
            self.keys.look(records[0])
        good = 0  # good events that are not counted yet
        going_on, before_s = False, 0.0  # with an event for which an earlier call has moved the clock
        if progress.advancing:
            going_on = partition.goes_on(records[0].offset)
            self._send(partition, pairing.advance())
            if progress.advancing:
                partition.cut(partition.events)
                return 0
        for index, record in enumerate(records):
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
            timed = record.ingest_ms > 0  # the log notes ingest times
            ingest_s = record.ingest_ms / 1e3
            latest_s = ingest_s + clock_ahead_s
            for number, part in enumerate(parts):
                if number < partition.events:
                    continue  # taken by an earlier call
                # each event of a batch is on its own: a bad one goes to the dead letters without the others
                try:
                    event = decode(part)
                    if isinstance(event, Forget):
                        partition.forget(event)  # it moves no clock
                        good += 1
                        continue
                    if isinstance(event, EntityEvent):
                        if timed and event.time > ingest_s + max_ahead_s:
                            self._judge_ahead(record, event.time - ingest_s, event.time)
                        partition.pass_on(event)  # it moves no clock either: it may be of any time
                        good += 1
                        continue
                    if isinstance(event, Tick):
                        if timed and not going_on:
                            self._send(partition, pairing.pass_time(ingest_s))
                            if progress.advancing:
                                partition.note_good(0 if offset < partition.sends_from else good)
                                partition.cut(number)
                                return index
                        going_on = False
                        continue
                    if going_on:
                        before_s, latest_s = latest_s, progress.clock
                    elif not timed:
                        latest_s = progress.latest(event.time, max_ahead_s)
                        if event.time > latest_s:
                            self.ahead.note(record.producer, event.time - latest_s, refused=False)
                    elif event.time > latest_s or event.time > ingest_s + max_ahead_s:
                        self._judge_ahead(record, event.time - ingest_s, event.time)
                    if timed:
                        progress.ingest_s = ingest_s
                    taken = part
                    if places is not None and isinstance(event, Impression):
                        completed = places.completed(event)
                        if completed is not event:
                            event, taken = completed, encode(completed)
                    if len(taken) > SPLICED_BYTES_MAX:
                        _check_size(event)
                    met = _met(pairing.counts) if isinstance(event, Action) else 0
                    outputs = take(event, offset, taken, latest_s, timed)
                    if going_on:
                        going_on, latest_s = False, before_s
                    refused = self._send(partition, outputs) if outputs else ""
                    if progress.advancing:
                        partition.note_good(0 if offset < partition.sends_from else good)
                        partition.cut(number)
                        return index
                    if isinstance(event, Action) and not refused:
                        now_met = _met(pairing.counts) > met
                        meetings.acted(record.producer, number_here, offset, event.request_id, now_met)
                    elif isinstance(event, Impression):
                        meetings.shown(number_here, event.request_id)
                except RecordError as error:
                    refused = str(error)
                if refused:
                    partition.note_good(good)
                    good = 0
                    partition.refuse(record, part, refused)
                else:
                    good += 1
            if offset < partition.sends_from:
                good = 0  # another joiner has counted them
        partition.note_good(good)
        return None

    def _send(self, partition: JoinedPartition, outputs: Outputs) -> str:
        self.meetings.ended(partition.number, outputs)
        return partition.send(outputs)

    def flush(self, commit: Commit) -> None:
        """Write what has changed into the commit."""
        for number in sorted(self._touched):
            self._partition(number, commit).flush()
        self._touched.clear()
        commit.put(COUNTS_KEY, msgspec.msgpack.encode(self.counts))
        if self.counts.long_unsaid > UNSAID_MAX and not self.counts.exposed and not self._warned:
            self._warned = True
            logger.warning(
                "%d requests of over %d candidates were taken as shown whole, since nobody says what was "
                "shown; if only some are, predictions are too low: send `show` with /v1/score, set [server] "
                "show, or send exposures",
                self.counts.long_unsaid,
                LONG_SLATE,
            )

    def send_from(self, partition: int, offset: int, sent_to: Mapping[int, int] = NOWHERE) -> None:
        """Send and count only the outputs of records from `offset` on: earlier ones have been sent.

        Args:
            sent_to: see `JoinedPartition.send_from`.
        """
        self._partition(partition, self._state.begin()).send_from(offset, sent_to)

    def begin_at(self, partition: int, point: ResumePoint) -> None:
        """Delete a partition's state, and begin it again at a point where another joiner was.

        After a crash in between, the state has nothing of the partition.
        """
        self.erase(partition)  # it may name what others were asked to forget meanwhile
        commit = self._state.begin()
        started = self._partition(partition, commit)
        started.start(point)
        started.flush()
        commit.set_offset(self.topic, partition, point.offset)
        self._state.commit(commit)

    def drop(self, partition: int) -> None:
        """Forget a partition in memory; the state keeps it."""
        self._partitions.pop(partition, None)
        self._touched.discard(partition)

    def keeps(self, partition: int) -> bool:
        """Whether the state has anything of a partition."""
        return self._state.offset(self.topic, partition) is not None or any(
            next(self._state.scan(prefix), None) is not None for prefix in self._prefixes(partition)
        )

    def erase(self, partition: int) -> None:
        """Remove a partition from the state, and soon from its files.

        A crash in between leaves a partition of which no offset is in the state.
        """
        self.drop(partition)
        number = partition.to_bytes(4, "big")
        commit = self._state.begin()
        commit.forget_offset(self.topic, partition)
        commit.delete(PROGRESS + number)
        commit.delete(SENT + number)
        self._state.commit(commit)
        self._clear(*self._prefixes(partition))

    def _prefixes(self, partition: int) -> list[bytes]:
        number = partition.to_bytes(4, "big")
        entries = [prefix + number + b"/" for prefix in ENTRIES]
        return [*entries, producers_prefix(self.topic, partition)]

    def resume_point(self, partition: int) -> ResumePoint | None:
        """Where another joiner may begin, to have the present state at the next record."""
        found = self._partitions.get(partition)
        return None if found is None else found.resume_point()

    def lacks_time(self, partition: int) -> bool:
        """Whether a partition's requests wait only for time to pass, which a `Tick` reports."""
        found = self._partitions.get(partition)
        return found is not None and found.pairing.lacks_time

    def _clear(self, *prefixes: bytes) -> None:
        for prefix in prefixes:
            keys = [key for key, _ in self._state.scan(prefix)]
            for first in range(0, len(keys), CLEAR_KEYS):
                commit = self._state.begin()
                commit.purge = True
                for key in keys[first : first + CLEAR_KEYS]:
                    commit.delete(key)
                self._state.commit(commit)

    def clock(self, partition: int) -> float:
        """The event time of a partition in Unix seconds, 0 before its first event."""
        found = self._partitions.get(partition)
        return 0.0 if found is None else found.pairing.progress.clock

    @property
    def undecided(self) -> int:
        """Requests not decided yet, over the partitions met since the start."""
        return sum(partition.pairing.progress.undecided for partition in self._partitions.values())

    @property
    def waiting(self) -> int:
        """Requests that wait for further targets only, over the partitions met since the start."""
        return sum(partition.pairing.progress.waiting for partition in self._partitions.values())

    @property
    def waiting_bytes(self) -> int:
        """Bytes of these requests."""
        return sum(partition.pairing.progress.waiting_bytes for partition in self._partitions.values())

    def _partition(self, number: int, commit: Commit) -> JoinedPartition:
        partition = self._partitions.get(number)
        if partition is None:
            partition = self._partitions[number] = JoinedPartition(
                self._state, number, commit, self.topic, self.settings, self.counts, self._rules,
                self._forget_to, self._places, self.skew,
            )  # fmt: skip
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


def _met(counts: JoinCounts) -> int:
    """Actions whose request was there."""
    return counts.actions + counts.late + counts.duplicate_actions


def _check_size(event: Impression | Action | Exposure) -> None:
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


def joiner_fingerprint(partitions: int, targets: Targets, settings: JoinSettings) -> dict[str, str]:
    """What a joiner's state depends on, for `RoleState`."""
    rules = rules_of(targets, settings)
    found = {"partitions": str(partitions)}
    return found if rules is None else {**found, "targets": rules.structure}

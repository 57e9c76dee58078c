"""The ingestor: a source's records in, events out; what cannot be used becomes dead letters.

An event's number is the offset of its record and its place in it, its producer's name that of source and
partition. So whoever reads a record, and however often, sends the same event under the same number, and the
joiner takes it once.
"""

from collections.abc import Mapping, Sequence

import msgspec

from ground.clock import SYSTEM_CLOCK, Clock
from stream.errors import LogAwayError, LogError, RecordError
from stream.ingest.counts import SourceCounts
from stream.ingest.lines import Lines
from stream.ingest.pace import Pace
from stream.ingest.records import Seeking, Showing, encode, key_of
from stream.ingest.share import Begin
from stream.ingest.ways import Way
from stream.join.outputs import output_seq
from stream.limits import OFFSET_END, RECORD_BYTES_MAX
from stream.log.base import DEAD_LETTERS, EVENTS, MATCHES, Outgoing, Record
from stream.records.entities.record import EntityEvent, key_of_event
from stream.records.id_types import DeclaredFeature
from stream.records.types import Action, DeadLetter, Impression
from stream.records.types import encode as encode_event
from stream.run.contract import Handler
from stream.run.dead_letter_limit import BadShare
from stream.run.runner import Runner
from stream.sources.around import Around
from stream.sources.formats import Format
from stream.sources.mapping import IS_DELETED, CandidateLine, Mapped, Mapper, One, Several, Skipped, Wanted
from stream.sources.settings import IngestSettings, SourceSettings
from stream.state.repeats import producers_prefix
from stream.state.role_state import Commit, RoleState

COUNTS_KEY = b"ingest/counts"
SCHEMAS_KEY = b"ingest/schemas"
PARTITION = b"ingest/partition/"


def producer_of(source: str, partition: int) -> str:
    """The name under which every ingestor of a source's partition sends its events."""
    return f"ingest.{source}-{partition}"


class _SavedPartition(msgspec.Struct):
    """What the state has of a partition."""

    bad: bytes = b""
    lines: Lines = msgspec.field(default_factory=Lines)


class _Partition:
    def __init__(
        self, number: int, name: str, settings: IngestSettings, saved: _SavedPartition, now_s: float
    ) -> None:
        self.number = number
        self.producer = producer_of(name, number)
        self.lines = saved.lines
        self.touched_s = now_s  # when its open request got a candidate, by our clock
        self.share = BadShare(
            "ingest", "ingest", settings.dead_letter_window, settings.dead_letter_share_max, saved.bad
        )
        self.good = 0  # records that are not counted in the share yet

    def note_good(self) -> None:
        """Count the good records in the share."""
        self.share.good(self.good)
        self.good = 0


class Ingestor(Handler):
    """A `Handler` for the topic of one source.

    Attributes:
        counts: of the source.
        away: why the last call left records: a schema cannot be had now.
    """

    def __init__(
        self,
        state: RoleState,
        name: str,
        source: SourceSettings,
        decoder: Format,
        settings: IngestSettings,
        ways: Sequence[Way] = (),
        pace: Pace | None = None,
        clock: Clock = SYSTEM_CLOCK,
        declared: Mapping[str, DeclaredFeature] | None = None,
        around: Around | None = None,
    ) -> None:
        """An ingestor that goes on from `state`.

        Args:
            name: of the source.
            ways: how actions of other sources find the impressions of this one.
            pace: keeps it together with the other sources.
            clock: says when a request without further candidates is complete.
            declared: features, which say of what type their values are.
            around: adds to messages what is around them; None: no path needs it.
        """
        self.name = name
        self.source = source
        self.away: LogAwayError | None = None
        self._held = self._waits = False
        self._was_away = False
        self._records_before = 0
        saved = state.get(COUNTS_KEY)
        self.counts = SourceCounts() if saved is None else msgspec.msgpack.decode(saved, type=SourceCounts)
        self._state = state
        self._settings = settings
        self._decode = decoder
        self._around = around
        self._map = Mapper(name, source, declared).map
        self._ways = list(ways) if source.kind == "impression" else []
        self._pace = pace or Pace(float("inf"))
        self._clock = clock
        self._partitions: dict[int, _Partition] = {}
        self._touched: set[int] = set()
        self._schemas: dict[int, bytes] = {}

    def may_cut(self) -> bool:
        return True

    def handle(self, records: Sequence[Record], commit: Commit) -> int | None:
        """Map the records; emits events, what actions look for, and dead letters.

        Takes only the first ones where the rest has to wait: see `held`, and `away`.

        Raises:
            DeadLetterFloodError: too many records are bad.
            LogError: an offset is beyond what can be numbered.
        """
        partition = self._partition(records[0].partition)
        if records[-1].offset >= OFFSET_END:
            raise LogError(
                f"topic {records[0].topic!r}, partition {partition.number}: offset {records[-1].offset} is "
                f"beyond {OFFSET_END - 1:,}, the last one that ingest can number events of"
            )
        limit_s = self._pace.limit_s(self.name, partition.number)
        counts, name, number = self.counts, self.name, partition.number
        newest_s = float("-inf")
        taken: int | None = None
        for index, record in enumerate(records):
            try:
                mapped = self._mapped(record)
                events = mapped.events if isinstance(mapped, Several) else [mapped]
                time_s = self._newest_s(events, record)
                if time_s > newest_s:
                    newest_s = time_s
                    if time_s > limit_s:
                        self._held, taken = True, index
                        break
                for place, event in enumerate(events):
                    self._take(event, place, record, partition, commit)
                counts.skipped += not events
                partition.good += 1
            except RecordError as error:
                self._refuse(record, partition, commit, str(error))
            except LogAwayError as error:
                self.away, taken = error, index
                break
        done = len(records) if taken is None else taken
        counts.records += done
        partition.note_good()
        if newest_s > float("-inf"):
            last = records[min(done, len(records) - 1)]
            self._pace.note(name, number, newest_s, last.ingest_ms or last.created_ms)
        return taken

    def _mapped(self, record: Record) -> Mapped:
        if not record.value:
            return IS_DELETED
        message: object = self._decode.decode(record.value)
        if self._around is not None:
            message = self._around.add(message, record)
        return self._map(message, f"{self.name}-{record.partition}-{record.offset}")

    def _newest_s(self, events: list[One], record: Record) -> float:
        """The newest event time of a record's events; checks all before the first is emitted."""
        newest_s = float("-inf")
        for event in events:
            if isinstance(event, Skipped):
                if event.deleted and self.source.deletions == "dead_letter":
                    raise RecordError('a deletion, and deletions = "dead_letter"')
                continue
            ahead_s = event.time - record.ingest_ms / 1e3
            if record.ingest_ms > 0 and ahead_s > self._settings.max_ahead_s:
                raise RecordError(
                    f"{self.source.time.field} is {event.time:.3f} as Unix seconds, {ahead_s:,.0f} s ahead "
                    f"of when the log took the record; ingest.max_ahead_s = {self._settings.max_ahead_s:g}"
                )
            newest_s = max(newest_s, event.time)
        return newest_s

    def between(self, runner: Runner) -> None:
        """Take requests as complete whose next candidate has not come for `lines_wait_s`.

        Raises:
            LogAwayError: a schema cannot be had now.
        """
        away, self.away = self.away, None
        if away is not None:
            raise away
        if not runner.uncommitted and not self._state.unsent():
            self._pace.sent(self.name)
        self._waits, self._held = self._held, False
        idle = runner.progress.records == self._records_before
        self._records_before = runner.progress.records
        if idle and not self._waits and any(map(self._waited, self._partitions.values())):
            runner.emit(self._close_idle)

    def held(self) -> bool:
        """Whether the last turn left records because the source is ahead of another one."""
        return self._waits

    def set_away(self, away: bool) -> None:
        """Whether the source does not answer: then the others wait for it."""
        if away != self._was_away:
            self._was_away = away
            self._pace.set_away(self.name, away)

    def _close_idle(self, commit: Commit) -> None:
        for partition in self._partitions.values():
            if self._waited(partition) and (complete := partition.lines.close()) is not None:
                self._touched.add(partition.number)
                self._send(*complete, 0, partition, commit)

    def _waited(self, partition: _Partition) -> bool:
        since_s = self._clock.now_s() - partition.touched_s
        return partition.lines.open is not None and since_s > self.source.lines_wait_s

    def flush(self, commit: Commit) -> None:
        """Write what has changed into the commit."""
        for number in sorted(self._touched):
            partition = self._partitions[number]
            saved = _SavedPartition(partition.share.encode(), partition.lines)
            commit.put(_key(number), msgspec.msgpack.encode(saved))
        self._touched.clear()
        commit.put(COUNTS_KEY, msgspec.msgpack.encode(self.counts))
        schemas = self._decode.schemas()
        if self._around is not None:
            schemas = schemas | self._around.schemas()
        if schemas != self._schemas:
            self._schemas = dict(schemas)
            commit.put(SCHEMAS_KEY, msgspec.msgpack.encode(self._schemas))

    def begins_at(self, partition: int, position: int) -> Begin:
        """From where another ingestor must read to go on at `position`: from its open request on."""
        request = self._partition(partition).lines.open
        return Begin(position if request is None else request.offset)

    def begin_at(self, partition: int, begin: Begin, sends_from: int) -> None:
        """Begin a partition anew; what the state has of it is dropped.

        Args:
            sends_from: from an open request before it on, all is sent again: readers drop what they have.
        """
        self.drop(partition)
        commit = self._state.begin()
        commit.delete(_key(partition))
        for key, _ in self._state.scan(producers_prefix(self.source.topic, partition)):
            commit.delete(key)  # else records that are read again would be left out
        commit.set_offset(self.source.topic, partition, begin.offset)
        self._state.commit(commit)

    def keeps(self, partition: int) -> bool:
        """Nothing that has to be erased: without its offset a partition would begin at its end, or anew."""
        return False

    def erase(self, partition: int) -> None:
        """There is nothing of it."""

    def acquired(self, partition: int) -> None:
        """A partition is read from now on."""
        self._pace.begin(self.name, partition)

    def turns(self) -> None:
        """Its partitions are known, and are about to be read."""
        self._pace.turned(self.name)

    def quiet(self) -> list[int]:
        """Partitions for which other sources wait, and of which nothing was read for a moment."""
        return self._pace.quiet(self.name)

    def at_end(self, partition: int) -> None:
        """A partition is read to its end: nobody waits for it."""
        self._pace.at_end(self.name, partition)

    def drop(self, partition: int) -> None:
        """Forget a partition in memory; the state keeps it."""
        self._pace.end(self.name, partition)
        self._partitions.pop(partition, None)
        self._touched.discard(partition)

    def _partition(self, number: int) -> _Partition:
        partition = self._partitions.get(number)
        if partition is None:
            found = self._state.get(_key(number))
            saved = (
                _SavedPartition() if found is None else msgspec.msgpack.decode(found, type=_SavedPartition)
            )
            partition = _Partition(number, self.name, self._settings, saved, self._clock.now_s())
            self._partitions[number] = partition
        self._touched.add(number)
        return partition

    def _take(self, event: One, place: int, record: Record, partition: _Partition, commit: Commit) -> None:
        """Emit an event that has a place among those of its record."""
        if isinstance(event, Action | EntityEvent):
            self.counts.actions += isinstance(event, Action)
            self.counts.entities += isinstance(event, EntityEvent)
            seq = output_seq(record.offset, place)
            key, value = key_of_event(event), encode_event(event)
            commit.emit(EVENTS, Outgoing(key, value, None, partition.producer, seq))
        elif isinstance(event, Skipped):
            self.counts.skipped += not event.deleted
            self.counts.deletions += event.deleted
        elif isinstance(event, Impression):
            self._send(event, record.offset, place, partition, commit)
        elif isinstance(event, CandidateLine):
            partition.touched_s = self._clock.now_s()
            complete = partition.lines.take(event, record.offset)
            if complete is not None:
                self._send(*complete, 0, partition, commit)
        else:
            self._seek(event, record.offset, place, partition, commit)

    def _send(
        self, impression: Impression, offset: int, place: int, partition: _Partition, commit: Commit
    ) -> None:
        """Emit an impression whose first record is at `offset`, and what its actions look for."""
        producer, seq = partition.producer, output_seq(offset, place)
        value = encode_event(impression)
        if len(value) > RECORD_BYTES_MAX:
            raise RecordError(f"the impression has {len(value):,} bytes, more than {RECORD_BYTES_MAX:,}")
        self.counts.impressions += 1
        commit.emit(EVENTS, Outgoing(impression.request_id.encode(), value, None, producer, seq))
        for index, way in enumerate(self._ways):
            entity = [impression.context.get(name) for name in way.by] if way.by else [impression.request_id]
            known = [value for value in entity if value is not None]
            if len(known) < len(entity):
                continue  # nobody can find it that way
            candidates = [[features.get(name) for name in way.names] for features in impression.candidates]
            showing = Showing(impression.request_id, impression.time, list(way.names), candidates)
            seq = output_seq(offset, place * len(self._ways) + index)
            commit.emit(MATCHES, Outgoing(key_of(way.by, known), encode(showing), None, producer, seq))
            self._pace.owe(self.name, impression.time)

    def _seek(self, wanted: Wanted, offset: int, place: int, partition: _Partition, commit: Commit) -> None:
        """Emit an action whose request or candidate is to be found."""
        source = self.source
        seeking = Seeking(
            wanted.request_id, wanted.time, wanted.match, wanted.label, wanted.name,
            source.within_s, source.wait_s, source.settle_s, self.name, partition.number, offset,
            wanted.value,
        )  # fmt: skip
        key = key_of((), [wanted.request_id]) if wanted.request_id else key_of(source.way, wanted.entity)
        seq = output_seq(offset, place)
        self.counts.actions += 1
        commit.emit(MATCHES, Outgoing(key, encode(seeking), None, partition.producer, seq))
        self._pace.owe(self.name, wanted.time)

    def _refuse(self, record: Record, partition: _Partition, commit: Commit, why: str) -> None:
        self.counts.dead_letters += 1
        letter = DeadLetter(
            reason=f"source {self.name}: {why}",
            stage="ingest",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            original=record.value,
            key=record.key,
        )
        outgoing = Outgoing(
            key=f"{record.topic}/{record.partition}".encode(),
            value=encode_event(letter),
            producer=f"{partition.producer}-dead",
            seq=output_seq(record.offset, 0),
        )
        commit.emit(DEAD_LETTERS, outgoing)
        partition.note_good()
        partition.share.bad(record.topic, record.partition, record.offset, letter.reason)


def _key(partition: int) -> bytes:
    return PARTITION + partition.to_bytes(4, "big")

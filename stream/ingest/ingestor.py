"""The ingestor: a source's records in, events out; what cannot be used becomes dead letters.

An event's number is the offset of its record, its producer's name that of source and partition. So whoever
reads a record, and however often, sends the same event under the same number, and the joiner takes it once.
"""

from collections.abc import Sequence

import msgspec

from ground.clock import SYSTEM_CLOCK, Clock
from stream.errors import LogAwayError, LogError, RecordError
from stream.ingest.counts import SourceCounts
from stream.ingest.lines import Lines
from stream.ingest.pace import Pace
from stream.ingest.records import Seeking, Showing, encode, key_of
from stream.ingest.share import Begin
from stream.join.outputs import output_seq
from stream.limits import OFFSET_END, RECORD_BYTES_MAX
from stream.log.base import DEAD_LETTERS, EVENTS, MATCHES, Outgoing, Record
from stream.records.types import Action, DeadLetter, Impression
from stream.records.types import encode as encode_event
from stream.run.contract import Handler
from stream.run.dead_letter_limit import BadShare
from stream.run.runner import Runner
from stream.sources.formats import Format
from stream.sources.mapping import IS_DELETED, CandidateLine, Mapper, Skipped, Wanted
from stream.sources.settings import IngestSettings, SourceSettings
from stream.state.role_state import Commit, RoleState

COUNTS_KEY = b"ingest/counts"
SCHEMAS_KEY = b"ingest/schemas"
PARTITION = b"ingest/partition/"


class Way(msgspec.Struct, frozen=True):
    """How actions find impressions: by which features of the context, and what names a candidate."""

    by: tuple[str, ...]  # empty: by the request's id
    names: tuple[str, ...]


def producer_of(source: str, partition: int) -> str:
    """The name under which every ingestor of a source's partition sends its events."""
    return f"ingest.{source}-{partition}"


def ways_of(sources: dict[str, SourceSettings]) -> list[Way]:
    """The ways by which the actions of some sources find their impressions; the order is always the same."""
    found: dict[tuple[str, ...], set[str]] = {}
    for source in sources.values():
        if source.match:
            for by in {source.way, ()} if source.request_id else {source.way}:
                found.setdefault(by, set()).update(source.match)
    return [Way(by, tuple(sorted(names))) for by, names in sorted(found.items())]


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
    ) -> None:
        """An ingestor that goes on from `state`.

        Args:
            name: of the source.
            ways: how actions of other sources find the impressions of this one.
            pace: keeps it together with the other sources.
            clock: says when a request without further candidates is complete.
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
        self._map = Mapper(name, source).map
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
        decode, make, counts, producer = self._decode.decode, self._map, self.counts, partition.producer
        name, number, max_ahead_s = self.name, partition.number, self._settings.max_ahead_s
        newest_s = float("-inf")
        taken: int | None = None
        for index, record in enumerate(records):
            offset = record.offset
            try:
                event = (
                    make(decode(record.value), f"{name}-{number}-{offset}") if record.value else IS_DELETED
                )
                if isinstance(event, Skipped):
                    self._skip(event, record, partition, commit)
                    continue
                time_s = event.time
                if record.ingest_ms > 0 and time_s > record.ingest_ms / 1e3 + max_ahead_s:
                    raise RecordError(
                        f"{self.source.time.field} is {time_s:.3f} as Unix seconds, "
                        f"{time_s - record.ingest_ms / 1e3:,.0f} s ahead of when the log took the record; "
                        f"ingest.max_ahead_s = {max_ahead_s:g}"
                    )
                if time_s > newest_s:
                    newest_s = time_s
                    if time_s > limit_s:
                        self._held, taken = True, index
                        break
                if isinstance(event, Action):
                    counts.actions += 1
                    value = encode_event(event)
                    commit.emit(
                        EVENTS,
                        Outgoing(event.request_id.encode(), value, None, producer, output_seq(offset, 0)),
                    )
                else:
                    self._take(event, record, partition, commit)
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

    def between(self, runner: Runner) -> None:
        """Take requests as complete whose next candidate has not come for `lines_wait_s`.

        Raises:
            LogAwayError: a schema cannot be had now.
        """
        away, self.away = self.away, None
        if away is not None:
            raise away
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
                self._send(*complete, partition, commit)

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
        commit.set_offset(self.source.topic, partition, begin.offset)
        self._state.commit(commit)

    def acquired(self, partition: int) -> None:
        """A partition is read from now on."""
        self._pace.begin(self.name, partition)

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

    def _take(
        self,
        event: Impression | CandidateLine | Wanted,
        record: Record,
        partition: _Partition,
        commit: Commit,
    ) -> None:
        if isinstance(event, Impression):
            self._send(event, record.offset, partition, commit)
        elif isinstance(event, CandidateLine):
            partition.touched_s = self._clock.now_s()
            complete = partition.lines.take(event, record.offset)
            if complete is not None:
                self._send(*complete, partition, commit)
        else:
            self._seek(event, record.offset, partition, commit)

    def _send(self, impression: Impression, offset: int, partition: _Partition, commit: Commit) -> None:
        """Emit an impression whose first record is at `offset`, and what its actions look for."""
        producer, seq = partition.producer, output_seq(offset, 0)
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
            seq = output_seq(offset, index)
            commit.emit(MATCHES, Outgoing(key_of(way.by, known), encode(showing), None, producer, seq))
            self._pace.owe()

    def _seek(self, wanted: Wanted, offset: int, partition: _Partition, commit: Commit) -> None:
        """Emit an action whose request or candidate is to be found."""
        source = self.source
        seeking = Seeking(
            wanted.request_id, wanted.time, wanted.match, wanted.label, wanted.name,
            source.within_s, source.wait_s, source.settle_s, self.name, partition.number, offset,
            wanted.value,
        )  # fmt: skip
        key = key_of((), [wanted.request_id]) if wanted.request_id else key_of(source.way, wanted.entity)
        seq = output_seq(offset, 0)
        self.counts.actions += 1
        commit.emit(MATCHES, Outgoing(key, encode(seeking), None, partition.producer, seq))
        self._pace.owe()

    def _skip(self, event: Skipped, record: Record, partition: _Partition, commit: Commit) -> None:
        if not event.deleted:
            self.counts.skipped += 1
            partition.good += 1
        elif self.source.deletions == "dead_letter":
            self._refuse(record, partition, commit, 'a deletion, and deletions = "dead_letter"')
        else:
            self.counts.deletions += 1
            partition.good += 1

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

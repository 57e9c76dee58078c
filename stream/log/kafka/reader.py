"""Reading topics of Kafka from any offset, committed records only.

The client library prefetches, so a reader that continues where it stopped finds its records in memory. A
reader that jumps, or reads other partitions, gets a consumer of its own (a `_Cursor`), or the least recently
used one. No consumer group is joined.

A read returns nothing only if that is certain: the brokers have reported the end of the partition, and then
the library has reported that we are there. Between our last record and that end there may be offsets without
records (transaction markers, aborted records); `Ends` remembers these ranges.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from stream.errors import LogAwayError, LogError
from stream.log.base import Record
from stream.log.kafka.client import KafkaClient, result
from stream.log.kafka.mark import foreign, headers_of, read_mark
from stream.log.kafka.open_transactions import OpenTransactions

CURSORS_MAX = 4  # consumers of one topic
QUEUE_KBYTES = 16 << 10  # fetched ahead by the library, for each consumer
AHEAD_BYTES_MAX = 16 << 20  # and taken from it, but not asked for yet
TAKE_MAX = 2_000  # messages taken from the library at once
FETCH_BYTES_MAX = 16 << 20
PARTITION_BYTES_MAX = 1 << 20
FETCH_WAIT_MS = 100  # that a fetch waits at the broker: a reader that jumps waits for it
SLICE_S = 0.1  # how long a wait lasts before it looks whether the log was closed
CONTACT_S = 1.0  # how often a wait without records asks the brokers for the ends
BEHIND_END_S = 0.1  # how often a read beyond a partition's end checks again
LOG_APPEND_TIME = 2


class Ends:
    """Where partitions end, for all readers of one log object."""

    def __init__(self, client: KafkaClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        # (topic in the cluster, partition) -> (offset, end): between them there is no record
        self._empty: dict[tuple[str, int], tuple[int, int]] = {}

    def of(self, name: str, partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
        """(first offset kept, offset behind the last record that may be read) of some partitions."""
        asked_for = [TopicPartition(name, p) for p in partitions]

        def find(admin: AdminClient, timeout_s: float) -> dict[int, tuple[int, int]]:
            asked = [
                admin.list_offsets(
                    dict.fromkeys(asked_for, spec),
                    isolation_level=IsolationLevel.READ_COMMITTED,
                    request_timeout=timeout_s,
                )
                for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
            ]
            first, end = (
                {where.partition: result(future, timeout_s).offset for where, future in futures.items()}
                for futures in asked
            )
            if min([*first.values(), *end.values()]) < 0:  # a leader that has just changed may not know
                raise KafkaException(KafkaError(KafkaError.OFFSET_NOT_AVAILABLE))
            return {p: (first[p], end[p]) for p in partitions}

        found = self._client.call(f"reading the ends of topic {name!r}", find) if asked_for else {}
        return {p: (first, self._last(name, p, first, end)) for p, (first, end) in found.items()}

    def note_empty(self, name: str, partition: int, offset: int, end: int) -> None:
        """Note that there is no record from `offset` up to `end`."""
        with self._lock:
            known = self._empty.get((name, partition))
            if known is None or end > known[1] or (end == known[1] and offset < known[0]):
                self._empty[name, partition] = offset, end

    def _last(self, name: str, partition: int, first: int, end: int) -> int:
        with self._lock:
            offset, empty_end = self._empty.get((name, partition), (end, end))
        return max(offset, first) if end == empty_end else end


class _Cursor:
    """One consumer: its positions in some partitions, and the records that it has prefetched."""

    def __init__(self, client: KafkaClient, ends: Ends, name: str, topic: str) -> None:
        self.positions: dict[int, int] = {}  # the next offset to be given out, as asked for
        self.used_s = 0.0
        self._client = client
        self._ends = ends
        self._name = name
        self._topic = topic
        self._ahead: dict[int, list[Record]] = {}
        self._ahead_bytes = 0
        self._after: dict[int, int] = {}  # partition -> offset behind the last record taken from the library
        self._ended: dict[int, int] = {}  # partition -> its end, once the library has reported it
        self._behind: dict[int, float] = {}  # partition asked for behind its end -> when to look again
        self._contact_s = float("-inf")
        self._open_transactions = OpenTransactions(name)
        self._consumer = self._open()

    def close(self) -> None:
        self._consumer.close()

    def matches(self, offsets: Mapping[int, int]) -> int:
        """How many of the partitions it could go on with."""
        return sum(self.positions.get(p) == offset for p, offset in offsets.items())

    def read(
        self, offsets: Mapping[int, int], max_records: int, max_bytes: int, wait_s: float
    ) -> dict[int, list[Record]]:
        """As `Log.read_any` says."""
        deadline_s = time.monotonic() + wait_s
        self._go_to(offsets)
        self._look_behind(offsets)
        self._open_transactions.look(self._consumer, self._ended)
        self._await(lambda: all(self._settled(p) for p in offsets))
        while True:
            self._take()
            if any(self._ahead.get(p) for p in offsets):
                return self._give(offsets, max_records, max_bytes)
            left_s = deadline_s - time.monotonic()
            if left_s <= 0.0:
                if wait_s <= 0.0 or time.monotonic() - self._contact_s > CONTACT_S:
                    self._confirm(offsets)
                    if any(self._ahead.get(p) for p in offsets):
                        return self._give(offsets, max_records, max_bytes)
                return {}
            if time.monotonic() - self._contact_s > CONTACT_S:
                self._confirm(offsets)
            else:
                self._take(min(left_s, SLICE_S))
            self._look_behind(offsets)

    def _go_to(self, offsets: Mapping[int, int]) -> None:
        """Seek to these offsets, and drop all other partitions."""
        moved = {p: max(offset, 0) for p, offset in offsets.items() if self.positions.get(p) != offset}
        left = self.positions.keys() - offsets.keys()
        if not moved and not left:
            return
        stopped = left | (moved.keys() & self.positions.keys())
        if stopped:
            self._consumer.incremental_unassign([TopicPartition(self._name, p) for p in stopped])
            # the library may hold records of theirs, of before
            for p in stopped:
                self._drop(p)
        for p, offset in moved.items():
            self._seek(p, offset, assigned=False)
            self.positions[p] = offsets[p]

    def _seek(self, partition: int, offset: int, assigned: bool = True) -> None:
        """Let the library fetch a partition from an offset on."""
        position = TopicPartition(self._name, partition, offset)
        if assigned:
            self._consumer.incremental_unassign([TopicPartition(self._name, partition)])
        self._after[partition] = offset
        self._ended.pop(partition, None)
        self._behind.pop(partition, None)
        self._consumer.incremental_assign([position])

    def _drop(self, partition: int) -> None:
        for known in (self.positions, self._after, self._ended, self._behind):
            known.pop(partition, None)
        for record in self._ahead.pop(partition, ()):
            self._ahead_bytes -= _size_of(record)

    def _settled(self, partition: int) -> bool:
        """Whether it is known if a partition has a record for us."""
        return bool(self._ahead.get(partition)) or partition in self._ended or partition in self._behind

    def _await(self, condition: Callable[[], bool]) -> None:
        """Take from the library until a condition holds; LogAwayError if it does not in time."""
        if condition():
            return
        deadline_s = time.monotonic() + self._client.settings.away_after_s
        self._take()
        while not condition():
            if time.monotonic() > deadline_s:
                raise self._client.away(f"reading topic {self._name!r}", None)
            self._take(SLICE_S)

    def _confirm(self, offsets: Mapping[int, int]) -> None:
        """Ask the brokers where the partitions end, and have what is before that.

        Raises:
            LogAwayError: they do not answer.
        """
        ends = self._ends.of(self._name, list(offsets))
        self._contact_s = time.monotonic()
        self._await(lambda: all(self._reached(p, ends[p][1]) for p in offsets))

    def _reached(self, partition: int, end: int) -> bool:
        if self._ahead.get(partition) or partition in self._behind:
            return True
        return max(self._after[partition], self._ended.get(partition, 0)) >= end

    def _look_behind(self, offsets: Mapping[int, int]) -> None:
        """Try again with partitions that were asked for behind their end."""
        now_s = time.monotonic()
        for p in [p for p, at_s in self._behind.items() if at_s <= now_s and p in offsets]:
            self._seek(p, max(offsets[p], 0))

    def _take(self, wait_s: float = 0.0) -> None:
        """Take the messages that the library holds; if there are none, wait for the first one."""
        if self._client.closed:
            raise LogError(f"{self._client} is closed")
        if self._ahead_bytes >= AHEAD_BYTES_MAX:
            return
        try:
            found = self._consumer.consume(TAKE_MAX, 0.0)
            if not found and wait_s > 0.0:
                first = self._consumer.poll(wait_s)
                found = [] if first is None else [first]
        except KafkaException as error:
            self._client.judge(f"reading topic {self._name!r}", error.args[0])
            return
        if found:
            self._contact_s = time.monotonic()
            self._keep(found)

    def _keep(self, messages: Sequence[Message]) -> None:
        topic, ahead = self._topic, self._ahead
        for message in messages:
            partition, offset = message.partition(), message.offset()
            error = message.error()
            if error is not None:
                self._note(error, partition, offset)
                continue
            assert partition is not None and offset is not None
            key, value = message.key() or b"", message.value() or b""
            kind, time_ms = message.timestamp()
            headers = headers_of(message)
            producer, seq = read_mark(headers) if headers else ("", -1)
            theirs = foreign(headers) if headers else ()
            ingest_ms, created_ms = (time_ms, 0) if kind == LOG_APPEND_TIME else (0, max(time_ms, 0))
            kept = ahead.get(partition)
            if kept is None:
                kept = ahead[partition] = []
            record = Record(
                topic, partition, offset, key, value, producer, seq, ingest_ms, created_ms, theirs
            )
            kept.append(record)
            self._ahead_bytes += _size_of(record)
            self._after[partition] = offset + 1
            self._ended.pop(partition, None)

    def _note(self, error: KafkaError, partition: int | None, offset: int | None) -> None:
        """Handle an error that the library returns in place of a record."""
        if partition is None or partition not in self.positions:
            self._client.hear(error)
        elif error.code() == KafkaError._PARTITION_EOF:
            assert offset is not None
            self._ended[partition] = offset
            self._ends.note_empty(self._name, partition, self._after[partition], offset)
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            asked = self._after[partition]
            first = self._ends.of(self._name, [partition])[partition][0]
            if first > asked:
                self._seek(partition, first)
            else:
                self._behind[partition] = time.monotonic() + BEHIND_END_S
        elif error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
            # The library looks for the coordinator of its group, although nothing here uses the group.
            self._client.judge(f"reading topic {self._name!r}", error)

    def _give(self, offsets: Mapping[int, int], max_records: int, max_bytes: int) -> dict[int, list[Record]]:
        given = {}
        for p in offsets:
            kept = self._ahead.get(p)
            if not kept:
                continue
            count, size = 0, 0
            for record in kept[:max_records]:
                size += _size_of(record)
                if count and size > max_bytes:
                    size -= _size_of(record)
                    break
                count += 1
            if count == len(kept):
                given[p] = kept
                del self._ahead[p]
            else:
                given[p] = kept[:count]
                del kept[:count]
            self._ahead_bytes -= size
            self.positions[p] = given[p][-1].offset + 1
        return given

    def _open(self) -> Consumer:
        settings = {
            **self._client.options(f"freshet-{self._topic}"),
            "group.id": "freshet",  # the library wants one; it is not joined
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "check.crcs": True,
            "fetch.wait.max.ms": FETCH_WAIT_MS,
            "fetch.error.backoff.ms": 50,
            "fetch.queue.backoff.ms": 5,
            "fetch.max.bytes": FETCH_BYTES_MAX,
            "fetch.message.max.bytes": PARTITION_BYTES_MAX,
            "queued.max.messages.kbytes": QUEUE_KBYTES,
            "queued.min.messages": 10_000,
        }
        try:
            return Consumer(settings)
        except KafkaException as error:
            raise LogError(f"{self._client} cannot be used: {error.args[0].str()}") from None


class TopicReader:
    """Reads one topic; may be used from several threads."""

    def __init__(self, client: KafkaClient, ends: Ends, name: str, topic: str) -> None:
        """`name` is the topic's name in the cluster, `topic` its name in Freshet."""
        self._client = client
        self._ends = ends
        self._name = name
        self._topic = topic
        self._idle: list[_Cursor] = []
        self._count = 0
        self._free = threading.Condition()

    def close(self) -> None:
        """End the consumers; a read that waits ends with an error. The client must be closed."""
        with self._free:
            while self._count:
                while self._idle:
                    self._idle.pop().close()
                    self._count -= 1
                if self._count:
                    self._free.wait(SLICE_S)

    def read(
        self, offsets: Mapping[int, int], max_records: int, max_bytes: int, wait_s: float
    ) -> dict[int, list[Record]]:
        """As `Log.read_any` says.

        Raises:
            LogAwayError: the cluster does not answer.
            LogError: it refuses, or a record is damaged.
        """
        cursor = self._claim(offsets)
        kept = True
        try:
            return cursor.read(offsets, max_records, max_bytes, wait_s)
        except LogAwayError:
            kept = False  # whatever it waits for, the next one begins anew
            raise
        finally:
            cursor.used_s = time.monotonic()
            if not kept:
                cursor.close()
            with self._free:
                if kept:
                    self._idle.append(cursor)
                else:
                    self._count -= 1
                self._free.notify()

    def _claim(self, offsets: Mapping[int, int]) -> _Cursor:
        """The cursor that can go on best; else a new one; at `CURSORS_MAX` the one idle longest."""
        with self._free:
            while True:
                if self._client.closed:
                    raise LogError(f"{self._client} is closed")
                best = max(self._idle, key=lambda cursor: cursor.matches(offsets), default=None)
                if best is None or not best.matches(offsets):
                    if self._count < CURSORS_MAX:
                        best = _Cursor(self._client, self._ends, self._name, self._topic)
                        self._count += 1
                        return best
                    best = min(self._idle, key=lambda cursor: cursor.used_s, default=None)
                if best is not None:
                    self._idle.remove(best)
                    return best
                self._free.wait(SLICE_S)


def _size_of(record: Record) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key) + len(record.value) + headers

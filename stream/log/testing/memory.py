"""A log in this process's memory.

It does all that the other logs do, within one process and without a file or a broker, so that code around a
log can be tested in milliseconds.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate

from ground.clock import SYSTEM_CLOCK, Clock
from stream.errors import LogError
from stream.log.base import (
    HOW_TO_CREATE,
    PARTITIONS_MAX,
    READ_BYTES_MAX,
    READ_RECORDS_MAX,
    Log,
    Outgoing,
    Record,
    bytes_allowed,
    check_partition,
    checked_partition,
)
from stream.log.settings import LOG_DEFAULTS, LogSettings

NAME_CHARACTERS_MAX = 200


class _Partition:
    """Records of one partition, in the order of their offsets."""

    def __init__(self) -> None:
        self.first = 0
        self.end = 0  # the offset that the next record gets
        self.records: list[Record] = []
        self.bytes_to: list[int] = []  # of each record: its bytes and those of all before it
        self.last_ms = 0
        self._behind = 0  # the offset behind the last record; less than `end` where there is none up to it
        self._passed = 0  # the end as of which a reader has found that out

    @property
    def told_end(self) -> int:
        """Where the log says that it ends: no reader waits for offsets that are known to have no record."""
        return max(self._behind, self.first) if self._passed == self.end else self.end

    def held_bytes(self) -> int:
        return self.bytes_to[-1] - self._bytes_before(0) if self.records else 0

    def add(self, record: Record) -> None:
        self.records.append(record)
        self.bytes_to.append((self.bytes_to[-1] if self.bytes_to else 0) + _size(record))
        self._behind = self.end = record.offset + 1

    def trim(self, before_offset: int) -> None:
        cut = min(before_offset, self.end)
        if cut > self.first:
            gone = self.index(cut)
            del self.records[:gone], self.bytes_to[:gone]
            self.first = cut

    def drop(self, offsets: Collection[int]) -> None:
        """Remove single records."""
        kept = [record for record in self.records if record.offset not in offsets]
        self.records, self.bytes_to = kept, list(accumulate(map(_size, kept)))

    def index(self, offset: int) -> int:
        """Where in `records` the first one at or behind an offset is."""
        if self.records and self.records[-1].offset - self.records[0].offset + 1 == len(self.records):
            return min(max(offset - self.records[0].offset, 0), len(self.records))  # no gaps
        return bisect_left(self.records, offset, key=_offset)

    def select(self, offset: int, max_records: int, max_bytes: int) -> list[Record]:
        start = self.index(offset)
        end = min(start + max_records, len(self.records))
        if start >= end:
            self._passed = self.end
            return []
        end = bisect_right(self.bytes_to, self._bytes_before(start) + max_bytes, start + 1, end)
        return self.records[start:end]

    def _bytes_before(self, index: int) -> int:
        """What `bytes_to` says of the record before one, which may be gone."""
        return self.bytes_to[index] - _size(self.records[index])


class _Store:
    """What the handles of one memory log share."""

    def __init__(self) -> None:
        self.topics: dict[str, list[_Partition]] = {}
        self.committed: dict[tuple[str, str], dict[int, int]] = {}
        self.changed = threading.Condition()


class MemoryLog(Log):
    """A `Log` in this process's memory. It is gone with the last object that refers to it.

    Args:
        settings: limits; `sync`, `busy_timeout_s` and `kafka` mean nothing here.
        clock: gives records their ingest time, and is waited on by a read that finds nothing; an append
            notifies what waits. A simulator passes its own.
        notes_times: give records their ingest time. False: as a Kafka topic with the producers' own times.
    """

    def __init__(
        self, settings: LogSettings = LOG_DEFAULTS, clock: Clock = SYSTEM_CLOCK, notes_times: bool = True
    ) -> None:
        self.settings = settings
        self._clock = clock
        self.notes_times = notes_times
        self._store = _Store()
        self._closed = False

    def __str__(self) -> str:
        return "log in memory"

    def connect(self, settings: LogSettings | None = None) -> MemoryLog:
        """Another log object over the same records, as another process would open one."""
        other = MemoryLog(settings or self.settings, self._clock, self.notes_times)
        other._store = self._store
        return other

    def create_topic(self, topic: str, partitions: int) -> None:
        if not topic or len(topic) > NAME_CHARACTERS_MAX:
            raise LogError(f"{self}: a topic's name must have 1 to {NAME_CHARACTERS_MAX} characters")
        if not 1 <= partitions <= PARTITIONS_MAX:
            raise LogError(
                f"{self}: topic {topic!r} cannot have {partitions} partitions; 1 to {PARTITIONS_MAX}"
            )
        with self._store.changed:
            self._check_open()
            found = self._store.topics.setdefault(topic, [_Partition() for _ in range(partitions)])
            if len(found) != partitions:
                raise LogError(
                    f"{self}: topic {topic!r} has {len(found)} partitions, not {partitions}; it is fixed "
                    "when a topic is made: configure the same number"
                )

    def partitions(self, topic: str) -> int:
        with self._store.changed:
            return len(self._topic(topic))

    def topics(self) -> dict[str, int]:
        """All topics and how many partitions each has."""
        with self._store.changed:
            self._check_open()
            return {name: len(held) for name, held in sorted(self._store.topics.items())}

    def record_bytes_max(self, topic: str) -> int:
        return bytes_allowed(topic, self.settings.record_bytes_max)

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        with self._store.changed:
            held = self._topic(topic) if records else []
            bytes_max = self.record_bytes_max(topic)
            placed = [checked_partition(self, topic, record, len(held), bytes_max) for record in records]
            now_ms = int(self._clock.unix_s() * 1e3) if records else 0
            taken = []
            for record, p in zip(records, placed, strict=True):
                partition = held[p]
                partition.last_ms = max(partition.last_ms, now_ms)
                noted_ms = partition.last_ms
                times = (noted_ms, 0) if self.notes_times else (0, noted_ms)
                key, value = bytes(record.key), bytes(record.value)
                offset = partition.end
                partition.add(Record(topic, p, offset, key, value, record.producer, record.seq, *times))
                taken.append((p, offset))
            self._store.changed.notify_all()
            return taken

    def read_any(
        self,
        topic: str,
        offsets: Mapping[int, int],
        max_records: int = READ_RECORDS_MAX,
        max_bytes: int = READ_BYTES_MAX,
        wait_s: float = 0.0,
    ) -> dict[int, list[Record]]:
        deadline_s = self._clock.now_s() + wait_s if wait_s > 0.0 else float("-inf")
        with self._store.changed:
            while True:
                held = self._topic(topic)
                found = {}
                for p, offset in offsets.items():
                    check_partition(self, topic, p, len(held))
                    records = held[p].select(offset, max(max_records, 1), max_bytes)
                    if records:
                        found[p] = records
                if found or wait_s <= 0.0 or (left_s := deadline_s - self._clock.now_s()) <= 0.0:
                    return found
                self._clock.wait_on(self._store.changed, left_s)

    def ends(self, topic: str) -> list[tuple[int, int]]:
        with self._store.changed:
            return [(held.first, held.told_end) for held in self._topic(topic)]

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        with self._store.changed:
            held = self._topic(topic)
            for partition in offsets:
                check_partition(self, topic, partition, len(held))
            self._store.committed.setdefault((group, topic), {}).update(offsets)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        with self._store.changed:
            self._topic(topic)
            return dict(self._store.committed.get((group, topic), {}))

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        with self._store.changed:
            held = self._topic(topic)
            check_partition(self, topic, partition, len(held))
            held[partition].trim(before_offset)

    def enforce_retention(self) -> None:
        with self._store.changed:
            self._check_open()
            for topic, held in self._store.topics.items():
                keep_s, keep_bytes = self.settings.retention(topic)
                oldest_ms = (self._clock.unix_s() - keep_s) * 1e3
                sizes = [partition.held_bytes() for partition in held]
                excess = sum(sizes) - keep_bytes if keep_bytes > 0 else 0
                for partition, size in zip(held, sizes, strict=True):
                    # each partition gives up bytes in proportion to what it holds
                    drop = -(-excess * size // sum(sizes)) if excess > 0 and size else 0
                    count = 0
                    for record in partition.records:
                        taken_ms = record.ingest_ms or record.created_ms
                        if drop <= 0 and not (keep_s > 0.0 and taken_ms < oldest_ms):
                            break
                        drop -= _size(record)
                        count += 1
                    if count:
                        partition.trim(partition.records[count - 1].offset + 1)

    def skip(self, topic: str, partition: int, count: int = 1) -> None:
        """Leave out the next offsets of a partition, as an aborted transaction and its marker do in Kafka."""
        with self._store.changed:
            held = self._topic(topic)
            check_partition(self, topic, partition, len(held))
            held[partition].end += count

    def drop(self, topic: str, partition: int, offsets: Collection[int]) -> None:
        """Remove single records, as compaction does; the offsets of the others stay."""
        with self._store.changed:
            held = self._topic(topic)
            check_partition(self, topic, partition, len(held))
            held[partition].drop(offsets)

    def close(self) -> None:
        with self._store.changed:
            self._closed = True
            self._store.changed.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise LogError(f"{self} is closed")

    def _topic(self, topic: str) -> list[_Partition]:
        self._check_open()
        found = self._store.topics.get(topic)
        if found is None:
            raise LogError(f"{self} has no topic {topic!r}; create it first: {HOW_TO_CREATE}")
        return found


def _size(record: Record) -> int:
    return len(record.key) + len(record.value)


def _offset(record: Record) -> int:
    return record.offset

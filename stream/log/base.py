"""The log: the one seam through which all roles talk.

A log holds topics, a topic holds partitions, and a partition is a sequence of records with offsets
0, 1, 2, ... Roles append, read from an offset, and keep their own offsets in their own state; the
offsets that a group commits here are only for lag tools. `SqliteLog` is the embedded one, `KafkaLog` talks
to a Kafka cluster, `MemoryLog` is for tests; any other class that implements `Log` can replace them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import msgspec

from stream.errors import LogError
from stream.log.partitioner import murmur2

EVENTS = "events"
EXAMPLES = "examples"
UPDATES = "updates"
SNAPSHOTS = "snapshots"
DEAD_LETTERS = "dead_letters"
ROLES = "roles"
MATCHES = "matches"
"""Made only if a source needs it: what was shown, and actions that look for it."""

READ_RECORDS_MAX = 1000
READ_BYTES_MAX = 8 << 20
PARTITIONS_MAX = 1024
HOW_TO_CREATE = "start the roles once, or give a Producer partitions=N"
"""The remedy for a missing topic, in messages."""
PRODUCER_BYTES_MAX = 255  # of a producer's name, in UTF-8
SEQ_MAX = (1 << 63) - 1
DEAD_LETTER_BYTES = 64 << 10  # the most that a dead letter adds to its original


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record as read.

    `ingest_ms` is the log's own clock, in Unix ms, when it took the record; 0 where the log did not note it
    (a Kafka topic with `message.timestamp.type=CreateTime`). `created_ms` is then the time that the producer
    wrote, which may be anything; it is 0 where the log's own time is known.

    `producer` and `seq` are set by the sender. A record whose `seq` has already been taken from that producer
    in that partition is a duplicate. `seq` -1: the sender does not number its records.

    `headers` are those of others, in their order; logs other than Kafka have none.
    """

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    producer: str = ""
    seq: int = -1
    ingest_ms: int = 0
    created_ms: int = 0
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Outgoing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One record to append. With `partition` None the key's hash chooses it."""

    key: bytes
    value: bytes
    partition: int | None = None
    producer: str = ""
    seq: int = -1


class Log(Protocol):
    """The contract of a log. All methods may be called from several threads; all raise LogError.

    A log inherits from this, and gets `read` by its `read_any`.
    """

    def __str__(self) -> str:
        return f"log {type(self).__name__}"

    def __repr__(self) -> str:
        return f"<{self}>"

    def create_topic(self, topic: str, partitions: int) -> None:
        """Make a topic, or check that it has this many partitions if it is there already."""

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has."""

    def record_bytes_max(self, topic: str) -> int:
        """The bytes of key and value together that a record of this topic may have."""

    def limit_advice(self, topic: str, record_bytes: int) -> str:
        """What a person changes so that this topic takes records of `record_bytes` bytes."""
        return f"set record_bytes_max = {record_bytes} or more in section [stream.log] of the config"

    def allowed(self, topics: Sequence[str]) -> dict[str, frozenset[str]] | None:
        """The operations allowed on each topic, by Kafka's names ("READ"); None: there are no access rules.

        A topic that does not exist has {"CREATE"} if it may be created, else nothing.
        """
        return None

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Append all, durably; returns each record's (partition, offset).

        After an error no record is in the log, with one exception: after `LogAwayError`, each partition may
        hold a prefix of its records, now or a little later.
        """

    def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        max_records: int = READ_RECORDS_MAX,
        max_bytes: int = READ_BYTES_MAX,
        wait_s: float = 0.0,
    ) -> list[Record]:
        """Records from `offset` on, in order; from the oldest kept where `offset` is trimmed already.

        At least one record if there is any, even above `max_bytes`. Where there is none, waits up to
        `wait_s` seconds for one.
        """
        found = self.read_any(topic, {partition: offset}, max_records, max_bytes, wait_s)
        return found.get(partition, [])

    def read_any(
        self,
        topic: str,
        offsets: Mapping[int, int],
        max_records: int = READ_RECORDS_MAX,
        max_bytes: int = READ_BYTES_MAX,
        wait_s: float = 0.0,
    ) -> dict[int, list[Record]]:
        """What `read` gives of several partitions, {partition: offset}; those without a record are left out.

        Where all are without, waits up to `wait_s` seconds for the first record of any.
        """

    def ends(self, topic: str) -> list[tuple[int, int]]:
        """Per partition (offset of the oldest record kept, offset that the next record will get)."""

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Commit a group's offsets, for lag tools only: {partition: next offset}."""

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The offsets that a group has committed."""

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Drop a partition's records before an offset."""

    def enforce_retention(self) -> None:
        """Drop the records that retention no longer keeps."""

    def close(self) -> None:
        """Close the log; it cannot be used afterwards."""


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key among `partitions`, as Java's Kafka client has it: so every producer agrees.

    >>> partition_of(b"r1", 1), partition_of(b"r1", 8)
    (0, 4)
    """
    return (murmur2(key) & 0x7FFFFFFF) % partitions if partitions > 1 else 0


def destination(record: Outgoing, partitions: int) -> int:
    """The partition that a record goes to: the one it names, there or not, or its key's.

    >>> destination(Outgoing(b"r1", b""), 8), destination(Outgoing(b"r1", b"", 5), 8)
    (4, 5)
    """
    return partition_of(record.key, partitions) if record.partition is None else record.partition


def check_partition(log: object, topic: str, partition: int, partitions: int) -> None:
    """Raises LogError, naming the log, unless the topic has this partition."""
    if not 0 <= partition < partitions:
        raise LogError(f"{log}: topic {topic!r} has partitions 0 to {partitions - 1}, no {partition}")


def bytes_allowed(topic: str, record_bytes_max: int) -> int:
    """`Log.record_bytes_max` as the setting has it: a dead letter wraps a record that was within the limit.

    >>> bytes_allowed("events", 1000), bytes_allowed("dead_letters", 1000)
    (1000, 66536)
    """
    return record_bytes_max + (DEAD_LETTER_BYTES if topic == DEAD_LETTERS else 0)


def checked_partition(log: object, topic: str, record: Outgoing, partitions: int, bytes_max: int) -> int:
    """The `destination` of a record that the log can take.

    Raises LogError, naming the log, if it is over bytes_max, names a partition that is not there, or has a
    producer or a number that no log can keep.
    """
    problem = _mark_problem(record.producer) or ("" if -1 <= record.seq <= SEQ_MAX else "its number")
    if problem:
        raise LogError(
            f"{log}: topic {topic!r}: a record cannot be taken because of {problem}; a producer's name has "
            f"up to {PRODUCER_BYTES_MAX} bytes of UTF-8, a number is -1 to 2^63 - 1"
        )
    size = len(record.key) + len(record.value)
    if size > bytes_max:
        raise LogError(
            f"{log}: a record of {size:,} bytes for topic {topic!r} is over the limit of "
            f"{bytes_max:,} (record_bytes_max)"
        )
    found = destination(record, partitions)
    check_partition(log, topic, found, partitions)
    return found


@lru_cache(1024)
def _mark_problem(producer: str) -> str:
    try:
        fits = len(producer.encode()) <= PRODUCER_BYTES_MAX
    except UnicodeEncodeError:  # half a surrogate pair
        fits = False
    return "" if fits else f"the producer's name {producer[:40]!r}"

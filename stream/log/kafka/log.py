"""A Kafka cluster as the log: `kafka://HOST:PORT[,HOST:PORT...][/PREFIX]`.

With a prefix, topic `events` is `PREFIX.events` in the cluster, so that several Freshets share one.

Topics that are made here carry the log's own limits: the broker's clock as ingest time, record size,
retention. The broker drops old records by itself. Groups' offsets are committed for lag tools only; no
consumer group is joined, since roles keep their offsets in their own state.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import kafka.errors
from kafka import OffsetAndMetadata, TopicPartition
from kafka.admin import OffsetSpec
from kafka.protocol.metadata import CoordinatorType

from stream.errors import LogError
from stream.log.base import (
    DEAD_LETTER_BYTES,
    PARTITIONS_MAX,
    READ_BYTES_MAX,
    READ_RECORDS_MAX,
    Log,
    Outgoing,
    Record,
    bytes_allowed,
    check_partition,
    place,
)
from stream.log.kafka.client import KafkaClient
from stream.log.kafka.reader import TopicReader
from stream.log.kafka.writer import Writer
from stream.log.settings import LOG_DEFAULTS, LogSettings

T = TypeVar("T")

PORT = 9092
TOPIC_READY_S_MAX = 10.0
_NAME = re.compile(r"[A-Za-z0-9._-]{1,180}")


class KafkaLog(Log):
    """A `Log` in a Kafka cluster."""

    def __init__(self, url: str, settings: LogSettings = LOG_DEFAULTS) -> None:
        """Connect.

        Raises:
            LogAwayError: the cluster does not answer.
            LogError: the URL or the settings are not right, or the cluster refuses the log-in.
        """
        servers, self.prefix = parse_url(url)
        self.url = url
        self.settings = settings
        self._client = KafkaClient(servers, settings.kafka, "freshet")
        self._partitions: dict[str, int] = {}
        self._writer = Writer(self._client)
        self._readers: dict[str, TopicReader] = {}
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._client.admin()
        except BaseException:
            self._client.close()
            raise

    def create_topic(self, topic: str, partitions: int) -> None:
        name = self._name(topic)
        if not _NAME.fullmatch(name):
            raise LogError(
                f"{self._client}: topic {name!r}: a name has 1 to 180 letters, digits, dots, dashes and "
                "underscores"
            )
        if not 1 <= partitions <= PARTITIONS_MAX:
            raise LogError(
                f"{self._client}: topic {topic!r} cannot have {partitions} partitions; 1 to {PARTITIONS_MAX}"
            )
        found = self._look_up(topic)
        if found is None:
            wanted = {
                name: {
                    "num_partitions": partitions,
                    "replication_factor": self.settings.kafka.replication,
                    "configs": self._topic_settings(topic, partitions),
                }
            }

            def create(admin: Any) -> None:
                try:
                    admin.create_topics(wanted)
                except kafka.errors.TopicAlreadyExistsError:
                    return  # another process has been quicker

            self._client.call(f"making topic {name!r}", create)
            found = self._await_topic(topic)
        if found != partitions:
            raise LogError(
                f"{self._client}: topic {topic!r} has {found} partitions, not {partitions}; it is fixed when "
                "a topic is made: configure the same number, or use another prefix (kafka://HOST:PORT/PREFIX)"
            )

    def partitions(self, topic: str) -> int:
        found = self._partitions.get(topic) or self._look_up(topic)
        if found is None:
            raise LogError(f"{self._client} has no topic {self._name(topic)!r}; create it first")
        return found

    def topics(self) -> dict[str, int]:
        """All topics under the prefix and how many partitions each has."""
        self._check_open()
        told = self._client.call("listing topics", lambda admin: admin.describe_topics())
        start = f"{self.prefix}." if self.prefix else ""
        return {
            entry["name"][len(start) :]: len(entry["partitions"])
            for entry in sorted(told, key=lambda entry: str(entry["name"]))
            if entry["name"].startswith(start) and not entry["is_internal"]
        }

    def record_bytes_max(self, topic: str) -> int:
        return bytes_allowed(topic, self.settings.record_bytes_max)

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        self._check_open()
        if not records:
            return []
        partitions = self.partitions(topic)
        bytes_max = self.record_bytes_max(topic)
        placed = [place(self._client, topic, record, partitions, bytes_max) for record in records]
        return self._writer.append(self._name(topic), placed, records)

    def read_any(
        self,
        topic: str,
        offsets: Mapping[int, int],
        max_records: int = READ_RECORDS_MAX,
        max_bytes: int = READ_BYTES_MAX,
        wait_s: float = 0.0,
    ) -> dict[int, list[Record]]:
        partitions = self.partitions(topic)
        for partition in offsets:
            check_partition(self._client, topic, partition, partitions)
        return self._reader(topic).read(offsets, max(max_records, 1), max_bytes, wait_s)

    def ends(self, topic: str) -> list[tuple[int, int]]:
        self._check_open()
        name = self._name(topic)
        all_of_it = [TopicPartition(name, p) for p in range(self.partitions(topic))]

        def find(admin: Any) -> list[tuple[int, int]]:
            first = admin.list_partition_offsets(dict.fromkeys(all_of_it, OffsetSpec.EARLIEST))
            end = admin.list_partition_offsets(dict.fromkeys(all_of_it, OffsetSpec.LATEST))
            return [(first[p].offset, end[p].offset) for p in all_of_it]

        return self._client.call(f"reading the ends of topic {name!r}", find)

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        self._check_open()
        if not offsets:
            return
        wanted = {
            TopicPartition(self._name(topic), p): OffsetAndMetadata(offset, "", -1)
            for p, offset in offsets.items()
        }
        name = self._name(group)

        def alter(admin: Any) -> None:
            told = admin.alter_group_offsets(name, wanted)
            for tp in wanted:
                # a coordinator that is still loading its groups may answer for none of them
                error = told.get(tp, kafka.errors.CoordinatorLoadInProgressError)
                if error is not kafka.errors.NoError:
                    raise error()

        self._client.call(f"committing group {name!r}", self._ask_coordinator(name, alter))

    def committed(self, group: str, topic: str) -> dict[int, int]:
        self._check_open()
        name = self._name(group)
        wanted = {name: [TopicPartition(self._name(topic), p) for p in range(self.partitions(topic))]}
        told = self._client.call(
            f"reading group {name!r}",
            self._ask_coordinator(name, lambda admin: admin.list_group_offsets(wanted)),
        )
        return {p.partition: found.offset for p, found in told[name].items() if found.offset >= 0}

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        check_partition(self._client, topic, partition, self.partitions(topic))
        first, end = self.ends(topic)[partition]
        cut = min(before_offset, end)
        if cut > first:
            wanted = {TopicPartition(self._name(topic), partition): cut}
            self._client.call(
                f"trimming topic {self._name(topic)!r}", lambda admin: admin.delete_records(wanted)
            )

    def enforce_retention(self) -> None:
        """Nothing: the broker keeps to the retention with which the topics were made."""
        self._check_open()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            readers, self._readers = list(self._readers.values()), {}
        for reader in readers:
            reader.close()
        self._client.close()

    def _name(self, name: str) -> str:
        return f"{self.prefix}.{name}" if self.prefix else name

    def _check_open(self) -> None:
        if self._closed:
            raise LogError(f"{self._client} is closed")

    def _ask_coordinator(self, group: str, action: Callable[[Any], T]) -> Callable[[Any], T]:
        """`action`, after whose failure the group's coordinator is looked up anew: the library never does."""

        def ask(admin: Any) -> T:
            try:
                return action(admin)
            except kafka.errors.KafkaError:
                admin._manager.cluster._coordinators.pop((CoordinatorType.GROUP, group), None)
                raise

        return ask

    def _reader(self, topic: str) -> TopicReader:
        with self._lock:
            self._check_open()
            reader = self._readers.get(topic)
            if reader is None:
                # a connection of its own: a read that waits for records must not hold up what is written
                client = KafkaClient(self._client.servers, self.settings.kafka, f"freshet-{topic}")
                reader = self._readers[topic] = TopicReader(client, self._name(topic), topic)
            return reader

    def _look_up(self, topic: str) -> int | None:
        """How many partitions a topic has, None if there is no such topic."""
        self._check_open()
        name = self._name(topic)
        (told,) = self._client.call(f"looking up topic {name!r}", lambda admin: admin.describe_topics([name]))
        if told["error_code"] == kafka.errors.UnknownTopicOrPartitionError.errno:
            return None
        if told["error_code"]:
            raise LogError(
                f"{self._client}: topic {name!r}: {kafka.errors.for_code(told['error_code']).__name__}"
            )
        found = len(told["partitions"])
        self._partitions[topic] = found
        return found

    def _await_topic(self, topic: str) -> int:
        """A new topic is known to its maker before the brokers know it."""
        deadline = time.monotonic() + TOPIC_READY_S_MAX
        while (found := self._look_up(topic)) is None or not self._led(topic):
            if time.monotonic() > deadline:
                raise LogError(
                    f"{self._client}: topic {self._name(topic)!r} was made, but has no leader after "
                    f"{TOPIC_READY_S_MAX:g} s; check that enough brokers run for its replication"
                )
            time.sleep(0.02)
        return found

    def _led(self, topic: str) -> bool:
        name = self._name(topic)
        (told,) = self._client.call(f"looking up topic {name!r}", lambda admin: admin.describe_topics([name]))
        return all(entry["leader_id"] >= 0 for entry in told["partitions"])

    def _topic_settings(self, topic: str, partitions: int) -> dict[str, str]:
        keep_s, keep_bytes = self.settings.retention(topic)
        limit = self.settings.record_bytes_max + DEAD_LETTER_BYTES + (1 << 20)
        return {
            "cleanup.policy": "delete",
            # ingest time is when the broker took a record, whatever a producer says
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(limit),
            "retention.ms": str(int(keep_s * 1e3)) if keep_s > 0 else "-1",
            # the broker counts by partition
            "retention.bytes": str(max(keep_bytes // partitions, 1)) if keep_bytes > 0 else "-1",
        }


def parse_url(url: str) -> tuple[list[str], str]:
    """(host:port of each server, prefix) of a URL.

    Raises:
        LogError: it is not such a URL.

    >>> parse_url("kafka://a:9093,b/shop")
    (['a:9093', 'b:9092'], 'shop')
    """
    match = re.fullmatch(r"(?i:kafka)://([^/?#@]+)(?:/([A-Za-z0-9._-]*))?", url)
    servers = []
    for server in match[1].split(",") if match else ():
        place = re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", server)
        if place is None:
            match = None
            break
        servers.append(f"{place[1]}:{place[2] or PORT}")
    if match is None:
        raise LogError(
            "the log's URL is not of the form kafka://HOST:PORT[,HOST:PORT...][/PREFIX]; users and passwords "
            "do not belong into it (stream.log.kafka.user, password_file)"
        )
    return servers, match[2] or ""

"""A Kafka cluster as the log: `kafka://HOST:PORT[,HOST:PORT...][/PREFIX]`.

With a prefix, topic `events` is `PREFIX.events` in the cluster, so that several Freshets share one.

Topics that are made here carry the log's own limits: the broker's clock as ingest time, record size,
retention. The broker drops old records by itself. Groups' offsets are committed for lag tools only; no
consumer group is joined, since roles keep their offsets in their own state.
"""

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from ground.retry import Backoff, Pauses
from stream.errors import LogError
from stream.log.base import (
    READ_BYTES_MAX,
    READ_RECORDS_MAX,
    Log,
    Outgoing,
    Record,
    bytes_allowed,
    check_partition,
    checked_partition,
)
from stream.log.kafka.client import AuthorizationError, KafkaClient, MessageTooLargeError, result
from stream.log.kafka.groups import Groups
from stream.log.kafka.reader import Ends, TopicReader
from stream.log.kafka.rights import allowed_operations
from stream.log.kafka.topics import Topics, check_partitions
from stream.log.kafka.writer import KafkaWriter
from stream.log.settings import LOG_DEFAULTS, LogSettings

PORT = 9092
LOWERED_S = 0.1  # until a broker tells a new limit that it keeps to already
_NAME = re.compile(r"[A-Za-z0-9._-]{1,180}")
_log = logging.getLogger("freshet.kafka")


class KafkaLog(Log):
    """A `Log` in a Kafka cluster."""

    def __init__(self, url: str, settings: LogSettings = LOG_DEFAULTS, grows: bool = False) -> None:
        """Connect.

        Args:
            grows: topics may get more partitions while they are used.

        Raises:
            LogAwayError: the cluster does not answer.
            LogError: the URL or the settings are not right, or the cluster refuses the log-in.
        """
        servers, self.prefix = parse_url(url)
        self.url = url
        self.settings = settings
        self._client = KafkaClient(servers, settings.kafka)
        self._topics = Topics(self._client, settings, self.prefix, grows)
        self._ends = Ends(self._client)
        self._writer = KafkaWriter(self._client)
        self._groups = Groups(self._client)
        self._readers: dict[str, TopicReader] = {}
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        try:
            self._client.connect()
        except BaseException:
            self._client.close()
            raise

    def __str__(self) -> str:
        return f"{self._client}/{self.prefix}" if self.prefix else str(self._client)

    def create_topic(self, topic: str, partitions: int) -> None:
        self._check_open()
        name = self._topics.name(topic)
        if not _NAME.fullmatch(name):
            raise LogError(
                f"{self._client}: topic {name!r}: a name has 1 to 180 letters, digits, dots, dashes and "
                "underscores"
            )
        check_partitions(self._client, topic, partitions)
        self._topics.create(topic, partitions)

    def partitions(self, topic: str) -> int:
        self._check_open()
        return self._topics.partitions(topic)

    def topics(self) -> dict[str, int]:
        """All topics under the prefix and how many partitions each has."""
        self._check_open()
        return self._topics.all()

    def record_bytes_max(self, topic: str) -> int:
        self._check_open()
        return self._topics.record_bytes_max(topic)

    def limit_advice(self, topic: str, record_bytes: int) -> str:
        self._check_open()
        return self._topics.limit_advice(topic, record_bytes)

    def allowed(self, topics: Sequence[str]) -> dict[str, frozenset[str]]:
        self._check_open()
        found = allowed_operations(self._client, [self._topics.name(topic) for topic in topics])
        return {topic: found[self._topics.name(topic)] for topic in topics}

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        self._check_open()
        if not records:
            return []
        name = self._topics.name(topic)
        refused = Backoff(Pauses(LOWERED_S, LOWERED_S, give_up_s=self.settings.kafka.away_after_s))
        while True:
            placed = self._placed(topic, records)
            try:
                return self._writer.append(name, placed, records, self._topics.message_bytes_max(topic))
            except MessageTooLargeError:
                # the limit was lowered since we looked it up; what was taken before is told by its number
                self._topics.forget_limit(topic)
                if not refused.sleep():
                    raise

    def _placed(self, topic: str, records: Sequence[Outgoing]) -> list[int]:
        """The partition of each record.

        Raises:
            LogError: the topic does not take one of them; with what to do.
        """
        partitions = self._topics.partitions(topic)
        bytes_max = self._topics.record_bytes_max(topic)
        try:
            return [
                checked_partition(self._client, topic, record, partitions, bytes_max) for record in records
            ]
        except LogError as error:
            largest = max(len(record.key) + len(record.value) for record in records)
            refused = bytes_max < largest <= bytes_allowed(topic, self.settings.record_bytes_max)
            advice = self._topics.limit_advice(topic, largest) if refused else ""
            self._topics.forget_limit(topic)  # it may have been raised
            if advice:
                raise LogError(f"{error}: the topic takes no more. {advice}") from None
            raise

    def read_any(
        self,
        topic: str,
        offsets: Mapping[int, int],
        max_records: int = READ_RECORDS_MAX,
        max_bytes: int = READ_BYTES_MAX,
        wait_s: float = 0.0,
    ) -> dict[int, list[Record]]:
        self._check_open()
        partitions = self._topics.partitions(topic)
        for partition in offsets:
            check_partition(self._client, topic, partition, partitions)
        if not offsets:
            time.sleep(max(wait_s, 0.0))
            return {}
        return self._reader(topic).read(offsets, max(max_records, 1), max_bytes, wait_s)

    def ends(self, topic: str) -> list[tuple[int, int]]:
        self._check_open()
        partitions = range(self._topics.partitions(topic))
        found = self._ends.of(self._topics.name(topic), partitions)
        return [found[p] for p in partitions]

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """As `Log.commit`; without the right, warns once and goes on: only lag tools need it."""
        self._check_open()
        if not offsets:
            return
        name = self._topics.name(group)
        try:
            self._groups.commit(name, self._topics.name(topic), offsets)
        except AuthorizationError as error:
            self._warn_once(f"group {name}", f"{error}; lag tools will not see this role (right: READ)")

    def committed(self, group: str, topic: str) -> dict[int, int]:
        self._check_open()
        partitions = range(self._topics.partitions(topic))
        return self._groups.committed(self._topics.name(group), self._topics.name(topic), partitions)

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """As `Log.trim`; without the right, warns once and goes on: retention drops the records later."""
        self._check_open()
        check_partition(self._client, topic, partition, self._topics.partitions(topic))
        name = self._topics.name(topic)
        first, end = self._ends.of(name, [partition])[partition]
        cut = min(before_offset, end)
        if cut <= first:
            return
        wanted = TopicPartition(name, partition, cut)

        def delete(admin: AdminClient, timeout_s: float) -> None:
            for future in admin.delete_records([wanted], request_timeout=timeout_s).values():
                result(future, timeout_s)

        try:
            self._client.call(f"trimming topic {name!r}", delete)
        except AuthorizationError as error:
            self._warn_once(f"trim {name}", f"{error}; the topic's retention drops them (right: DELETE)")

    def enforce_retention(self) -> None:
        """Does nothing: the broker enforces the retention settings of its topics."""
        self._check_open()

    def close(self) -> None:
        self._client.close()
        with self._lock:
            readers, self._readers = list(self._readers.values()), {}
        for reader in readers:
            reader.close()
        self._writer.close()
        self._groups.close()

    def _check_open(self) -> None:
        if self._client.closed:
            raise LogError(f"{self._client} is closed")

    def _reader(self, topic: str) -> TopicReader:
        with self._lock:
            self._check_open()
            reader = self._readers.get(topic)
            if reader is None:
                reader = self._readers[topic] = TopicReader(
                    self._client, self._ends, self._topics.name(topic), topic
                )
            return reader

    def _warn_once(self, what: str, message: str) -> None:
        with self._lock:
            new = what not in self._warned
            self._warned.add(what)
        if new:
            _log.warning("%s", message)


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
        address = re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", server)
        if address is None:
            match = None
            break
        servers.append(f"{address[1]}:{address[2] or PORT}")
    if match is None:
        raise LogError(
            "the log's URL is not of the form kafka://HOST:PORT[,HOST:PORT...][/PREFIX]; users and passwords "
            "do not belong into it (stream.log.kafka.user, password_file)"
        )
    return servers, match[2] or ""

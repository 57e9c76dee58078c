"""Topics of a cluster: how they are created, how existing ones are checked, and how changes are detected.

A topic that was created outside Freshet may lose records (compaction), hide ingest times (`CreateTime`), or
accept only smaller records than we send. The first two are refused at start, with the command that fixes the
topic; `record_bytes_max` returns the third. While roles run, a topic that was recreated, or that got more
partitions, is detected within `CHECK_S` and stops the roles: offsets and keys have changed their meaning.
"""

import logging
import math
import threading
import time
from collections.abc import Mapping

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, TopicDescription

from stream.errors import LogError
from stream.log.base import (
    DEAD_LETTER_BYTES,
    HOW_TO_CREATE,
    PARTITIONS_MAX,
    PRODUCER_BYTES_MAX,
    bytes_allowed,
)
from stream.log.kafka.client import AuthorizationError, KafkaClient, ask, result
from stream.log.settings import LogSettings

CHECK_S = 5.0  # how often a topic that is used is looked at again
LIMIT_S = 60.0  # how long a topic's message size limit is cached
READY_S_MAX = 10.0
DEFAULT_MESSAGE_BYTES = 1_048_588  # Kafka's own max.message.bytes
SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX = 16 << 20, 1 << 30  # the latter is Kafka's own segment.bytes
SEGMENT_S_MIN, SEGMENT_S_MAX = 60.0, 7 * 86_400.0  # the latter is Kafka's own segment.ms
OVERHEAD_BYTES = 61 + 64 + PRODUCER_BYTES_MAX + 20  # of a batch of one record, beside its key and value

_log = logging.getLogger("freshet.kafka")


class Topic:
    """Cached facts of a topic: its partitions and its id ("" if the brokers give none)."""

    def __init__(self, partitions: int, topic_id: str) -> None:
        self.partitions = partitions
        self.topic_id = topic_id
        self.checked_s = time.monotonic()
        self.message_bytes: int | None = None
        self.limit_at_s = float("-inf")


class Topics:
    """The topics of one log object; may be used from several threads.

    Args:
        prefix: what the names in the cluster begin with.
        grows: topics may get more partitions while they are used.
    """

    def __init__(self, client: KafkaClient, settings: LogSettings, prefix: str, grows: bool = False) -> None:
        self._client = client
        self._settings = settings
        self._prefix = prefix
        self._grows = grows
        self._known: dict[str, Topic] = {}
        self._lock = threading.Lock()
        self._warned: set[str] = set()

    def name(self, topic: str) -> str:
        """A topic's, or a group's, name in the cluster."""
        return f"{self._prefix}.{topic}" if self._prefix else topic

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; looked up again every `CHECK_S`.

        Raises:
            LogError: there is no such topic, or it is not the one that it was.
        """
        known = self._known.get(topic)
        if known is not None and time.monotonic() - known.checked_s < CHECK_S:
            return known.partitions
        if known is not None and not self._lock.acquire(blocking=False):
            return known.partitions  # another thread is looking it up
        if known is None:
            self._lock.acquire()
        try:
            return self._check(topic)
        finally:
            self._lock.release()

    def check(self, topic: str) -> int:
        """The same, looked up now."""
        with self._lock:
            return self._check(topic)

    def _check(self, topic: str) -> int:
        known = self._known.get(topic)
        name = self.name(topic)
        found = self._find(topic)
        if found is None:
            if known is None:
                raise LogError(f"{self._client} has no topic {name!r}; create it first: {HOW_TO_CREATE}")
            raise LogError(
                f"{self._client}: topic {name!r} is gone: it was deleted while it was used; stop the "
                "roles, and start them with a new state folder, or another prefix (kafka://HOST:PORT/PREFIX)"
            )
        if known is None:
            known = self._known[topic] = found
        elif known.topic_id != found.topic_id:
            raise LogError(
                f"{self._client}: topic {name!r} was deleted and created again while it was used: its "
                "offsets mean other records now; stop the roles, and start them with a new state folder"
            )
        elif self._grows and known.partitions < found.partitions:
            known.partitions = found.partitions
        elif known.partitions != found.partitions:
            raise LogError(
                f"{self._client}: topic {name!r} had {known.partitions} partitions and now has "
                f"{found.partitions}: the events of one request may lie in two of them. Partitions are fixed "
                "when a topic is made: move to a new prefix (kafka://HOST:PORT/PREFIX) with as many as "
                "you need"
            )
        known.checked_s = time.monotonic()
        return known.partitions

    def all(self) -> dict[str, int]:
        """All topics under the prefix and how many partitions each has."""
        start = f"{self._prefix}." if self._prefix else ""
        listed = self._client.call(
            "listing topics", lambda admin, timeout_s: admin.list_topics(timeout=timeout_s).topics
        )
        return {
            name[len(start) :]: len(found.partitions)
            for name, found in sorted(listed.items())
            if name.startswith(start) and not name.startswith("__")
        }

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic, or check one that is there.

        Raises:
            LogError: it is there with other partitions, or with settings that would lose records.
        """
        name = self.name(topic)
        with self._lock:
            found = self._find(topic)
            if found is None:
                self._client.call(
                    f"making topic {name!r}", lambda admin, s: self._make(admin, s, topic, partitions)
                )
                found = self._await(topic)
            else:
                self._check_settings(topic)
            if found.partitions != partitions:
                raise LogError(
                    f"{self._client}: topic {topic!r} has {found.partitions} partitions, not {partitions}; "
                    "it is fixed when a topic is made: configure the same number, or use another prefix "
                    "(kafka://HOST:PORT/PREFIX)"
                )
            self._known.setdefault(topic, found)

    def record_bytes_max(self, topic: str) -> int:
        """The configured limit, or the topic's own if that is lower."""
        wanted = bytes_allowed(topic, self._settings.record_bytes_max)
        return max(min(wanted, self.message_bytes_max(topic) - OVERHEAD_BYTES), 0)

    def limit_advice(self, topic: str, record_bytes: int) -> str:
        """As `Log.limit_advice`: the setting, the topic's own limit, or both."""
        advice = []
        if bytes_allowed(topic, self._settings.record_bytes_max) < record_bytes:
            advice.append(
                f"Set record_bytes_max = {record_bytes} or more in section [stream.log] of the config"
            )
        if self.message_bytes_max(topic) - OVERHEAD_BYTES < record_bytes:
            command = self.alter_command(topic, f"max.message.bytes={record_bytes + (1 << 20)}")
            advice.append(f"Raise its limit: {command}")
        return "; ".join(advice)

    def message_bytes_max(self, topic: str) -> int:
        """The topic's max.message.bytes, as it was within `LIMIT_S`."""
        self.partitions(topic)
        known = self._known[topic]
        if known.message_bytes is None or time.monotonic() - known.limit_at_s > LIMIT_S:
            settings = self._settings_of(topic)
            known.message_bytes = int(settings.get("max.message.bytes", DEFAULT_MESSAGE_BYTES))
            known.limit_at_s = time.monotonic()
        return known.message_bytes

    def forget_limit(self, topic: str) -> None:
        """Look a topic's limit up again the next time."""
        known = self._known.get(topic)
        if known is not None:
            known.message_bytes = None

    def alter_command(self, topic: str, setting: str) -> str:
        """The command that gives a topic a setting."""
        return (
            f"kafka-configs.sh --bootstrap-server {self._client.servers[0]} --alter --entity-type topics "
            f"--entity-name {self.name(topic)} --add-config {setting}"
        )

    def _find(self, topic: str) -> Topic | None:
        name = self.name(topic)

        def describe(admin: AdminClient, timeout_s: float) -> TopicDescription | None:
            ask(admin, name, timeout_s)
            try:
                futures = admin.describe_topics(TopicCollection([name]), request_timeout=timeout_s)
                return result(futures[name], timeout_s)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    return None
                raise

        description = self._client.call(f"looking up topic {name!r}", describe)
        if description is None or not description.partitions:
            return None
        found = Topic(len(description.partitions), str(description.topic_id))
        self._led = all(partition.leader is not None for partition in description.partitions)
        return found

    def _make(self, admin: AdminClient, timeout_s: float, topic: str, partitions: int) -> None:
        name = self.name(topic)
        wanted = NewTopic(
            name, partitions, self._settings.kafka.replication, config=self._settings_for(topic, partitions)
        )
        try:
            result(admin.create_topics([wanted], request_timeout=timeout_s)[name], timeout_s)
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.INVALID_REPLICATION_FACTOR:
                raise self._too_few_brokers(admin, timeout_s, name) from None
            if code != KafkaError.TOPIC_ALREADY_EXISTS:  # another process has created it first
                raise

    def _too_few_brokers(self, admin: AdminClient, timeout_s: float, name: str) -> LogError:
        wanted = self._settings.kafka.replication
        copies = f"{wanted}" if wanted != -1 else "as many as the brokers' default.replication.factor"
        n = len(admin.list_topics(timeout=timeout_s).brokers)
        return LogError(
            f"{self._client}: topic {name!r} cannot be made with {copies} copies of each partition: the "
            f"cluster has {n} broker{'s' if n != 1 else ''}. Start more brokers, or set "
            f"stream.log.kafka.replication = {n}"
        )

    def _await(self, topic: str) -> Topic:
        """Wait until the brokers know a new topic: the client that created it knows it earlier."""
        deadline_s = time.monotonic() + READY_S_MAX
        while (found := self._find(topic)) is None or not self._led:
            if time.monotonic() > deadline_s:
                raise LogError(
                    f"{self._client}: topic {self.name(topic)!r} was made, but has no leader after "
                    f"{READY_S_MAX:g} s; check that enough brokers run for its replication"
                )
            time.sleep(0.02)
        return found

    def _check_settings(self, topic: str) -> None:
        settings = self._settings_of(topic)
        begin = f"{self._client}: topic {self.name(topic)!r}"
        if "compact" in settings.get("cleanup.policy", ""):
            raise LogError(
                f"{begin} is compacted (cleanup.policy={settings['cleanup.policy']}): Kafka would drop "
                "records that have not been read. Change it: "
                + self.alter_command(topic, "cleanup.policy=delete")
            )
        if settings.get("message.timestamp.type", "LogAppendTime") != "LogAppendTime":
            raise LogError(
                f"{begin} keeps the producers' times (message.timestamp.type=CreateTime): then one event "
                "with a wrong time decides all requests that wait. Change it: "
                + self.alter_command(topic, "message.timestamp.type=LogAppendTime")
            )

    def _settings_of(self, topic: str) -> Mapping[str, str]:
        """A topic's settings in the cluster; empty without the right to read them."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, self.name(topic))

        def describe(admin: AdminClient, timeout_s: float) -> Mapping[str, str]:
            futures = admin.describe_configs([resource], request_timeout=timeout_s)
            (settings,) = (result(future, timeout_s) for future in futures.values())
            return {key: str(entry.value) for key, entry in settings.items() if entry.value is not None}

        try:
            return self._client.call(f"reading the settings of topic {self.name(topic)!r}", describe)
        except AuthorizationError as error:
            if topic not in self._warned:
                self._warned.add(topic)
                _log.warning("%s; its settings are not checked (right: DESCRIBE_CONFIGS)", error)
            return {}

    def _settings_for(self, topic: str, partitions: int) -> dict[str, str]:
        keep_s, keep_bytes = (limit if limit > 0 else math.inf for limit in self._settings.retention(topic))
        keep_bytes = max(keep_bytes / partitions, 1)  # the broker counts by partition
        limit = self._settings.record_bytes_max + DEAD_LETTER_BYTES + (1 << 20)
        # A broker drops whole segments, and never the one it writes to: with Kafka's own 1 GiB and 7 days a
        # topic that keeps an hour would hold a week. So a segment is at most about a quarter of what is kept.
        segment_s = min(max(keep_s / 4, SEGMENT_S_MIN), SEGMENT_S_MAX)
        segment_bytes = max(min(keep_bytes / 4, SEGMENT_BYTES_MAX), SEGMENT_BYTES_MIN, limit)
        return {
            "cleanup.policy": "delete",
            # ingest time is set by the broker, and producers cannot change it
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(limit),
            "retention.ms": str(int(keep_s * 1e3)) if keep_s < math.inf else "-1",
            "retention.bytes": str(int(keep_bytes)) if keep_bytes < math.inf else "-1",
            "segment.ms": str(int(segment_s * 1e3)),
            "segment.bytes": str(int(segment_bytes)),
        }


def check_partitions(log: object, topic: str, partitions: int) -> None:
    """Raises LogError, naming the log, unless a topic may have so many partitions."""
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise LogError(f"{log}: topic {topic!r} cannot have {partitions} partitions; 1 to {PARTITIONS_MAX}")

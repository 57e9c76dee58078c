"""Offsets that groups commit, for lag tools. No group is joined.

Each group has a consumer of its own that only commits and asks. The library's administration can do both too,
but its requests to a group's coordinator that died wait for ever, also once the broker is back, and abort the
process when their client is closed.
"""

import threading
import time
from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream.errors import LogError
from stream.log.kafka.client import KafkaClient

POLL_S = 0.005  # the library wakes nobody when an answer comes


class Groups:
    """The groups of one log object; may be used from several threads.

    Group and topic are named as in the cluster.
    """

    def __init__(self, client: KafkaClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._groups: dict[str, _Group] = {}

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Commit the next offset of each partition.

        Raises:
            LogAwayError, LogError: see `KafkaClient.retry`.
        """
        wanted = [TopicPartition(topic, p, offset) for p, offset in sorted(offsets.items())]
        found = self._group(group)
        with found.lock:
            self._client.retry(f"committing group {group!r}", lambda s: found.commit(wanted, s), found.serve)

    def committed(self, group: str, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """The offsets that were committed; a partition without one is left out.

        Raises:
            LogAwayError, LogError: see `KafkaClient.retry`.
        """
        wanted = [TopicPartition(topic, p) for p in partitions]
        found = self._group(group)
        with found.lock:
            return self._client.retry(
                f"reading group {group!r}", lambda s: found.committed(wanted, s), found.serve
            )

    def close(self) -> None:
        """End the consumers. The client must be closed; a call that waits ends with an error."""
        with self._lock:
            groups, self._groups = list(self._groups.values()), {}
        for group in groups:
            with group.lock:
                group.consumer.close()

    def _group(self, name: str) -> "_Group":
        with self._lock:
            if self._client.closed:
                raise LogError(f"{self._client} is closed")
            found = self._groups.get(name)
            if found is None:
                found = self._groups[name] = _Group(self._client, name)
            return found


class _Group:
    """One group. Hold `lock` to call it."""

    def __init__(self, client: KafkaClient, name: str) -> None:
        self.lock = threading.Lock()
        self._client = client
        self._answers: list[tuple[KafkaError | None, list[TopicPartition]]] = []
        settings = {
            **client.options(f"freshet-{name}"),
            "group.id": name,
            "enable.auto.commit": False,
            "on_commit": lambda error, places: self._answers.append((error, places)),
        }
        try:
            self.consumer = Consumer(settings)
        except KafkaException as error:
            raise LogError(f"{client} cannot be used: {error.args[0].str()}") from None

    def serve(self) -> None:
        """Process the library's callbacks."""
        self.consumer.poll(0.0)

    def commit(self, wanted: list[TopicPartition], timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        self._answers.clear()
        # a commit that waits for its answer in the library has no time limit
        self.consumer.commit(offsets=wanted, asynchronous=True)
        while (answer := self._answer(wanted)) is None:
            if self._client.closed:
                raise LogError(f"{self._client} is closed")
            if time.monotonic() > deadline_s:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            self.consumer.poll(POLL_S)
        error, places = answer
        for failed in (error, *(place.error for place in places)):
            if failed is not None:
                raise KafkaException(failed)

    def committed(self, wanted: list[TopicPartition], timeout_s: float) -> dict[int, int]:
        places = self.consumer.committed(wanted, timeout_s)
        for place in places:
            if place.error is not None:
                raise KafkaException(place.error)
        return {place.partition: place.offset for place in places if place.offset >= 0}

    def _answer(self, wanted: list[TopicPartition]) -> tuple[KafkaError | None, list[TopicPartition]] | None:
        """The answer to a commit; one to an earlier commit, which was given up, may come first."""
        places = [(place.partition, place.offset) for place in wanted]
        for error, answered in self._answers:
            if sorted((place.partition, place.offset) for place in answered) == places:
                return error, answered
        return None

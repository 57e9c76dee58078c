"""Appending to Kafka: idempotent, acknowledged by all replicas in sync, in order.

The client library keeps the order: in each partition, the broker holds a prefix of an append. An append that
is not acknowledged in time is cancelled, together with its producer: records in flight may still arrive,
records that were not sent never do, and the next append uses a new producer id. So a receiver that keeps the
last sequence number of a producer never skips a record.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from stream.errors import LogAwayError, LogError
from stream.log.base import Outgoing
from stream.log.kafka.client import KafkaClient
from stream.log.kafka.mark import write_mark

BATCH_BYTES_MAX = 900_000  # under the brokers' default limit; a larger record is a batch of its own
BATCH_HEAD_BYTES = 100  # what a batch has beside its records, at most
QUEUE_KBYTES_MAX = 256 << 10
QUEUE_RECORDS_MAX = 1_000_000
MESSAGE_BYTES_MAX = 1_000_000_000  # the topic's own limit is checked before
POLL_S = 0.1
TAKE_BACK_S = 1.0
CAUSE_TRIES = 10
_CONSEQUENCES = frozenset(
    {
        KafkaError._FATAL, KafkaError._GAPLESS_GUARANTEE, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT,
    }
)  # fmt: skip
"""Errors of a producer, and of records that it did not send, since a record failed: they do not say why."""


class KafkaWriter:
    """Appends for all threads of a process, one append at a time."""

    def __init__(self, client: KafkaClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        # by the size of a batch: topics that take little need smaller ones
        self._producers: dict[int, Producer] = {}

    def append(
        self, name: str, placed: Sequence[int], records: Sequence[Outgoing], message_bytes_max: int
    ) -> list[tuple[int, int]]:
        """Append each record to the partition that `placed` says; returns (partition, offset) of each.

        Args:
            name: the topic, as the cluster calls it.
            message_bytes_max: what the topic takes at once.

        Raises:
            LogAwayError: not all were acknowledged in time.
            LogError: the cluster refuses them.
        """
        batch_bytes = max(min(BATCH_BYTES_MAX, message_bytes_max - BATCH_HEAD_BYTES), 1)
        with self._lock:
            append = _Append(self._client, name, len(records))
            producer = self._producer(batch_bytes)
            try:
                append.run(producer, placed, records)
            except BaseException:
                del self._producers[batch_bytes]
                with contextlib.suppress(KafkaException, SystemError):
                    producer.purge()
                    producer.flush(TAKE_BACK_S)
                raise
            return append.positions(placed)

    def close(self) -> None:
        """End the producers; an append that waits ends with an error."""
        with self._lock:
            self._producers.clear()

    def _producer(self, batch_bytes: int) -> Producer:
        if self._client.closed:
            raise LogError(f"{self._client} is closed")
        found = self._producers.get(batch_bytes)
        if found is None:
            settings = {
                **self._client.options("freshet"),
                "acks": "all",
                "enable.idempotence": True,
                # our clock ends an append as a whole: no record times out before later ones
                "message.timeout.ms": 0,
                "enable.gapless.guarantee": True,
                "request.timeout.ms": max(int(self._client.settings.away_after_s * 1e3), 100),
                "batch.size": batch_bytes,
                "batch.num.messages": 1_000_000,
                "message.max.bytes": MESSAGE_BYTES_MAX,
                "queue.buffering.max.kbytes": QUEUE_KBYTES_MAX,
                "queue.buffering.max.messages": QUEUE_RECORDS_MAX,
                "topic.metadata.propagation.max.ms": max(int(self._client.settings.away_after_s * 1e3), 100),
                "linger.ms": 5,  # while an append is handed over; waiting for its end sends at once
            }
            try:
                found = self._producers[batch_bytes] = Producer(settings)
            except KafkaException as error:
                raise LogError(f"{self._client} cannot be used: {error.args[0].str()}") from None
        return found


class _Append:
    """One append in progress."""

    def __init__(self, client: KafkaClient, name: str, count: int) -> None:
        self._client = client
        self._name = name
        self._what = f"appending to topic {name!r}"
        self._count = count
        self._offsets: dict[int, list[int]] = {}
        self._done = 0
        self._problem: KafkaError | None = None

    def run(self, producer: Producer, placed: Sequence[int], records: Sequence[Outgoing]) -> None:
        """Send all and wait until all are acknowledged.

        Raises:
            LogAwayError, LogError: as `KafkaWriter.append` says.
        """
        self._quiet_from_s = time.monotonic()
        produce, name, delivered = producer.produce, self._name, self._delivered
        for record, partition in zip(records, placed, strict=True):
            headers = write_mark(record.producer, record.seq)
            while True:
                try:
                    produce(name, record.value, record.key, partition, on_delivery=delivered, headers=headers)
                    break
                except BufferError:  # the library's queue is full
                    self._serve(producer.poll)
                except KafkaException as error:
                    self._problem = self._problem or error.args[0]
                    self._hear_why(producer.poll)
                    self._check()
        while self._done < self._count:
            self._serve(producer.flush)

    def positions(self, placed: Sequence[int]) -> list[tuple[int, int]]:
        """(partition, offset) of each record."""
        following = {partition: iter(offsets) for partition, offsets in self._offsets.items()}
        return [(partition, next(following[partition])) for partition in placed]

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        # those of a partition come in its order
        if error is not None:
            # others fail because of the first one, and those that were not sent yet may be told before it
            if self._problem is None or self._problem.code() in _CONSEQUENCES:
                self._problem = error
            return
        partition, offset = message.partition(), message.offset()
        assert partition is not None and offset is not None
        self._offsets.setdefault(partition, []).append(offset)
        self._done += 1
        self._quiet_from_s = time.monotonic()

    def _serve(self, wait: Callable[[float], int]) -> None:
        """Wait a moment for the library's callbacks."""
        try:
            wait(POLL_S)
        except (KafkaException, SystemError) as error:
            # after a fatal error the producer raises this from any call, also within our functions
            failed = error if isinstance(error, KafkaException) else error.__cause__
            if not isinstance(failed, KafkaException):
                raise
            self._problem = self._problem or failed.args[0]
        self._hear_why(wait)
        self._check()

    def _hear_why(self, wait: Callable[[float], int]) -> None:
        """If all we know is what follows from an error, wait for the error itself, which comes behind it."""
        for _ in range(CAUSE_TRIES):
            if self._problem is None or self._problem.code() not in _CONSEQUENCES:
                return
            with contextlib.suppress(KafkaException, SystemError):
                wait(POLL_S)

    def _check(self) -> None:
        if self._client.closed:
            raise LogError(f"{self._client} is closed")
        if self._problem is not None:
            try:
                self._client.judge(self._what, self._problem)
            except LogError as error:
                if self._done:
                    raise type(error)(
                        f"{error} ({self._done} of {self._count} records were taken before)"
                    ) from None
                raise
            raise self._client.away(self._what, self._problem)
        if time.monotonic() - self._quiet_from_s > self._client.settings.away_after_s:
            raise self._away()

    def _away(self) -> LogAwayError:
        return self._client.away(self._what, self._problem)

"""Appending to Kafka: idempotent, acknowledged by all replicas in sync, in order.

One batch of a partition is on its way at a time, and the next one is sent only when it has been
acknowledged. So whatever fails, what a partition has of an append is its front: a receiver that keeps
the last sequence number of a producer never takes a later record for granted while an earlier one is
missing. A batch that is sent again, because its answer was lost, is recognised by the broker.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import kafka.errors
from kafka.protocol.producer import InitProducerIdRequest, ProduceRequest

from stream.log.base import Outgoing
from stream.log.kafka.batches import BATCH_BYTES, RECORD_BYTES, Producing, encode_batch
from stream.log.kafka.client import Attempts, KafkaClient

BATCH_BYTES_MAX = 900_000  # under the brokers' default limit; a larger record is a batch of its own
REQUEST_BYTES_MAX = 16 << 20
PRODUCE_VERSION_MAX = 9
_BROKEN_SEQUENCE = (
    kafka.errors.OutOfOrderSequenceNumberError,
    kafka.errors.UnknownProducerIdError,
    kafka.errors.InvalidProducerEpochError,
)


class _Batch(NamedTuple):
    partition: int
    records: list[Outgoing]
    at: list[int]  # where each of them stood in the append


class Writer:
    """Appends for all threads of a process, one append at a time."""

    def __init__(self, client: KafkaClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._id: tuple[int, int] | None = None  # producer id, epoch
        self._sequences: dict[tuple[str, int], int] = {}

    def append(self, topic: str, placed: Sequence[int], records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Append each record to the partition that `placed` says; returns (partition, offset) of each.

        Raises:
            LogAwayError: not all were acknowledged in time.
            LogError: the cluster refuses them.
        """
        queues: dict[int, list[_Batch]] = {}
        for batch in _cut(placed, records):
            queues.setdefault(batch.partition, []).append(batch)
        taken = [(0, 0)] * len(records)
        with self._lock:
            while queues:
                stage: list[_Batch] = []
                size = 0
                for queue in list(queues.values()):
                    size += sum(len(record.value) for record in queue[0].records)
                    if stage and size > REQUEST_BYTES_MAX:
                        break
                    stage.append(queue[0])
                for batch, base in self._send(topic, stage):
                    for i, place in enumerate(batch.at):
                        taken[place] = batch.partition, base + i
                    queue = queues[batch.partition]
                    del queue[0]
                    if not queue:
                        del queues[batch.partition]
        return taken

    def _send(self, topic: str, stage: Sequence[_Batch]) -> list[tuple[_Batch, int]]:
        """Send one batch to each of some partitions, until all are acknowledged; (batch, base offset)."""
        client = self._client
        what = f"appending to topic {topic!r}"
        attempts = Attempts(client.settings.away_after_s)
        waiting = {batch.partition: batch for batch in stage}
        encoded: dict[int, bytes] = {}
        done: list[tuple[_Batch, int]] = []
        while waiting:
            problem: kafka.errors.KafkaError = kafka.errors.LeaderNotAvailableError()
            try:
                if self._id is None:
                    self._start(what)
                    encoded.clear()
                for partition, batch in waiting.items():
                    if partition not in encoded:
                        encoded[partition] = self._encode(topic, batch)
                for partition, answer in self._ask(topic, {p: encoded[p] for p in waiting}).items():
                    if isinstance(answer, int):
                        batch = waiting.pop(partition)
                        self._sequences[topic, partition] += len(batch.records)
                        done.append((batch, answer))
                    elif isinstance(answer, _BROKEN_SEQUENCE):
                        # The broker has forgotten this producer. Under a new id it may take a batch again
                        # that it had already: its records' own numbers tell their receiver.
                        self._id = None
                        problem = answer
                    else:
                        problem = answer
                        client.judge(what, answer)
                if waiting and not attempts.wait():
                    raise client.away(what, problem)
                if waiting:
                    client.refresh(topic)
            except BaseException:
                # what is still on its way must not be followed by another under the same number
                self._id = None
                raise
        return done

    def _ask(self, topic: str, batches: dict[int, bytes]) -> dict[int, int | kafka.errors.KafkaError]:
        """Send batches to their leaders: the base offset of each, or why it is not acknowledged."""
        client = self._client
        leaders = client.leaders(topic, list(batches))
        if len(leaders) < len(batches):
            client.refresh(topic)
            leaders = client.leaders(topic, list(batches))
        answers: dict[int, int | kafka.errors.KafkaError] = {
            p: kafka.errors.LeaderNotAvailableError() for p in batches
        }
        by_node: dict[int, list[int]] = {}
        for partition, node in leaders.items():
            by_node.setdefault(node, []).append(partition)
        requests = {
            node: _request(topic, {p: batches[p] for p in partitions}, client.settings.away_after_s)
            for node, partitions in by_node.items()
        }
        for node, response in client.exchange(requests).items():
            if isinstance(response, kafka.errors.KafkaError):
                answers.update(dict.fromkeys(by_node[node], response))
                continue
            for part in response.responses[0].partition_responses:
                error = kafka.errors.for_code(part.error_code)
                if error in (kafka.errors.NoError, kafka.errors.DuplicateSequenceNumberError):
                    answers[part.index] = int(part.base_offset)
                else:
                    answers[part.index] = error(getattr(part, "error_message", None) or error.description)
        return answers

    def _encode(self, topic: str, batch: _Batch) -> bytes:
        assert self._id is not None
        sequence = self._sequences.setdefault((topic, batch.partition), 0)
        # the protocol's counter starts again at 0 after 2^31 - 1
        producing = Producing(*self._id, sequence & 0x7FFFFFFF)
        return encode_batch(batch.records, producing, time.time_ns() // 1_000_000)

    def _start(self, what: str) -> None:
        def ask(admin: Any) -> tuple[int, int]:
            request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=60_000)
            response = admin._manager.run(admin._manager.send, request)
            error = kafka.errors.for_code(response.error_code)
            if error is not kafka.errors.NoError:
                raise error()
            return response.producer_id, response.producer_epoch

        self._id = self._client.call(what, ask)
        self._sequences.clear()


def _cut(placed: Sequence[int], records: Sequence[Outgoing]) -> Iterator[_Batch]:
    """The records as batches of bounded size, those of a partition in order."""
    open_batches: dict[int, tuple[_Batch, int]] = {}
    for place, (partition, record) in enumerate(zip(placed, records, strict=True)):
        size = len(record.key) + len(record.value) + len(record.producer) + RECORD_BYTES
        batch, held = open_batches.get(partition, (None, 0))
        if batch is None or held + size > BATCH_BYTES_MAX:
            if batch is not None:
                yield batch
            batch, held = _Batch(partition, [], []), BATCH_BYTES
        batch.records.append(record)
        batch.at.append(place)
        open_batches[partition] = batch, held + size
    for batch, _ in open_batches.values():
        yield batch


def _request(topic: str, batches: dict[int, bytes], timeout_s: float) -> ProduceRequest:
    data = ProduceRequest.TopicProduceData
    parts = [data.PartitionProduceData(index=p, records=batch) for p, batch in batches.items()]
    return ProduceRequest(
        transactional_id=None,
        acks=-1,
        timeout_ms=int(timeout_s * 1e3),
        topic_data=[data(name=topic, partition_data=parts)],
        max_version=PRODUCE_VERSION_MAX,
    )

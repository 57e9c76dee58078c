"""Partitions whose records wait for a transaction that does not end, as after its producer has died.

Readers of committed records get nothing behind its first record, and the end that the brokers tell is there
too: so to a reader all looks well.
"""

import logging
import time
from collections.abc import Mapping

from confluent_kafka import Consumer, TopicPartition

LOOK_EVERY_S = 1.0
OPEN_S = 30.0  # how long a partition's readable end stands still, behind records, before we say so
AGAIN_S = 600.0  # and until we say so again

_log = logging.getLogger("freshet.kafka")


class OpenTransactions:
    """Warns of them; for one reader of a topic.

    Args:
        name: the topic, as the cluster calls it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._due_s = float("-inf")  # when to look again
        self._standing: dict[int, tuple[int, float]] = {}  # partition -> its readable end, when to warn

    def look(self, consumer: Consumer, readable: Mapping[int, int]) -> None:
        """Compare the ends of partitions, once a second, and warn where they differ for long.

        Args:
            consumer: knows where the records end, from the brokers' answers to its fetches.
            readable: by partition, the end of what may be read, where the consumer has reached it.
        """
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + LOOK_EVERY_S
        for partition, end in readable.items():
            found = consumer.get_watermark_offsets(TopicPartition(self._name, partition), cached=True)
            waiting = found[1] - end if found is not None else 0
            if waiting <= 0:
                self._standing.pop(partition, None)
                continue
            stood_at, warn_s = self._standing.get(partition, (-1, 0.0))
            if stood_at != end:
                self._standing[partition] = end, now_s + OPEN_S
            elif now_s >= warn_s:
                self._standing[partition] = end, now_s + AGAIN_S
                _log.warning(
                    "topic %r, partition %d: %d records from offset %d on wait for a transaction that does "
                    "not end: none of them is read before. The brokers abort it after its producer's "
                    "transaction.timeout.ms; if they do not, find it with `kafka-transactions.sh "
                    "find-hanging` and end it with its `abort`",
                    self._name, partition, waiting, end,
                )  # fmt: skip

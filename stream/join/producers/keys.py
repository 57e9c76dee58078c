"""Whether producers' keys lie in the partition that Kafka's Java client would choose: a sample of records."""

import logging

from stream.log.base import Record, partition_of

NAMES_MAX = 100
LOOKED_MIN = 20  # records of a producer before anything is said of it
MISPLACED_SHARE_MAX = 0.2
OWN_KEYS = (b"", b"tick", b"forget")  # of records that roles send to a partition of their choice
NAMELESS, OTHERS = "(no name)", "(others)"

_log = logging.getLogger("freshet.joiner")


class KeyPlaces:
    """Records looked at, and those in another partition than their key's, by producer.

    Args:
        partitions: of the topic.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._looked: dict[str, int] = {}
        self._misplaced: dict[str, int] = {}
        self._warned: set[str] = set()

    def misplaced(self) -> dict[str, int]:
        """Records in another partition than their key's, by producer. May be called from any thread."""
        return dict(self._misplaced)

    def look(self, record: Record) -> None:
        """Look at one record of a producer."""
        if self._partitions <= 1 or record.key in OWN_KEYS:
            return
        name = record.producer or NAMELESS
        if name not in self._looked and len(self._looked) >= NAMES_MAX:
            name = OTHERS
        looked = self._looked[name] = self._looked.get(name, 0) + 1
        wanted = partition_of(record.key, self._partitions)
        if wanted == record.partition:
            return
        count = self._misplaced[name] = self._misplaced.get(name, 0) + 1
        if looked >= LOOKED_MIN and count > MISPLACED_SHARE_MAX * looked and name not in self._warned:
            self._warned.add(name)
            _log.warning(
                "producer %s: %d of %d records looked at lie in another partition than their key's (the "
                "last: key %.40r in partition %d, by murmur2 it is %d), so they do not meet those of other "
                "producers. Key them by request_id, with murmur2: partitioner=murmur2_random in clients of "
                "librdkafka, the default in Java's; or read the topic as a source (freshet ingest)",
                name, count, looked, record.key, record.partition, wanted,
            )  # fmt: skip

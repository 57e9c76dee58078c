"""All that was ever appended to a simulated log, also what it has dropped since: for the books."""

from collections import defaultdict

from stream.log.base import Log, Outgoing, Record
from stream.log.testing import MemoryLog

EVERYTHING = 10**7, 1 << 50


class _Replay:
    """The clock of a log that is filled with what another one had: it shows when that one took a record."""

    def __init__(self) -> None:
        self.unix_ms = 0

    def unix_s(self) -> float:
        return (self.unix_ms + 0.5) / 1e3

    def now_s(self) -> float:
        return 0.0


class Archive:
    """Keeps what a log drops.

    Args:
        log: before it drops something, `keep` is called.
    """

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._gone: dict[tuple[str, int], dict[int, Record]] = defaultdict(dict)

    def keep(self, topic: str, partition: int, before: int) -> None:
        """Keep the records before an offset."""
        gone = self._gone[topic, partition]
        for record in self._log.read(topic, partition, 0, *EVERYTHING):
            if record.offset >= before:
                break
            gone[record.offset] = record

    def records(self, topic: str, partition: int) -> list[Record]:
        """All records that a partition ever had."""
        there = {record.offset: record for record in self._log.read(topic, partition, 0, *EVERYTHING)}
        return [record for _, record in sorted((self._gone[topic, partition] | there).items())]

    def log(self, *topics: str) -> Log:
        """A log with all records of some topics at their offsets."""
        clock = _Replay()
        made = MemoryLog(clock=clock, notes_times=self._log.notes_times)  # type: ignore[arg-type]
        for topic in topics:
            partitions = self._log.partitions(topic)
            made.create_topic(topic, partitions)
            for partition in range(partitions):
                end = 0
                together: list[Outgoing] = []  # what stands behind one another and has one time
                for record in self.records(topic, partition):
                    taken_ms = record.ingest_ms or record.created_ms
                    if record.offset > end or taken_ms != clock.unix_ms:
                        made.append(topic, together)
                        together = []
                        clock.unix_ms = taken_ms
                    if record.offset > end:
                        made.skip(topic, partition, record.offset - end)
                    again = Outgoing(record.key, record.value, partition, record.producer, record.seq)
                    together.append(again)
                    end = record.offset + 1
                made.append(topic, together)
        return made

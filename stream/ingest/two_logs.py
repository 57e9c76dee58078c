"""A log that reads one topic of another log, and appends to its own: what a runner of ingest is given."""

from collections.abc import Mapping, Sequence

from stream.log.base import READ_BYTES_MAX, READ_RECORDS_MAX, Log, Outgoing, Record

KEPT_MAX = 10_000  # records of a partition that are read, and not taken yet


class TwoLogs(Log):
    """Reads `theirs`, appends to `ours`. Of one thread, as its runner.

    What its reader did not take is kept, and given again: a source that waits would else be fetched anew each
    time.
    """

    def __init__(self, theirs: Log, ours: Log) -> None:
        self._theirs = theirs
        self._ours = ours
        self._kept: dict[int, tuple[int, list[Record]]] = {}  # partition -> (from where on, records)

    def __str__(self) -> str:
        return str(self._theirs)

    def partitions(self, topic: str) -> int:
        return self._theirs.partitions(topic)

    def record_bytes_max(self, topic: str) -> int:
        return self._ours.record_bytes_max(topic)

    def limit_advice(self, topic: str, record_bytes: int) -> str:
        return self._ours.limit_advice(topic, record_bytes)

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        return self._ours.append(topic, records)

    def read_any(
        self,
        topic: str,
        offsets: Mapping[int, int],
        max_records: int = READ_RECORDS_MAX,
        max_bytes: int = READ_BYTES_MAX,
        wait_s: float = 0.0,
    ) -> dict[int, list[Record]]:
        kept = {partition: self._kept_from(partition, offset) for partition, offset in offsets.items()}
        ask = {
            partition: records[-1].offset + 1 if records else offsets[partition]
            for partition, records in kept.items()
            if len(records) < KEPT_MAX
        }
        wait_s = 0.0 if any(kept.values()) else wait_s
        fresh = self._theirs.read_any(topic, ask, max_records, max_bytes, wait_s) if ask else {}
        found = {}
        self._kept = {}
        for partition, offset in offsets.items():
            records = kept[partition] + fresh.get(partition, [])
            if records:
                self._kept[partition] = offset, records
                found[partition] = records[:max_records]
        return found

    def create_topic(self, topic: str, partitions: int) -> None:
        self._ours.create_topic(topic, partitions)

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        raise NotImplementedError("the records of others are not ours to drop")

    def enforce_retention(self) -> None:
        self._ours.enforce_retention()

    def close(self) -> None:
        """Does nothing: both logs are closed by who opened them."""

    def ends(self, topic: str) -> list[tuple[int, int]]:
        return self._theirs.ends(topic)

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        self._theirs.commit(group, topic, offsets)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        return self._theirs.committed(group, topic)

    def _kept_from(self, partition: int, offset: int) -> list[Record]:
        begin, records = self._kept.get(partition, (offset, []))
        if not begin <= offset:
            return []
        return [record for record in records if record.offset >= offset]

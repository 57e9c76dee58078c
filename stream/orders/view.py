"""The log as one of several models sees it: `updates` and `snapshots` are its own."""

from collections.abc import Mapping, Sequence

import msgspec

from stream.log.base import READ_BYTES_MAX, READ_RECORDS_MAX, Log, Outgoing, Record
from stream.orders.names import MAIN, OWN_TOPICS, own_name


class ModelLog(Log):
    """A log whose topics of models, and groups, are those of one model. Closing it leaves the log open.

    Args:
        log: the shared log.
        model: the model's name.
    """

    def __init__(self, log: Log, model: str) -> None:
        self._log = log
        self._model = model
        self._names = {topic: own_name(topic, model) for topic in OWN_TOPICS}

    def __str__(self) -> str:
        return str(self._log)

    def _of(self, topic: str) -> str:
        return self._names.get(topic, topic)

    def create_topic(self, topic: str, partitions: int) -> None:
        self._log.create_topic(self._of(topic), partitions)

    def partitions(self, topic: str) -> int:
        return self._log.partitions(self._of(topic))

    def record_bytes_max(self, topic: str) -> int:
        return self._log.record_bytes_max(self._of(topic))

    def limit_advice(self, topic: str, record_bytes: int) -> str:
        return self._log.limit_advice(self._of(topic), record_bytes)

    def allowed(self, topics: Sequence[str]) -> dict[str, frozenset[str]] | None:
        found = self._log.allowed([self._of(topic) for topic in topics])
        return None if found is None else {topic: found[self._of(topic)] for topic in topics}

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        return self._log.append(self._of(topic), records)

    def read_any(
        self,
        topic: str,
        offsets: Mapping[int, int],
        max_records: int = READ_RECORDS_MAX,
        max_bytes: int = READ_BYTES_MAX,
        wait_s: float = 0.0,
    ) -> dict[int, list[Record]]:
        found = self._log.read_any(self._of(topic), offsets, max_records, max_bytes, wait_s)
        if topic not in self._names:
            return found
        return {p: [msgspec.structs.replace(r, topic=topic) for r in records] for p, records in found.items()}

    def ends(self, topic: str) -> list[tuple[int, int]]:
        return self._log.ends(self._of(topic))

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        self._log.commit(own_name(group, self._model), self._of(topic), offsets)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        return self._log.committed(own_name(group, self._model), self._of(topic))

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        self._log.trim(self._of(topic), partition, before_offset)

    def enforce_retention(self) -> None:
        self._log.enforce_retention()

    def close(self) -> None:
        """Nothing: the shared log belongs to whoever opened it."""


def log_of(log: Log, model: str) -> Log:
    """The log as a model sees it; the log itself for the model without a suffix."""
    return log if model in ("", MAIN) else ModelLog(log, model)

"""Parts of topics, record by record."""

from collections import deque
from collections.abc import Iterator

from stream.log.base import READ_RECORDS_MAX, Log, Record

LOOK_BACK_MAX = 1_000
BYTES_MAX = 256 << 20


def read_range(log: Log, topic: str, partition: int, first: int, end: int) -> Iterator[Record]:
    """The records of a partition with offsets from `first` up to `end`, as far as the log has them.

    Raises:
        LogError: the log fails.
    """
    at = first
    while at < end:
        records = log.read(topic, partition, at, min(end - at, READ_RECORDS_MAX))
        if not records:
            return  # only offsets without records are left
        at = records[-1].offset + 1
        yield from (record for record in records if record.offset < end)


def newest(log: Log, topic: str, count: int) -> list[list[Record]]:
    """The newest records of each partition, about `count` in all.

    Where offsets have no records (compaction, markers of transactions, aborted records) it looks further
    back, over `LOOK_BACK_MAX` times as many offsets at most; and it keeps about `BYTES_MAX` bytes at most.

    Raises:
        LogError: the log fails, or there is no such topic.
    """
    ends = log.ends(topic)
    each, bytes_max = _each(count, [end - first for first, end in ends]), BYTES_MAX // len(ends)
    found = []
    for partition, (first, end) in enumerate(ends):
        kept: deque[Record] = deque()
        begin, back = end, each
        while len(kept) < each and first < begin and end - begin < LOOK_BACK_MAX * each:
            before, begin = begin, max(first, end - back)
            piece = deque(read_range(log, topic, partition, begin, before), each - len(kept))
            kept.extendleft(reversed(piece))
            back *= 4
        size = sum(len(record.value) for record in kept)
        while size > bytes_max and len(kept) > 1:
            size -= len(kept.popleft().value)
        found.append(list(kept))
    return found


def _each(count: int, sizes: list[int]) -> int:
    """How many to take of each partition: of the larger ones more, where others have few."""
    each = count
    for at, size in enumerate(sorted(sizes)):
        each = -(-count // (len(sizes) - at))
        if size >= each:
            break
        count -= size
    return max(each, 1)

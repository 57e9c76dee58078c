"""Many events as few messages: those of one partition travel together, in their order, as batches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stream.limits import BATCH_EVENTS_MAX, RECORD_BYTES_MAX
from stream.log.base import Outgoing, destination
from stream.records.decoding import is_msgpack
from stream.records.types import join_batch

BATCH_HEAD_BYTES = 5  # before the first event of a message of several


class Message(NamedTuple):
    """One message for topic `events`."""

    partition: int
    key: bytes
    value: bytes
    events: Sequence[int]  # which of the events are in it, counted from 0


def pack(records: Sequence[Outgoing], partitions: int, events_max: int = BATCH_EVENTS_MAX) -> list[Message]:
    """Events as messages of at most `events_max` each, partition by partition.

    An event that is not MessagePack travels alone, and so does one that is larger than a batch may be.

    >>> [(m.partition, list(m.events)) for m in pack([Outgoing(b"a", b"\\x80"), Outgoing(b"b", b"\\x80")], 1)]
    [(0, [0, 1])]
    """
    by_partition: dict[int, list[int]] = {}
    for i, record in enumerate(records):
        by_partition.setdefault(destination(record, partitions), []).append(i)
    values = [record.value for record in records]
    messages = []
    for partition, indices in by_partition.items():
        for piece in _cut(indices, values, events_max):
            first = piece[0]
            value = values[first] if len(piece) == 1 else join_batch([values[i] for i in piece])
            messages.append(Message(partition, records[first].key, value, piece))
    return messages


def _cut(indices: Sequence[int], values: Sequence[bytes], events_max: int) -> Iterator[list[int]]:
    """The events in order, as many together as one message may hold."""
    piece: list[int] = []
    size = BATCH_HEAD_BYTES
    alone = False
    for i in indices:
        value = values[i]
        foreign = not is_msgpack(value)
        full = len(piece) == events_max or size + len(value) > RECORD_BYTES_MAX
        if piece and (full or alone or foreign):
            yield piece
            piece, size = [], BATCH_HEAD_BYTES
        piece.append(i)
        size += len(value)
        alone = foreign
    if piece:
        yield piece

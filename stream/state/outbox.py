"""The outbox: committed records that may not be in the log yet, in blocks.

A block holds the records that one commit sends to one topic, in pieces of bounded size. It is written, sent
and deleted as a whole. Its key is its number, so blocks are sent in the order of their commits.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from stream.log.base import Outgoing

BLOCK_RECORDS_MAX = 4000
BLOCK_BYTES_MAX = 8 << 20


class OutboxBlock(NamedTuple):
    """Records to be appended to one topic at once."""

    number: int
    topic: str
    records: Sequence[Outgoing]


class _Stored(msgspec.Struct, array_like=True):
    topic: str
    records: list[Outgoing]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode


class Outbox:
    """The blocks of one state that are committed and not known to be sent."""

    def __init__(self, stored: Iterable[tuple[bytes, bytes]]) -> None:
        """Take up what is on disk: (key, value) in key order.

        Raises:
            msgspec.MsgspecError: it is damaged.
        """
        self.blocks: deque[OutboxBlock] = deque()
        for key, value in stored:
            self.blocks.append(decode_block(key, value))
        self._next = self.blocks[-1].number + 1 if self.blocks else 0
        self._struck: list[int] = []

    def cut(self, sending: Iterable[tuple[str, Sequence[Outgoing]]]) -> list[OutboxBlock]:
        """The records of one commit as blocks; call `keep` once they are written."""
        blocks: list[OutboxBlock] = []
        for topic, records in sending:
            for piece in _pieces(records):
                blocks.append(OutboxBlock(self._next + len(blocks), topic, piece))
        return blocks

    def keep(self, blocks: Sequence[OutboxBlock]) -> None:
        """These blocks are on disk now, and the sent ones are deleted."""
        self._next += len(blocks)
        self.blocks.extend(blocks)
        self._struck.clear()

    def strike(self, number: int) -> None:
        """The log has this block; the next commit deletes it from the disk."""
        self._struck.append(number)
        self.blocks = deque(block for block in self.blocks if block.number != number)

    @property
    def struck(self) -> Sequence[int]:
        """The numbers of sent blocks that are still on disk."""
        return self._struck


def block_key(number: int) -> bytes:
    """A block's key."""
    return number.to_bytes(8, "big")


def encode_block(block: OutboxBlock) -> bytes:
    """A block's value."""
    return _encode((block.topic, block.records))


def decode_block(key: bytes, value: bytes) -> OutboxBlock:
    """A block as it is stored.

    Raises:
        msgspec.MsgspecError: it is damaged.
    """
    stored = _decode(value)
    return OutboxBlock(int.from_bytes(key, "big"), stored.topic, stored.records)


def _pieces(records: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    begin = size = 0
    for i, record in enumerate(records):
        bytes_ = len(record.key) + len(record.value)
        if i > begin and (i - begin >= BLOCK_RECORDS_MAX or size + bytes_ > BLOCK_BYTES_MAX):
            yield records[begin:i]
            begin, size = i, 0
        size += bytes_
    yield records[begin:]

"""What shards send each other: arrays one after the other, each at a multiple of 8 bytes, and news.

A receiver knows the types and lengths, from what it has asked for or from counts that came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from learner.entities.store import Change
from learner.errors import ShardError
from stream.records.entities.record import EntityEvent
from stream.records.types import Forget

ALIGN = 8

Bytes = npt.NDArray[np.uint8]
T = TypeVar("T", bound=np.generic)
V = TypeVar("V")


class NetworkMessages(list[Bytes]):
    """Messages with parts of the network alone, which lies on a device of torch.

    Args:
        device: where.
    """

    def __init__(self, device: str, messages: Sequence[Bytes]) -> None:
        super().__init__(messages)
        self.device = device


class Exchanges(Protocol):
    """One shard's end of the exchange with the others."""

    @property
    def rank(self) -> int:
        """Of this shard, from 0."""

    @property
    def shards(self) -> int:
        """How many there are."""

    def join(self) -> None:
        """Meet the other shards.

        Raises:
            ShardError: one is missing, has the same rank, or another version of what computes.
        """

    def swap(self, messages: list[Bytes]) -> list[Bytes]:
        """Send one message to each shard, in the order of ranks; returns that of each.

        Raises:
            ShardError: a shard is gone or did not answer in time, or messages are too large.
        """

    def gather(self, value: V) -> list[V]:
        """The values of all shards, in the order of ranks; of a kind that msgpack can hold.

        Raises:
            ShardError: as of `swap`.
        """

    def close(self) -> None:
        """Leave the other shards."""


def packed(arrays: Sequence[npt.NDArray[np.generic]]) -> Bytes:
    """The arrays as one message."""
    sizes = [_room(array.nbytes) for array in arrays]
    message = np.zeros(sum(sizes), dtype=np.uint8)
    at = 0
    for array, size in zip(arrays, sizes, strict=True):
        message[at : at + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        at += size
    return message


class Unpacking:
    """Takes the arrays out of a message in their order, as views.

    Args:
        message: as `packed` made it.
        sender: the rank of the shard that sent it, for messages of errors.
    """

    def __init__(self, message: Bytes, sender: int) -> None:
        self.sender = sender
        self._message = message
        self._at = 0

    def take(self, kind: type[T], *shape: int) -> npt.NDArray[T]:
        """The next array.

        Raises:
            ShardError: the message is shorter.
        """
        size = prod(shape) * np.dtype(kind).itemsize
        end = self._at + size
        if size < 0 or end > len(self._message):
            raise ShardError(
                f"the message of shard {self.sender} is cut off or damaged: it has {len(self._message)} "
                f"bytes, and {end} or more were expected"
            )
        part = self._message[self._at : end].view(kind).reshape(shape)
        self._at += _room(size)
        return part

    def end(self) -> None:
        """Check that nothing is left.

        Raises:
            ShardError: the message is longer.
        """
        if self._at != len(self._message):
            raise ShardError(
                f"the message of shard {self.sender} is damaged: it has {len(self._message)} bytes, not "
                f"{self._at} as expected"
            )


def unpackings(messages: Sequence[Bytes]) -> Iterator[Unpacking]:
    """The messages of all shards, in the order of ranks."""
    for sender, message in enumerate(messages):
        yield Unpacking(message, sender)


def _room(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


class News(msgspec.Struct, frozen=True, array_like=True):
    """What one shard has read, or seen, that all are to know; applied in the order of ranks."""

    forgets: tuple[Forget, ...] = ()  # before the turn
    told: tuple[EntityEvent, ...] = ()  # after the turn, as what follows
    seen: tuple[Change, ...] = ()  # entities that were seen for the first time in an hour, and that hour

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.forgets or self.told or self.seen)

    def packed(self) -> Bytes:
        """As the last part of a message."""
        encoded = np.frombuffer(msgspec.msgpack.encode(self), dtype=np.uint8)
        return packed([np.array([len(encoded)], dtype=np.int64), encoded])

    @staticmethod
    def read(message: Unpacking) -> News:
        """The inverse of `packed`."""
        size = int(message.take(np.int64, 1)[0])
        return _news.decode(message.take(np.uint8, size).tobytes())


_news = msgspec.msgpack.Decoder(News)


class Said(NamedTuple):
    """What a shard tells all others at the beginning of a turn."""

    requests: int = 0  # that it learns in this turn
    more: bool = False  # it has taken more, which it learns in the turns that follow
    commit: bool = False  # it wants to commit when nobody has more
    stop: bool = False  # it wants to stop then
    news: News = News()


NOTHING_SAID = Said()

"""The outputs of a joiner's partition, and their sequence numbers.

An output's sequence number consists of the offset of the record that caused it and the output's index
among that record's outputs. So it depends on the partition's records alone: every joiner of a partition,
from any state, sends the same outputs with the same numbers, and readers take each once.
"""

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec

from stream.limits import AT_ONCE_BYTES_MAX, AT_ONCE_MAX, OUTPUT_BITS, OUTPUTS_MAX

_SENDER = re.compile(r"joiner-([0-9]{1,9})(?:@([^/]+))?(?:/|$)")


class Origin(msgspec.Struct, frozen=True):
    """Where a record lay, its key, and its bytes."""

    offset: int
    key: bytes
    value: bytes


class Decided(msgspec.Struct, frozen=True, gc=False):
    """An output: a request became an example."""

    request_id: str
    example: bytes
    target: str = ""  # as the example has it


class Unusable(NamedTuple):
    """An output: a record that cannot be used."""

    origin: Origin | None  # None: the event that was just taken
    reason: str


Outputs = list[Decided | Unusable]
"""The outputs of one event, in order."""


class CommitShare:
    """What one record has caused so far in one commit."""

    def __init__(self) -> None:
        self._timers = self._bytes = self._weighed = 0

    def is_full(self, timers: int, outputs: Outputs) -> bool:
        """Count more timers, and weigh those of all `outputs` that are new; whether the rest should wait."""
        self._timers += timers
        self._bytes += sum(map(_size_of, outputs[self._weighed :]))
        self._weighed = len(outputs)
        return self._timers >= AT_ONCE_MAX or self._bytes >= AT_ONCE_BYTES_MAX


def _size_of(output: Decided | Unusable) -> int:
    if isinstance(output, Decided):
        return len(output.example)
    return 0 if output.origin is None else len(output.origin.value)


def producer_of(partition: int, target: str = "", shard_by: str = "") -> str:
    """The name under which every joiner of a partition sends its examples of a target.

    Each target has one, so that each has the sequence numbers that one record's outputs need. And each way
    to shard examples has one, so that joiners recognise those that were sent in another way.

    >>> producer_of(3), producer_of(3, "buy"), producer_of(3, "buy", "user")
    ('joiner-3', 'joiner-3/buy', 'joiner-3@user/buy')
    """
    name = f"joiner-{partition}@{quote(shard_by, safe='')}" if shard_by else f"joiner-{partition}"
    return f"{name}/{target}" if target else name


class ExamplesOf(NamedTuple):
    """What the name of a joiner's producer says."""

    partition: int  # of the events
    shard_by: str


def sender_of(producer: str) -> ExamplesOf | None:
    """Which partition's examples a producer sends, and how they are sharded; None: it is no joiner's.

    >>> sender_of("joiner-3@user/buy"), sender_of("joiner-3"), sender_of("joiner-3-dead")
    (ExamplesOf(partition=3, shard_by='user'), ExamplesOf(partition=3, shard_by=''), None)
    """
    found = _SENDER.match(producer)
    return None if found is None else ExamplesOf(int(found[1]), unquote(found[2] or ""))


def output_seq(offset: int, index: int) -> int:
    """The sequence number of the record at `offset`'s output number `index`."""
    assert 0 <= index < OUTPUTS_MAX, "the limits of pending requests keep a record's outputs below this"
    return offset << OUTPUT_BITS | index


def offset_of(seq: int) -> int:
    """The offset of the record that caused an output, -1 for an output without a number."""
    return seq >> OUTPUT_BITS

"""The records of topic `roles`: beats and claims, and what they carry.

They are validated when read, because any client with the right to write may write anything.
"""

from typing import Annotated

import msgspec

from ground import UNDECODABLE
from stream.log.base import PARTITIONS_MAX, ROLES, Log, Outgoing, Record

NAME_MAX = 100
WAY_MAX = 1000
NUMBERS_MAX = 1000
"""Entries of a member's status."""
NUMBER_MAX = 1e18
"""The largest of them."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_MAX)]
_Incarnation = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Offset = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Clock = Annotated[float, msgspec.Meta(ge=0.0, le=1e18)]  # excludes NaN


class Note(msgspec.Struct, frozen=True, array_like=True):
    """Where another joiner can take over a partition: all outputs of records before `position` are sent.

    A joiner that reads from `offset` on, with an empty state whose clock is `clock`, has at `position` the
    same state as the previous one.
    """

    partition: Annotated[int, msgspec.Meta(ge=0, le=PARTITIONS_MAX - 1)]
    position: _Offset
    offset: _Offset
    clock: _Clock
    ingest_s: _Clock = 0.0  # ingest time of the record before `offset`, Unix seconds


class MemberStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """The status of a member, for display only; no decision depends on it.

    `numbers` by name. `tables`: for each embedding table, its rows; in a learner also how many were
    admitted, not admitted, expired and evicted since it began; in a server how many ids of the feature were
    looked up, how many of them had no row, and how many candidates had no value.

    Numbers that nobody can show (NaN, over `NUMBER_MAX`) and tables without a number are left out.
    """

    numbers: Annotated[dict[str, float], msgspec.Meta(max_length=NUMBERS_MAX)] = {}
    tables: Annotated[
        dict[str, Annotated[list[int], msgspec.Meta(max_length=NUMBERS_MAX)]],
        msgspec.Meta(max_length=NUMBERS_MAX),
    ] = {}

    def __post_init__(self) -> None:
        if not all(-NUMBER_MAX <= n <= NUMBER_MAX for n in self.numbers.values()):
            shown = {name: n for name, n in self.numbers.items() if -NUMBER_MAX <= n <= NUMBER_MAX}
            msgspec.structs.force_setattr(self, "numbers", shown)
        if not all(self.tables.values()):
            tables = {name: counts for name, counts in self.tables.items() if counts}
            msgspec.structs.force_setattr(self, "tables", tables)


class Beat(msgspec.Struct, frozen=True, tag="beat", omit_defaults=True):
    """A sign that a member is alive."""

    group: _Name
    name: _Name
    incarnation: _Incarnation = msgspec.field(name="life")  # a new random id in each process
    number: _Offset  # 0, 1, 2, ...: with 0 it takes over the name
    able: bool = False  # it could lead at once
    leading: Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)] = -1  # the term it leads in
    notes: Annotated[list[Note], msgspec.Meta(max_length=PARTITIONS_MAX)] = []
    leaving: bool = False
    status: MemberStatus | None = msgspec.field(default=None, name="told")
    way: Annotated[str, msgspec.Meta(max_length=WAY_MAX)] = ""  # see `Member`
    waits: bool = False  # for members that work in another way


class Claim(msgspec.Struct, frozen=True, tag="claim"):
    """A member wants to lead; its term is this record's offset."""

    group: _Name
    name: _Name
    incarnation: _Incarnation = msgspec.field(name="life")


_decoder: msgspec.msgpack.Decoder[Beat | Claim] = msgspec.msgpack.Decoder(Beat | Claim)


def send_beat(log: Log, beat: Beat) -> None:
    """Append a beat.

    Raises:
        LogError: the log fails.
    """
    log.append(ROLES, [Outgoing(beat.group.encode(), msgspec.msgpack.encode(beat), 0)])


def read_sign(record: Record) -> Beat | Claim | None:
    """Decode a record of topic `roles`; None if this version cannot read it."""
    try:
        return _decoder.decode(record.value)
    except UNDECODABLE:
        return None

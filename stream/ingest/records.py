"""The records of topic `matches`: what was shown, and actions that look for it, of ingest; and requests to
forget, which joiners pass on to it.

Topic `matches` is keyed by what an impression and its actions share: a request id, or the values of some
features of the context. So both meet in one partition, and its order decides.
"""

import msgspec

from ground import UNDECODABLE
from stream.errors import RecordError
from stream.records.forgetting import Entity
from stream.records.types import Forget, Value

MAPS = {*range(0x80, 0x90), 0xDE, 0xDF}
"""First bytes of a map in MessagePack: the records of ingest are arrays."""


class Showing(msgspec.Struct, frozen=True, array_like=True, tag="showing", gc=False):
    """The candidates of one impression, as actions name them."""

    request_id: str
    time: float
    names: list[str]  # of the features in `candidates`
    candidates: list[list[Value | None]]


class Seeking(msgspec.Struct, frozen=True, array_like=True, tag="seeking", gc=False):
    """An action whose request or candidate is to be found."""

    request_id: str  # empty: not known
    time: float
    match: dict[str, Value]
    label: float
    name: str
    within_s: float
    wait_s: float
    settle_s: float
    source: str
    partition: int  # of the source's topic
    offset: int
    value: float | None = None


class Passing(msgspec.Struct, frozen=True, array_like=True, tag="passing", gc=False):
    """Time has passed in a partition in which actions wait and nothing arrives."""

    time: float


Meeting = Showing | Seeking | Passing

_decoder: msgspec.msgpack.Decoder[Meeting] = msgspec.msgpack.Decoder(Meeting)
_keys = msgspec.msgpack.Decoder(tuple[list[str], list[Value]])
_forgets = msgspec.msgpack.Decoder(Forget)
_encoder = msgspec.msgpack.Encoder()

__all__ = ["Meeting", "Passing", "Seeking", "Showing", "decode", "encode", "key_of", "names_of"]


def encode(record: Meeting) -> bytes:
    """A record as bytes."""
    return _encoder.encode(record)


def decode(data: bytes) -> Meeting | Forget:
    """A record of bytes.

    Raises:
        RecordError: neither ingest nor a joiner has written them.
    """
    try:
        if data and data[0] in MAPS:
            return _forgets.decode(data)
        return _decoder.decode(data)
    except UNDECODABLE as error:
        raise RecordError(f"the record is not one of topic 'matches': {error}") from None


def names_of(key: bytes, entity: Entity) -> bool:
    """Whether a key is that of one of an entity's ids.

    >>> key = key_of(("user",), ["ann"])
    >>> names_of(key, Entity({"user": ["ann"]})), names_of(key, Entity({"item": ["ann"]}))
    (True, False)
    """
    names, values = _keys.decode(key)
    return any(
        isinstance(value, int | str) and entity.named(name, value)
        for name, value in zip(names, values, strict=False)
    )


def key_of(way: tuple[str, ...], values: list[Value]) -> bytes:
    """The key under which an impression and its actions meet.

    >>> key_of(("user",), ["ann"]) == key_of(("user",), ["ann"]) != key_of((), ["ann"])
    True
    """
    return _encoder.encode([way, values])

"""How the bytes of a source's records become plain values: dicts, lists, text, numbers."""

from pathlib import Path
from typing import Protocol

import msgspec

from ground import UNDECODABLE
from stream.errors import LogError, RecordError

MAGIC = 0
"""The first byte of a record whose schema is in a registry; four bytes with the schema's id follow."""
HEAD_BYTES = 5

HOW_TO_INSTALL = "install it: pip install 'freshet[formats]'"


class Format(Protocol):
    """Decodes the records of one source. Of one thread."""

    def decode(self, value: bytes) -> object:
        """The record as a plain value.

        Raises:
            RecordError: the bytes are not in this format, or their schema is not known.
            LogAwayError: its schema cannot be had now.
            LogError: the registry refuses us, or is another one than before.
        """

    def schemas(self) -> dict[int, bytes]:
        """The digests of the schemas of the registry that were met, by id."""
        return {}

    def close(self) -> None:
        """Close the connection to the registry, if there is one."""
        return


def split_head(value: bytes) -> tuple[int, bytes]:
    """(schema id, the rest) of a record in the wire format of schema registries.

    Raises:
        RecordError: it is not in this format.
    """
    if len(value) < HEAD_BYTES or value[0] != MAGIC:
        raise RecordError(
            f"the record begins with {value[:HEAD_BYTES].hex(' ')}; expected 00 and the four bytes of a "
            "schema's id, as clients of a schema registry write them"
        )
    return int.from_bytes(value[1:HEAD_BYTES], "big"), value[HEAD_BYTES:]


def read_schema(file: str) -> bytes:
    """The bytes of a schema file.

    Raises:
        LogError: it cannot be read.
    """
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise LogError(f"schema {file}: it cannot be read: {error.strerror}") from None


class JsonFormat(Format):
    """JSON, also behind the head of a schema registry."""

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder().decode

    def decode(self, value: bytes) -> object:
        if value[:1] == b"\0":
            value = value[HEAD_BYTES:]  # a registry's id of a JSON Schema, which is not needed to read
        try:
            return self._decode(value)
        except UNDECODABLE as error:
            raise RecordError(f"the record is not JSON: {error}") from None


class MessagePackFormat(Format):
    """MessagePack."""

    def __init__(self) -> None:
        self._decode = msgspec.msgpack.Decoder().decode

    def decode(self, value: bytes) -> object:
        try:
            return self._decode(value)
        except UNDECODABLE as error:
            raise RecordError(f"the record is not MessagePack: {error}") from None

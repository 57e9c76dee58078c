"""The entries of a table's snapshot: their contents, and the interface of a store for them.

`embeddings.save.snapshot` describes their keys and when they are written.
"""

from typing import Protocol

import msgspec
import numpy as np

from embeddings.errors import SnapshotError
from embeddings.save.delta import Piece
from embeddings.spec import TableSpec
from embeddings.types import Keys
from ground import UNDECODABLE
from ground.sealed import seal, unseal

GONE = b"gone"

FORMAT_VERSION = 1
"""Written into `meta`. A reader accepts all versions up to its own, and refuses later ones."""


class Sink(Protocol):
    """A store to which entries are written."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set one entry."""

    def delete(self, key: bytes) -> None:
        """Remove one entry, if it exists."""


class RangeSink(Sink, Protocol):
    """A store in which a whole snapshot can replace all earlier entries."""

    def delete_range(self, first: bytes, end: bytes) -> None:
        """Remove the entries from key `first` up to, but not including, key `end`."""


class Source(Protocol):
    """A store from which entries are read."""

    def get(self, key: bytes) -> bytes | None:
        """The value of one entry, None if it does not exist."""

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of entries in the order of their keys, None where there is no entry."""


class SnapshotMeta(msgspec.Struct):
    """The description of a snapshot."""

    v: int
    spec: TableSpec
    seq: int = 0  # number of the last delta
    rows: int = 0  # rows of the table at that moment
    base: int = 0  # generation of the complete base; 0: the empty table
    base_seq: int = 0  # number of the last delta that the base contains
    pages: int = 0  # pages of that base
    begun: int = 0  # pages of generation base + 1 that may exist
    grown: bool = False  # some rows may have fewer of the caller's columns


class Page(msgspec.Struct, frozen=True, array_like=True):
    """One page or one part of a delta, as stored."""

    v: int
    seq: int  # number of the delta; for a page, of the last delta that it contains
    parts: int  # parts of the delta; 0 for a page
    piece: Piece


_page_decoder = msgspec.msgpack.Decoder(Page)
_decode_meta = msgspec.msgpack.Decoder(SnapshotMeta).decode
_decode_version = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode


def read_meta(data: bytes, where: str) -> SnapshotMeta:
    """Decode the description of a snapshot.

    Raises:
        SnapshotError: it is damaged, or has a version that this Freshet does not know.
    """
    try:
        body = unseal(data)
        version = msgspec.msgpack.decode(_decode_version(body)["v"], type=int)
        if version > FORMAT_VERSION:
            raise SnapshotError(
                f"{where}: the snapshot has format {version}; this Freshet reads formats up to "
                f"{FORMAT_VERSION}: use the Freshet that wrote it, or a later one"
            )
        return _decode_meta(body)
    except (ValueError, KeyError, *UNDECODABLE) as error:
        raise SnapshotError(f"{where}: its description cannot be read: {error}") from None


def decode_page(value: bytes) -> Page:
    """Decode a page from `encode_entry`.

    Raises:
        ValueError, msgspec.DecodeError: it is damaged.
    """
    return _page_decoder.decode(unseal(value))


def put_deleted(sink: Sink, prefix: bytes, keys: Keys) -> None:
    """Let the first save after a restore of a table return keys (n,) as deleted, which have no row then."""
    if len(keys):
        sink.put(prefix + GONE, seal(keys.tobytes()))


def decode_deleted(value: bytes | None, where: str) -> Keys:
    """The keys (n,) that `put_deleted` has put; none where there is no such entry.

    Raises:
        SnapshotError: it is damaged.
    """
    try:
        return np.frombuffer(b"" if value is None else unseal(value), dtype=np.uint64)
    except ValueError as error:
        raise SnapshotError(f"{where}: its list of deleted keys cannot be read: {error}") from None


def encode_entry(value: SnapshotMeta | Page) -> bytes:
    """Encode a value as sealed MessagePack."""
    return seal(msgspec.msgpack.encode(value))

"""The entries of a table's snapshot: what is in them, and what a store of them must be able to do.

Where they lie and how they come about: `embeddings.save.snapshot`.
"""

from typing import Protocol

import msgspec

from embeddings.errors import SnapshotError
from embeddings.save.delta import Piece
from embeddings.spec import TableSpec
from ground.sealed import seal, unseal

FORMAT_VERSION = 1
"""Written into `meta`. A reader knows all versions up to its own, and refuses later ones."""


class Sink(Protocol):
    """Where entries are written."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set one entry."""

    def delete(self, key: bytes) -> None:
        """Remove one entry; no harm if it is not there."""


class RangeSink(Sink, Protocol):
    """Where a whole snapshot can take the place of all that was before it."""

    def delete_range(self, first: bytes, end: bytes) -> None:
        """Remove the entries from key `first` to before key `end`."""


class Source(Protocol):
    """Where entries are read."""

    def get(self, key: bytes) -> bytes | None:
        """One entry's value, None if there is none."""


class Meta(msgspec.Struct):
    """What a snapshot says about itself."""

    v: int
    spec: TableSpec
    seq: int = 0  # the last delta
    rows: int = 0  # of the table at that moment
    base: int = 0  # generation of the base that is whole; 0: the empty table
    base_seq: int = 0  # the deltas after this one complete it
    pages: int = 0  # of that base
    begun: int = 0  # pages that there may be of generation base + 1


class Page(msgspec.Struct, frozen=True, array_like=True):
    """One page or one part of a delta, as stored."""

    v: int
    seq: int  # of the delta; of the last one contained in a page
    parts: int  # of the delta; 0 for a page
    piece: Piece


_page_decoder = msgspec.msgpack.Decoder(Page)
_decode_meta = msgspec.msgpack.Decoder(Meta).decode
_decode_version = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode


def read_meta(data: bytes, where: str) -> Meta:
    """What a snapshot says about itself.

    Raises:
        SnapshotError: it is damaged, or of a version that this Freshet does not know.
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
    except (ValueError, KeyError, msgspec.DecodeError) as error:
        raise SnapshotError(f"{where}: its description cannot be read: {error}") from None


def decode_page(value: bytes) -> Page:
    """What `encode_entry` gave of a page.

    Raises:
        ValueError, msgspec.DecodeError: it is damaged.
    """
    return _page_decoder.decode(unseal(value))


def encode_entry(value: Meta | Page) -> bytes:
    """A value as it is stored: sealed MessagePack."""
    return seal(msgspec.msgpack.encode(value))

"""Updates: a learner publishes them, a replica applies them.

An update holds the rows touched and the keys deleted since the previous one, and the dense arrays.
A snapshot holds all rows in the same form. Both are sent as one or more parts, each a record: a sealed
(`ground/sealed.py`) MessagePack of `Update`, whose tables are pieces as `embeddings/save/delta.py` cuts and
applies them.

Rows are little-endian and without optimizer state: `| vector | fast weights | last seen | count |`, in
float32 or packed (`embeddings/views/packed.py`), as `rows` says. The protocol as a whole: docs/protocol.md.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np

from embeddings import DeltaError
from embeddings.save.delta import Changes, Piece, apply, numbers, pieces, raw
from embeddings.views.packed import PACKINGS, RowPacking
from ground import UNDECODABLE
from ground.sealed import seal, unseal
from learner.entities.saved import Sent, size_of, take
from learner.errors import OtherModelError, UpdateDamagedError, UpdateError
from learner.model.model import Model

UPDATE_VERSION = 1
PARTS_MAX = (1 << 32) - 1  # an estimate: no update has so many parts
PIECE_BYTES = 48  # a piece in MessagePack beside its name and its bytes, at most
ENTRY_BYTES = 16  # a dense array in MessagePack beside its name and its bytes, at most


class Update(msgspec.Struct, frozen=True, omit_defaults=True):
    """One part of update number `seq` of a learner's epoch."""

    epoch: int  # when the learner's state was made, Unix ms; a later epoch supersedes earlier ones
    seq: int  # 1, 2, 3, ...
    part: int  # 0 .. parts - 1
    parts: int
    watermark: dict[int, int]  # partition of `examples` -> next offset to learn
    examples: int  # learned since the epoch began
    event_time: float  # newest event learned, Unix seconds
    ingest_ms: int  # when the log took the newest example learned, Unix ms
    tables: list[Piece]
    arrays: dict[str, bytes] = {}  # dense state, in the last part only
    term: int = 0  # of the leader; see learner.updates.chain. A record of 0 parts begins a term
    taken: list[tuple[int, int, int]] = []  # (partition, start, end) of `examples` learned since the last
    updates_from: int = -1  # of a snapshot: an offset in `updates` at or before the update after it
    rows: str = "float32"  # how the tables' rows are held: a key of `embeddings.views.packed.PACKINGS`
    model: str = ""  # `learner.model.identity.identity` of the model; "": of an older Freshet
    learning: str = ""  # `learning_identity`: how the model learns; "": of an older Freshet
    held: bool = False  # examples are passed over until somebody orders to go on: after a rollback
    entities: list[Sent] = []  # what is known of entities that were told of, seen or removed since
    shards: int = 0  # of the learner: each sends its part of update `seq`; 0: it is one process
    shard: int = 0  # who sends this
    v: int = UPDATE_VERSION


def term_begins(epoch: int, term: int) -> bytes:
    """The record that begins a term, as its value."""
    return encode_update(
        Update(epoch, 0, 0, 0, watermark={}, examples=0, event_time=0.0, ingest_ms=0, tables=[], term=term)
    )


def encode_update(update: Update) -> bytes:
    """One part as a record's value."""
    return seal(msgspec.msgpack.encode(update))


def together(shards: Sequence[Sequence[Update]]) -> list[Update]:
    """The parts of an update of several shards, by rank, as one update's: shard 0 is last, with the arrays.

    The last part says what all of them have learned.
    """
    if len(shards) == 1:
        return list(shards[0])
    *others, last = (part for parts in reversed(shards) for part in parts)
    heads = [parts[-1] for parts in shards]
    whole = msgspec.structs.replace(
        last,
        watermark={partition: offset for head in heads for partition, offset in head.watermark.items()},
        examples=sum(head.examples for head in heads),
        event_time=max(head.event_time for head in heads),
        ingest_ms=max(head.ingest_ms for head in heads),
        taken=[stretch for head in heads for stretch in head.taken],
    )
    return [*others, whole]


_decoder = msgspec.msgpack.Decoder(Update)


def decode_update(value: bytes) -> Update:
    """The inverse of `encode_update`.

    Raises:
        UpdateDamagedError: the checksum does not match.
        UpdateError: it is of an unknown version.
    """
    try:
        body = unseal(value)
    except ValueError as error:
        raise UpdateDamagedError(f"an update cannot be read: {error}") from None
    try:
        update = _decoder.decode(body)
    except UNDECODABLE as error:
        raise UpdateError(f"an update cannot be read: {error}") from None
    if update.v != UPDATE_VERSION:
        raise UpdateError(f"an update has version {update.v}; this Freshet reads version {UPDATE_VERSION}")
    return update


def pack(model: Model, changes: Sequence[tuple[str, Changes]], rows: str) -> list[tuple[str, Changes]]:
    """Changes of a model's tables with packed rows; unchanged for float32."""
    if rows == "float32":
        return list(changes)
    return [
        (name, change)
        if name in model.exact
        else (name, change._replace(rows=RowPacking(model.specs[name], rows).pack(change.rows)))
        for name, change in changes
    ]


def _unpacked(piece: Piece, packing: RowPacking) -> Piece:
    """A piece with its rows in float32.

    Raises:
        DeltaError: they are of another layout.
    """
    held = numbers(piece.rows, np.float32)
    count = len(piece.keys) // 8
    if held.size != count * packing.width:
        raise DeltaError(f"table {piece.name!r}: packed rows are of another dim or extra than here")
    rows = packing.unpack(held.reshape(count, packing.width))
    return msgspec.structs.replace(piece, rows=raw(rows))


def frame_bytes(head: Update, names: Iterable[str]) -> int:
    """The bytes of an encoded part beside its rows, keys and arrays, at most; `names`: of the tables."""
    empty = msgspec.structs.replace(head, part=PARTS_MAX, parts=PARTS_MAX, tables=[], arrays={}, entities=[])
    return len(encode_update(empty)) + sum(len(name.encode()) + PIECE_BYTES for name in names)


def arrays_bytes(arrays: dict[str, bytes]) -> int:
    """The bytes that the dense arrays add to an encoded part, at most."""
    return ENTRY_BYTES + sum(len(name.encode()) + len(array) + ENTRY_BYTES for name, array in arrays.items())


def cut(
    head: Update,
    changes: Sequence[tuple[str, Changes]],
    arrays: dict[str, bytes],
    bytes_max: int,
    whole_max: int | None = None,
) -> Iterator[Update]:
    """Cut an update into parts of at most `bytes_max` bytes of rows, keys and entities, or of one of them.

    Args:
        head: the update without tables, arrays and part numbers; its entities are spread over the parts.
        changes: each table's name and its changes.
        whole_max: of rows, keys and dense arrays together; None: no limit. A last part over it is split: the
            arrays are then sent alone.
    """
    parts: list[tuple[list[Piece], list[Sent]]] = [([], [])]
    size = 0
    for name, change in changes:
        room = bytes_max - size
        if room < 8 + change.rows.shape[1] * 4:
            room = bytes_max  # not even one row fits into this part
        for piece in pieces(name, change, bytes_max, first_max=room):
            piece_size = sum(len(raw) for raw in (piece.deleted, piece.keys, piece.rows))
            if size and size + piece_size > bytes_max:
                parts.append(([], []))
                size = 0
            parts[-1][0].append(piece)
            size += piece_size
    for entity in head.entities:
        if size and size + size_of(entity) > bytes_max:
            parts.append(([], []))
            size = 0
        parts[-1][1].append(entity)
        size += size_of(entity)
    if whole_max is not None and size and size + arrays_bytes(arrays) > whole_max:
        parts.append(([], []))
    for i, (tables, entities) in enumerate(parts):
        last = i == len(parts) - 1
        yield msgspec.structs.replace(
            head,
            part=i,
            parts=len(parts),
            tables=tables,
            arrays=arrays if last else {},
            entities=entities,
        )


def apply_update(model: Model, update: Update) -> None:
    """Apply one part of an update to a model.

    Raises:
        OtherModelError: the learner that made it has another schema or other settings than this model.
        UpdateError: it is of a newer Freshet.
    """
    by_name = dict(zip(model.table_names, model.tables, strict=True))
    arrays = model.arrays() if update.arrays else {}
    arrays.pop("trust", None)  # it is not always sent
    unknown = [piece.name for piece in update.tables if piece.name not in by_name]
    differs = [name for name, array in arrays.items() if len(update.arrays.get(name, b"")) != array.nbytes]
    if unknown or differs:
        raise OtherModelError(
            f"the learner's model differs from this one in {', '.join(unknown + differs)}: give learner and "
            "server the same [features] and [learner] settings"
        )
    if update.rows not in PACKINGS:
        raise UpdateError(f"an update has {update.rows!r} rows, which this Freshet does not know; update it")
    for piece in update.tables:
        table = by_name[piece.name]
        try:
            if update.rows != "float32" and piece.name not in model.exact:
                piece = _unpacked(piece, RowPacking(model.specs[piece.name], update.rows))
            apply(table, piece)
        except DeltaError as error:
            raise OtherModelError(f"{error}; give learner and server the same settings") from None
    take(model.entities, update.entities)
    for name, array in arrays.items():
        array[...] = np.frombuffer(update.arrays[name], dtype=array.dtype).reshape(array.shape)
    if arrays:
        model.trust.follow(update.arrays.get("trust"))
        model.weights_moved()
    model.epoch = update.epoch
    model.seq = update.seq

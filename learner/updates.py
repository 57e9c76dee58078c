"""Updates: what a learner publishes, and what a replica applies.

An update holds the rows touched and the keys deleted since the one before, and the dense arrays.
A snapshot holds all rows in the same form. Either travels as one or more parts, each a record:

    8 bytes   xxh3 of what follows, little-endian
    rest      MessagePack of `Update`

Rows are float32, little-endian, without optimizer state: `| vector | fast weights | last seen | count |`.
"""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from learner.errors import UpdateError
from learner.model import Model

UPDATE_VERSION = 1


class TableDelta(msgspec.Struct, frozen=True, array_like=True):
    """Changes of one table; apply `deleted` first."""

    name: str
    deleted: bytes  # uint64 keys
    keys: bytes  # uint64, (m,)
    rows: bytes  # float32, (m, serving width)


class Update(msgspec.Struct, frozen=True, omit_defaults=True):
    """One part of update number `seq` of a learner's epoch."""

    epoch: int  # when the learner's state was made, Unix ms: a later one supersedes all before
    seq: int  # 1, 2, 3, ...
    part: int  # 0 .. parts - 1
    parts: int
    watermark: dict[int, int]  # partition of `examples` -> next offset to be learnt
    examples: int  # learnt since the epoch began
    event_time: float  # newest event learnt, Unix seconds
    ingest_ms: int  # when the log took the newest example learnt, Unix ms
    tables: list[TableDelta]
    arrays: dict[str, bytes] = {}  # dense state, in the last part only
    v: int = UPDATE_VERSION


class Changes(msgspec.Struct):
    """One table's changes before they are cut into parts."""

    name: str
    deleted: npt.NDArray[np.uint64]
    keys: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.float32]


def encode_update(update: Update) -> bytes:
    """One part as a record's value."""
    body = msgspec.msgpack.encode(update)
    return xxhash.xxh3_64_intdigest(body).to_bytes(8, "little") + body


_decoder = msgspec.msgpack.Decoder(Update)


def decode_update(value: bytes) -> Update:
    """What `encode_update` gave.

    Raises:
        UpdateError: it is damaged, or of an unknown version.
    """
    body = value[8:]
    if xxhash.xxh3_64_intdigest(body).to_bytes(8, "little") != value[:8]:
        raise UpdateError("an update is damaged: its checksum does not fit its bytes")
    try:
        update = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise UpdateError(f"an update cannot be read: {error}") from None
    if update.v != UPDATE_VERSION:
        raise UpdateError(f"an update has version {update.v}; this Freshet reads version {UPDATE_VERSION}")
    return update


def cut(
    head: Update, changes: Sequence[Changes], arrays: dict[str, bytes], bytes_max: int
) -> Iterator[Update]:
    """An update's parts, each of about `bytes_max` bytes of rows at most.

    Args:
        head: the update without tables, arrays and part numbers.
    """
    parts: list[list[TableDelta]] = [[]]
    size = 0
    for change in changes:
        per_row = 8 + change.rows.shape[1] * 4
        at = 0
        deleted = change.deleted
        while at < len(change.keys) or len(deleted):
            if size >= bytes_max:
                parts.append([])
                size = 0
            gone = deleted[: max((bytes_max - size) // 8, 1)]
            deleted = deleted[len(gone) :]
            size += gone.nbytes
            # All deletions of a table come before its rows: a key may be deleted and made again.
            count = 0 if len(deleted) else max((bytes_max - size) // per_row, 1)
            part = slice(at, min(at + count, len(change.keys)))
            at = part.stop
            parts[-1].append(
                TableDelta(
                    change.name, gone.tobytes(), change.keys[part].tobytes(), change.rows[part].tobytes()
                )
            )
            size += (part.stop - part.start) * per_row
    for i, tables in enumerate(parts):
        last = i == len(parts) - 1
        yield msgspec.structs.replace(
            head, part=i, parts=len(parts), tables=tables, arrays=arrays if last else {}
        )


def apply_update(model: Model, update: Update) -> None:
    """Bring a model to where an update's part says.

    Raises:
        UpdateError: the learner that made it has another schema or other settings than this model.
    """
    by_name = dict(zip(model.table_names, model.tables, strict=True))
    arrays = model.arrays() if update.arrays else {}
    unknown = [d.name for d in update.tables if d.name not in by_name]
    differs = [name for name, array in arrays.items() if len(update.arrays.get(name, b"")) != array.nbytes]
    if unknown or differs:
        raise UpdateError(
            f"the learner's model differs from this one in {', '.join(unknown + differs)}: give learner and "
            "server the same [features] and [learner] settings"
        )
    for delta in update.tables:
        table = by_name[delta.name]
        if delta.deleted:
            table.delete(np.frombuffer(delta.deleted, dtype=np.uint64))
        if delta.keys:
            keys = np.frombuffer(delta.keys, dtype=np.uint64)
            rows = np.frombuffer(delta.rows, dtype=np.float32)
            if len(rows) != len(keys) * table.width:
                raise UpdateError(f"the learner's rows of {delta.name} have another width than this model's")
            table.load(keys, rows.reshape(len(keys), table.width))
    for name, array in arrays.items():
        array[...] = np.frombuffer(update.arrays[name], dtype=array.dtype).reshape(array.shape)
    model.epoch = update.epoch
    model.seq = update.seq

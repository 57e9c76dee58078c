"""A table as one tensor of bytes, for `state_dict`: a whole snapshot, checked when it is read."""

import msgspec
import numpy as np
import torch

from embeddings.errors import SnapshotError
from embeddings.save.snapshot import TableSnapshot
from embeddings.spec import TableSpec
from embeddings.table.table import Table
from ground import UNDECODABLE


class _Entries(dict[bytes, bytes]):
    """A snapshot's entries in memory."""

    def put(self, key: bytes, value: bytes) -> None:
        self[key] = value

    def delete(self, key: bytes) -> None:
        self.pop(key, None)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def delete_range(self, first: bytes, end: bytes) -> None:
        for key in [key for key in self if first <= key < end]:
            del self[key]


def table_bytes(table: Table) -> torch.Tensor:
    """A table with rows, optimizer state, expiry and admission filter, (bytes,) uint8."""
    entries = _Entries()
    snapshot = TableSnapshot(table, b"", "state_dict")
    snapshot.save_base(entries)
    snapshot.save_whole(entries)
    data = msgspec.msgpack.encode(dict(entries))
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())


def table_from(spec: TableSpec, data: object) -> Table:
    """A new table with these settings and the contents from `table_bytes`.

    Raises:
        SnapshotError: it is damaged, no such tensor, or of a table with another layout.
    """
    where = f"state_dict: table {spec.name!r}"
    if not isinstance(data, torch.Tensor) or data.dtype != torch.uint8 or data.ndim != 1:
        raise SnapshotError(f"{where}: expected the tensor of bytes that state_dict() of such a module gave")
    try:
        entries = msgspec.msgpack.decode(data.cpu().numpy().tobytes(), type=dict[bytes, bytes])
    except (ValueError, *UNDECODABLE) as error:
        raise SnapshotError(f"{where}: its bytes are damaged ({error})") from None
    table = Table(spec)
    if not TableSnapshot(table, b"", "state_dict").restore(_Entries(entries)):
        raise SnapshotError(f"{where}: its bytes hold no table")
    return table

"""Rows at rest as entries of a key-value store: PREFIX row/ key(8, big-endian) → the row's columns."""

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import numpy as np

from embeddings.core.positions import State
from embeddings.core.store import OWN_COLUMNS, Store
from embeddings.errors import SnapshotError
from embeddings.kernels import contents
from embeddings.save.entries import Sink
from embeddings.spec import Rules
from embeddings.types import Floats, Keys, Slots

ROW = b"row/"
KEY_BYTES = 8


class RowSource(Protocol):
    """A store from which rows are read; it may be written by others meanwhile."""

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of entries in the order of their keys, None where there is no entry."""

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The entries whose key begins with `prefix`, from key `start` on, in the order of their keys."""


class View(RowSource, Protocol):
    """What a store holds at one moment."""

    def close(self) -> None:
        """Let it go; safe to call twice."""


class ViewedSource(RowSource, Protocol):
    """A store that can be read as of one moment while it is written."""

    def view(self) -> View:
        """What it holds now."""


def put_entries(sink: Sink, prefix: bytes, keys: Keys, rows: Floats) -> None:
    """Write the entries of rows (n, W) of the table with this prefix."""
    size = rows.itemsize * rows.shape[1]
    data = np.ascontiguousarray(rows).tobytes()
    for i, name in enumerate(_names(prefix + ROW, keys)):
        sink.put(name, data[i * size : (i + 1) * size])


def _names(prefix: bytes, keys: Keys) -> list[bytes]:
    data = keys.astype(">u8").tobytes()
    return [prefix + data[i : i + KEY_BYTES] for i in range(0, len(data), KEY_BYTES)]


class RowEntries:
    """The rows of one table in a store.

    Args:
        source: the store.
        prefix: of all keys of this table.
        width: columns of a row.
        where: name of table and store in error messages.
    """

    def __init__(self, source: RowSource, prefix: bytes, width: int, where: str) -> None:
        self._source = source
        self.prefix = prefix
        self._prefix = prefix + ROW
        self._width = width
        self._where = where

    def read(self, keys: Keys) -> tuple[Keys, Floats]:
        """The rows of those of the keys (n,) that have an entry, in one read: keys (m,), rows (m, W)."""
        found = self._source.get_many(_names(self._prefix, keys))
        values = [value for value in found if value is not None]
        if len(values) < len(found):
            keys = keys[np.array([value is not None for value in found], dtype=np.bool_)]
        return keys, self._rows(values)

    def page(self, after: int | None, count: int) -> tuple[Keys, Floats, bool]:
        """The next `count` rows in the order of keys, after a key (None: from the first), and whether these
        are the last."""
        start = self._prefix
        if after is not None:
            start += after.to_bytes(KEY_BYTES, "big") + b"\0"
        found = list(islice(self._source.scan(self._prefix, start), count))
        at = len(self._prefix)
        names = b"".join(key[at:] for key, _ in found)
        if len(names) != KEY_BYTES * len(found):
            raise SnapshotError(f"{self._where}: an entry of a row at rest has no key of {KEY_BYTES} bytes")
        keys = np.frombuffer(names, dtype=">u8").astype(np.uint64)
        return keys, self._rows([value for _, value in found]), len(found) < count

    def delete(self, sink: Sink, keys: Keys) -> None:
        """Remove the entries of keys, whether they exist or not."""
        for name in _names(self._prefix, keys):
            sink.delete(name)

    def _rows(self, values: list[bytes]) -> Floats:
        size = 4 * self._width
        if any(len(value) != size for value in values):
            length = next(len(value) for value in values if len(value) != size)
            raise SnapshotError(
                f"{self._where}: a row at rest has {length} bytes, not {size}: it was written with another "
                "dim, optimizer or extra, or is damaged"
            )
        return np.frombuffer(bytearray().join(values), dtype=np.float32).reshape(len(values), self._width)


def existing(store: Store, rules: Rules, keys: Keys, rows: Floats, now: int) -> Slots:
    """Which of some rows (n, W) exist at `now` by a table's clock: their numbers (m,), ascending."""
    found = np.empty(len(keys) + 2, dtype=np.int64)
    return found[: contents.live(as_store(store, keys, rows), rules, np.int64(now), found)]


def as_store(store: Store, keys: Keys, rows: Floats) -> Store:
    """A store that holds just some rows (n, W), for kernels that scan: slot i is row i."""
    n, width = rows.shape
    # One more than needed: kernels are compiled for strided keys, and one key alone would not be strided.
    memory = np.zeros((n + 2, width + OWN_COLUMNS), dtype=np.float32)
    memory[:n, :width] = rows
    memory[:n, width:] = np.ascontiguousarray(keys).view(np.float32).reshape(n, OWN_COLUMNS)
    state = store.state.copy()
    state[State.HIGH] = n
    return store._replace(
        rows=memory,
        bits=memory.view(np.uint32),
        slot_key=np.ndarray((n + 2,), np.uint64, memory, 4 * width, (memory.strides[0],)),
        in_use=np.ones(n + 2, dtype=np.uint8),
        state=state,
    )

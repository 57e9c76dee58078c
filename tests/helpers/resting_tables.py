"""A table whose rows rest beside one with all rows in memory, and a store of entries in memory."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from embeddings import Table, TableSpec
from embeddings.rest.frozen import FrozenRows
from embeddings.rest.snapshot import RestingSnapshot
from embeddings.rest.table import RestingTable
from embeddings.types import Floats, Keys


class DictStore:
    """Entries in memory; what is put into `pending` becomes visible with `commit`."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.pending: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.entries.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self.entries.get(key) for key in keys]

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for key in sorted(self.entries):
            if key.startswith(prefix) and key >= start:
                yield key, self.entries[key]

    def put(self, key: bytes, value: bytes) -> None:
        self.pending[key] = value

    def delete(self, key: bytes) -> None:
        self.pending[key] = None

    def view(self) -> "DictStore":
        held = DictStore()
        held.entries = dict(self.entries)
        return held

    def close(self) -> None:
        self.entries = {}

    def write(self) -> None:
        self.commit()

    def commit(self) -> None:
        for key, value in self.pending.items():
            if value is None:
                self.entries.pop(key, None)
            else:
                self.entries[key] = value
        self.pending = {}


def rows_by_key(pages: Iterable[tuple[Keys, Floats]]) -> dict[int, bytes]:
    """The rows of some pages, each once."""
    found = [(int(key), row.tobytes()) for keys, rows in pages for key, row in zip(keys, rows, strict=True)]
    assert len(dict(found)) == len(found)
    return dict(found)


class Pair:
    """The same calls to two tables, one with rows at rest; every result is compared."""

    def __init__(self, spec: TableSpec, memory_rows: int) -> None:
        self.spec, self.memory_rows = spec, memory_rows
        self.whole = Table(spec)
        self.store = DictStore()
        self.followed: set[int] = set()  # the keys that a follower of the second one has
        self.frozen: tuple[FrozenRows, dict[int, bytes]] | None = None
        self.open()

    def open(self) -> bool:
        self.part = RestingTable(self.spec, self.memory_rows)
        self.snapshot = RestingSnapshot(self.part, self.store, b"t/", "store")
        return self.snapshot.restore()

    def learn(self, keys: np.ndarray, times: np.ndarray, seed: int) -> None:
        slots = [table.upsert(keys, times) for table in (self.whole, self.part)]
        assert ((slots[0] >= 0) == (slots[1] >= 0)).all()
        for read in ("weights", "extras", "counts", "last_seen"):
            first, second = (
                getattr(table, read)(at) for table, at in zip((self.whole, self.part), slots, strict=True)
            )
            assert first.tobytes() == second.tobytes()
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(len(keys), self.spec.extra)).astype(np.float32)
        gradients = rng.normal(size=(len(keys), self.spec.dim)).astype(np.float32)
        for table, at in zip((self.whole, self.part), slots, strict=True):
            table.set_extras(at, values)
            table.apply_gradients(at, gradients)
            table.touch(at, times)

    def look(self, keys: np.ndarray, now: int) -> None:
        found = [table.find(keys, now) for table in (self.whole, self.part)]
        assert ((found[0] >= 0) == (found[1] >= 0)).all()
        both = [table.weights(at) for table, at in zip((self.whole, self.part), found, strict=True)]
        assert both[0].tobytes() == both[1].tobytes()

    def commit(self, now: int = 100) -> set[int]:
        """Returns the keys that the commit has listed as deleted."""
        self.same_frozen()
        changes = self.snapshot.save(self.store)
        self.snapshot.rest(self.store)
        frozen = self.snapshot.freeze()
        self.store.commit()
        frozen.open()
        rows = itertools.chain(self.part.pages_in_memory(), self.part.resting_pages(passed=True))
        self.frozen = frozen, rows_by_key(rows)
        there = dict(rows_by_key(self.whole.pages(now)))
        assert self.frozen[1] == self.frozen[1] | there, "all rows that exist are among them"
        assert self.part.in_memory <= self.memory_rows
        deleted = set(changes.deleted.tolist())
        self.followed = self.followed - deleted | set(changes.keys.tolist())
        return deleted

    def same_frozen(self) -> None:
        """What was frozen at the last commit is read after all that came since."""
        if self.frozen is not None:
            frozen, expected = self.frozen
            assert rows_by_key(frozen.pages(7)) == expected
            frozen.close()

    def same(self, now: int) -> None:
        self.same_frozen()
        assert self.part.digest(now) == self.whole.digest(now)
        assert self.part.filter.state() == self.whole.filter.state()
        pages = [keys for keys, _ in self.part.pages(now)]
        keys = np.sort(np.concatenate([np.zeros(0, dtype=np.uint64), *pages]))
        assert keys.tolist() == np.sort(self.whole.items(now)[0]).tolist()

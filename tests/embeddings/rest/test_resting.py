"""A table whose rows rest on disk does what one with all its rows in memory does, bit for bit."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import Table, TableSpec
from embeddings.rest.frozen import FrozenRows
from embeddings.rest.snapshot import RestingSnapshot
from embeddings.rest.table import RestingTable
from embeddings.types import Floats, Keys
from tests.helpers.depth import many

KEYS = 160


class DictStore:
    """Entries in memory; what is put into `pending` becomes visible with `commit`."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.pending: dict[bytes, bytes | None] = {}

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
    """The same calls to both tables; every result is compared."""

    def __init__(self, spec: TableSpec, memory_rows: int) -> None:
        self.spec, self.memory_rows = spec, memory_rows
        self.whole = Table(spec)
        self.store = DictStore()
        self.frozen: tuple[FrozenRows, int, dict[int, bytes]] | None = None
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
        self.frozen = frozen, now, rows_by_key(self.whole.pages(now))
        assert self.part.in_memory <= self.memory_rows
        return set(changes.deleted.tolist())

    def same_frozen(self) -> None:
        """What was frozen at the last commit is read after all that came since."""
        if self.frozen is not None:
            frozen, now, expected = self.frozen
            assert rows_by_key(frozen.pages(now, 7)) == expected
            frozen.close()

    def same(self, now: int) -> None:
        self.same_frozen()
        assert self.part.digest(now) == self.whole.digest(now)
        assert self.part.filter.state() == self.whole.filter.state()
        pages = [keys for keys, _ in self.part.pages(now)]
        keys = np.sort(np.concatenate([np.zeros(0, dtype=np.uint64), *pages]))
        assert keys.tolist() == np.sort(self.whole.items(now)[0]).tolist()


specs = st.fixed_dictionaries(
    {
        "ttl_s": st.sampled_from([0, 0, 40, 200]),
        "tick_s": st.sampled_from([0, 16]),
        "evict": st.sampled_from(["none", "least_recent", "least_frequent"]),
        "admit_after": st.sampled_from([1, 1, 2]),
        "rows_max": st.sampled_from([64, 100]),
        "optimizer": st.sampled_from(["adagrad", "adam"]),
    }
)
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["learn", "learn", "learn", "learn", "look", "commit", "restart", "expire", "forget"]
        ),
        st.integers(0, 2**32 - 1),
    ),
    min_size=4,
    max_size=25,
)


@pytest.mark.slow
@settings(max_examples=many(40), deadline=None)
@given(specs, st.integers(1, 64), steps)
def test_rows_that_rest_change_no_result(chosen, memory_rows, acts):
    pair = Pair(TableSpec(dim=3, extra=2, init="normal", admission_capacity=64, **chosen), memory_rows)
    now = 100
    for act, seed in acts:
        rng = np.random.default_rng(seed)
        count = int(rng.integers(1, 60 if seed % 2 else 8))
        ids = np.minimum(rng.zipf(1.3, count), KEYS) if seed % 3 else rng.integers(0, 4 * KEYS, count)
        keys = ids.astype(np.uint64) << np.uint64(40)
        if act == "learn":
            times = now + np.sort(rng.integers(0, 20, len(keys)))
            pair.learn(keys, times, seed)
            now = int(times[-1])
        elif act == "look":
            now += int(rng.integers(0, 30))
            pair.look(keys, now)
        elif act == "commit":
            pair.commit(now)
        elif act == "restart":
            pair.commit(now)
            assert pair.open()
        elif act == "expire":
            pair.whole.expire(now)
            pair.part.expire(now)
        else:
            gone = keys[:2]
            assert pair.part.forget(gone) == pair.whole.forget(gone)
            pair.snapshot.renew()
            assert set(gone.tolist()) <= pair.commit(now)
            assert not pair.snapshot.renewing
            held = b"".join(pair.store.entries) + b"".join(pair.store.entries.values())
            for key in gone.tolist():
                row = b"row/" + key.to_bytes(8, "big")
                assert row not in held
    pair.same(now)


@pytest.mark.slow
def test_a_limit_that_was_higher_than_the_last_one_counts_for_rows_at_rest():
    pair = Pair(TableSpec(dim=3, extra=2, rows_max=64, evict="least_frequent"), memory_rows=4)

    def learn(first: int, last: int, sightings: int) -> None:
        for key in range(first, last):
            pair.learn(np.full(sightings, key, dtype=np.uint64), np.full(sightings, 100), seed=key)

    learn(0, 40, sightings=3)
    pair.commit()
    learn(100, 125, sightings=3)
    highest = pair.part.limits.kept[-1]
    learn(200, 260, sightings=1)
    assert pair.part.limits.kept[-1][1] < highest[1]
    assert pair.whole.find(np.zeros(1, dtype=np.uint64))[0] == -1
    pair.look(np.arange(40, dtype=np.uint64), 100)
    pair.same(100)

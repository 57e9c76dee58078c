"""Pages of a snapshot are read beside the restoring: in order, all of them, and damage is told as it is."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from embeddings import Table, TableSpec
from embeddings.errors import SnapshotError
from embeddings.save import reading
from embeddings.save import snapshot as snapshot_module
from embeddings.save.delta import Piece, raw
from embeddings.save.entries import FORMAT_VERSION, Page, encode_entry
from embeddings.save.reading import PageKey, PageReader
from embeddings.save.snapshot import TableSnapshot

SPEC = TableSpec(name="pair", dim=0, extra=4, evict="least_recent", rows_max=40_000)


class Store:
    """Entries in memory, and the threads that read them."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.readers: set[int] = set()

    def put(self, key: bytes, value: bytes) -> None:
        self.entries[key] = bytes(value)

    def delete(self, key: bytes) -> None:
        self.entries.pop(key, None)

    def get(self, key: bytes) -> bytes | None:
        return self.entries.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        self.readers.add(threading.get_ident())
        return [self.entries.get(key) for key in keys]


def pages_in(store: Store, count: int) -> list[PageKey]:
    """Pages of 1,000 rows in a store."""
    nothing = memoryview(b"")
    for number in range(count):
        keys = raw(np.arange(1000, dtype=np.uint64))
        piece = Piece("t", nothing, keys, nothing)
        store.put(b"%d" % number, encode_entry(Page(FORMAT_VERSION, number, 0, piece)))
    return [PageKey(b"%d" % number, f"page {number}") for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, reading.READ_AT_ONCE, reading.READ_AT_ONCE + 1, 30])
@pytest.mark.parametrize("beside", [True, False])
def test_pages_come_in_order_from_a_thread_if_they_are_large(
    monkeypatch: pytest.MonkeyPatch, count: int, beside: bool
) -> None:
    monkeypatch.setattr(reading, "BESIDE_BYTES", 8000 if beside else 1 << 20)
    store = Store()
    entries = pages_in(store, count)
    found = list(PageReader(store, "here").pages(entries))
    assert [page.page.seq for page in found] == list(range(count))
    assert [page.size for page in found] == [len(store.entries[entry.key]) for entry in entries]
    others = store.readers - {threading.get_ident()}
    assert len(others) == int(beside and count > reading.READ_AT_ONCE)
    assert not any(thread.ident in others for thread in threading.enumerate())


def test_damage_is_told_where_it_comes_and_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BESIDE_BYTES", 0)
    for number, said in ((2, "cannot be read"), (17, "cannot be read"), (18, "is missing")):
        store = Store()
        entries = pages_in(store, 30)
        if said == "is missing":
            store.delete(entries[number].key)
        else:
            value = bytearray(store.entries[entries[number].key])
            value[-1] ^= 1
            store.put(entries[number].key, bytes(value))
        came = 0
        with pytest.raises(SnapshotError, match=f"here: page {number} {said}"):
            for _ in PageReader(store, "here").pages(entries):
                came += 1
        assert came == number // reading.READ_AT_ONCE * reading.READ_AT_ONCE
        assert threading.active_count() == 1 or not store.readers & {
            thread.ident for thread in threading.enumerate() if thread is not threading.current_thread()
        }


def test_whoever_stops_reading_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BESIDE_BYTES", 0)
    store = Store()
    pages: Iterator[reading.ReadPage] = PageReader(store, "here").pages(pages_in(store, 30))
    for _ in range(6):
        next(pages)
    del pages
    others = store.readers - {threading.get_ident()}
    assert others
    assert not any(thread.ident in others for thread in threading.enumerate())


def sighted(table: Table, step: int) -> None:
    """Sightings of ids old and new, values in their rows, and deletions."""
    rng = np.random.default_rng(step)
    keys = rng.integers(max(0, 3000 * step - 20_000), 3000 * step + 3000, 4000).astype(np.uint64)
    slots = table.upsert(keys * np.uint64(0x9E3779B97F4A7C15), 100 * step)
    table.set_extras(slots, rng.normal(size=(len(keys), 4)).astype(np.float32))
    table.delete(keys[rng.integers(0, len(keys), 300)] * np.uint64(0x9E3779B97F4A7C15))


def whole(table: Table) -> tuple[bytes, bytes, bytes]:
    """Keys and rows that exist, and eviction's counts, bit for bit."""
    keys, slots = table.items(0)  # when the rows that are gone leave memory depends on slots
    order = np.argsort(keys)
    return keys[order].tobytes(), table.rows[slots[order]].tobytes(), table.filter.state()


@pytest.mark.parametrize("beside", [True, False])
def test_restarted_table_is_the_one_before_and_goes_on_as_it(
    monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    monkeypatch.setattr(reading, "BESIDE_BYTES", 0 if beside else 1 << 30)
    monkeypatch.setattr(snapshot_module, "PAGE_BYTES", 40_000)
    table, store = Table(SPEC), Store()
    snapshot = TableSnapshot(table, b"")
    for step in range(40):
        sighted(table, step)
        snapshot.save(store)
    assert table.stats.evicted
    again = Table(SPEC)
    other = TableSnapshot(again, b"")
    assert other.restore(store)
    assert len(store.readers) == 1 + beside
    assert whole(again) == whole(table)
    assert other.kept_bytes == snapshot.kept_bytes > 0
    assert not other.save(Store()), "nothing of a restore is a change"
    for step in range(40, 60):
        for each in (table, again):
            sighted(each, step)
    assert whole(again) == whole(table)
    assert again.digest(0) == table.digest(0)

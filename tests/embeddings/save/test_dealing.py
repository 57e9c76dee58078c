"""Rows dealt out to other tables: none is lost or changed; what admission and eviction know stays."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import Table, TableError, TableSpec
from embeddings.core.positions import Ages
from embeddings.save.dealing import deal
from embeddings.save.entries import put_deleted
from embeddings.save.snapshot import TableSnapshot

Keys = npt.NDArray[np.uint64]


def owner(shards: int, keys: Keys) -> npt.NDArray[np.int32]:
    return (keys % np.uint64(shards)).astype(np.int32)


def dealt(olds: list[Table], shards: int, now: int = 0) -> list[Table]:
    news = [Table(olds[0].spec) for _ in range(shards)]
    everywhere = [range(len(olds))] * shards
    deal(olds, news, now, lambda keys: owner(shards, keys), everywhere)
    return news


def rows_of(tables: list[Table]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for table in tables:
        keys = table.items()[0]
        rows = table.export(keys)[0]
        if table.spec.evict != "none":
            rows = np.delete(rows, table.spec.age_column, axis=1)
        found |= {int(key): row.tobytes() for key, row in zip(keys, rows, strict=True)}
    return found


def sight(tables: list[Table], keys: list[int], time: int) -> None:
    for key in keys:
        one = np.array([key], dtype=np.uint64)
        table = tables[int(owner(len(tables), one)[0])]
        table.touch(table.upsert(one, time), time)


@pytest.mark.slow
@given(
    st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=4, max_size=4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(["none", "least_recent", "least_frequent"]),
)
@settings(max_examples=40, deadline=None)
def test_tables_that_are_dealt_out_admit_and_hold_what_one_table_would(
    batches: list[list[int]], first: int, then: int, after: int, evict: str
) -> None:
    spec = TableSpec(dim=2, init="uniform", extra=2, admit_after=3, admission_capacity=64, evict=evict)  # type: ignore[arg-type]
    one, many = [Table(spec)], [Table(spec) for _ in range(first)]
    for step, batch in enumerate(batches):
        sight(one, batch, 100 + step)
        sight(many, batch, 100 + step)
        assert rows_of(many) == rows_of(one)
        if step < 3:
            many = dealt(many, (then, after, first)[step])


def test_uses_stay_and_rows_that_were_not_seen_for_long_are_evicted_first() -> None:
    spec = TableSpec(dim=1, init="uniform", rows_max=640, evict="least_frequent")
    tables = [Table(spec), Table(spec)]
    for step in range(10):
        keys = np.arange(step * 60, step * 60 + 60, dtype=np.uint64)
        for _ in range(1 + step % 3):
            for number, table in enumerate(tables):
                table.upsert(keys[keys % 2 == number], 100 + step)
    (whole,) = dealt(tables, 1)
    keys = whole.items()[0]
    column = spec.age_column + 1
    uses = whole.export(keys)[0].view(np.uint32)[:, column]
    assert (uses == 1 + keys // 60 % 3).all()
    assert whole.arrays.ages[Ages.HELD] == whole.arrays.held.sum() == 600
    for step in range(20):
        whole.upsert(np.arange(1000 + 40 * step, 1040 + 40 * step, dtype=np.uint64), 200 + step)
    left = keys[whole.find(keys) >= 0]
    assert len(left) < 600 and set(left // 60 % 3) == {1, 2}, "those that were used once are gone"


def test_rows_that_have_expired_are_named_until_a_save_has_reported_them() -> None:
    spec = TableSpec(dim=1, init="uniform", ttl_s=10)
    old = Table(spec)
    old.upsert(np.arange(6, dtype=np.uint64), 100)
    old.upsert(np.arange(6, 10, dtype=np.uint64), 200)
    new = Table(spec)
    (gone,) = deal([old], [new], 200, lambda keys: owner(1, keys), [[0]])
    assert sorted(gone) == list(range(6)) and sorted(new.items()[0]) == list(range(6, 10))

    class Store(dict[bytes, bytes]):
        put = dict.__setitem__

        def delete(self, key: bytes) -> None:
            self.pop(key, None)

        def get_many(self, keys: list[bytes]) -> list[bytes | None]:
            return [self.get(key) for key in keys]

    store = Store()
    kept = TableSnapshot(new, b"t/")
    kept.save(store)
    put_deleted(store, b"t/", gone)
    for reported in (list(range(6)), []):
        again = TableSnapshot(Table(spec), b"t/")
        assert again.restore(store)
        assert sorted(again.save(store).deleted) == reported


def test_a_table_without_room_for_all_rows_refuses_them() -> None:
    spec = TableSpec(dim=1, init="uniform", rows_max=20)
    olds = [Table(spec), Table(spec)]
    for number, table in enumerate(olds):
        table.upsert(np.arange(number, 40, 2, dtype=np.uint64), 1)
    assert len(rows_of(dealt(olds, 3))) == 40
    with pytest.raises(TableError, match="20 rows too many for rows_max 20"):
        dealt(olds, 1)

"""Several consumers of one table's changes: each gets all of them, whoever takes his first."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from embeddings import DeltaReader, DeltaWriter, SnapshotFolder, Table, TableSpec
from embeddings.table import cursor as cursor_module

SPEC = TableSpec(
    name="item", dim=2, init="uniform", ttl_s=50, admit_after=2, admission_capacity=64, rows_max=500
)


def learn(table: Table, step: int) -> None:
    keys = np.random.default_rng(step).integers(0, 60, 40)
    table.touch(table.upsert(keys, 10 * step), 10 * step)
    table.delete(keys[:3])
    table.expire(10 * step, 20)


def same(copy: Table, table: Table) -> bool:
    """The same rows, those that have expired but are not swept too, and the same filter."""
    return copy.digest(0) == table.digest(0) and copy.filter.state() == table.filter.state()


def test_two_writers_and_a_folder_of_one_table_lose_nothing(tmp_path: Path) -> None:
    table = Table(SPEC)
    learn(table, 0)
    first, first_copy = DeltaWriter(table), Table(SPEC)
    reader = DeltaReader(first_copy)
    with SnapshotFolder(tmp_path / "s") as folder, SnapshotFolder(tmp_path / "t") as other:
        folder.save(table)
        second, second_copy = DeltaWriter(table), Table(SPEC)  # begins after others have taken theirs
        second_reader = DeltaReader(second_copy)
        for step in range(1, 30):
            learn(table, step)
            if step % 2:
                folder.save(table)
            if step % 3 == 0:
                assert second_reader.apply(second.take())
            if step % 7 == 0:
                other.save(table)
                table.drain_delta()
        for each, writer in ((reader, first), (second_reader, second)):
            assert each.apply(writer.take())
        folder.save(table)
        other.save(table)
    assert len(table) > 10
    assert same(first_copy, table)
    assert same(second_copy, table)
    for name in "st":
        with SnapshotFolder(tmp_path / name) as folder:
            assert same(folder.restore("item"), table)


def test_first_delta_of_a_restored_table_holds_all_of_it(tmp_path: Path) -> None:
    table = Table(SPEC)
    learn(table, 1)
    with SnapshotFolder(tmp_path / "s") as folder:
        folder.save(table)
        restored = folder.restore("item", Table(SPEC))
        copy = Table(SPEC)
        assert DeltaReader(copy).apply(DeltaWriter(restored).take())
    assert same(copy, table)


@pytest.mark.slow
@pytest.mark.parametrize("compact_from", [5, 1 << 16])
def test_idle_consumer_holds_each_key_about_once_and_nothing_when_dropped(monkeypatch, compact_from) -> None:
    monkeypatch.setattr(cursor_module, "COMPACT_FROM", compact_from)
    table = Table(SPEC)
    idle = table.open_cursor()
    for step in range(200):
        learn(table, step)
        table.drain_delta()
    assert idle.waiting <= max(5 * 60, compact_from)
    touched, deleted, _ = table.take_changes(idle)
    assert sorted(touched.tolist()) == sorted(table.items()[0].tolist())
    assert set(deleted.tolist()) <= set(range(60))
    kept = weakref.ref(idle)
    del idle
    gc.collect()
    assert kept() is None

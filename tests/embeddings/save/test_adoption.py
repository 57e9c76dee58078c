"""A snapshot saved without eviction, restored into a table that evicts: in place, over any restarts."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from embeddings import SnapshotError, SnapshotFolder, Table, TableSpec
from embeddings.core.positions import Ages

PLAIN = TableSpec(name="item", dim=2, init="uniform", extra=1, rows_max=640, evict="none")
POLICIES = ["least_recent", "least_frequent"]


def sight(table: Table, ids: np.ndarray, time: int) -> None:
    slots = table.upsert(ids, time)
    table.touch(slots, time)
    table.set_extras(slots, np.full((len(ids), 1), time))


def saved_plain(path: Path) -> Table:
    table = Table(PLAIN)
    with SnapshotFolder(path) as folder:
        for step in range(16):
            sight(table, np.arange(step * 40, step * 40 + 40), 100 + step)
            folder.save(table)
    assert len(table) == 640
    return table


@pytest.mark.parametrize("evict", POLICIES)
def test_rows_saved_without_eviction_are_evicted_oldest_first(tmp_path: Path, evict: str) -> None:
    plain = saved_plain(tmp_path / "s")
    with SnapshotFolder(tmp_path / "s") as folder:
        table = folder.restore(table=Table(msgspec.structs.replace(PLAIN, evict=evict)))
    keys, _ = plain.items()
    slots, before = table.find(keys), plain.find(keys)
    assert (table.vectors(slots) == plain.vectors(before)).all()
    assert (table.extras(slots) == plain.extras(before)).all()
    assert (table.last_seen(slots) == plain.last_seen(before)).all()
    assert table.arrays.ages[Ages.HELD] == table.arrays.held.sum() == 640
    sight(table, np.arange(10_000, 10_040), 200)
    gone = np.flatnonzero(table.find(np.arange(640)) < 0)
    assert 40 <= len(gone) <= 160
    assert gone.tolist() == list(range(len(gone)))  # the longest unseen
    assert table.stats.full == 0


@pytest.mark.slow
@pytest.mark.parametrize("evict", POLICIES)
def test_switch_holds_over_restarts_in_the_midst_of_bases_and_deltas(tmp_path: Path, evict: str) -> None:
    saved_plain(tmp_path / "s")
    spec = msgspec.structs.replace(PLAIN, evict=evict)
    rng = np.random.default_rng(1)

    def play(folder_name: str, restarts: bool) -> tuple[int, bytes]:
        folder = SnapshotFolder(tmp_path / folder_name)
        table = folder.restore(table=Table(spec))
        for step, ids in enumerate(batches):
            sight(table, ids, 200 + step)
            if step % 5 == 0:
                folder.save(table)
                if restarts:
                    folder.close()
                    folder = SnapshotFolder(tmp_path / folder_name)
                    table = folder.restore(table=Table(spec))
        folder.close()
        return table.digest(0), table.filter.state()

    batches = [rng.integers(0, 1200, 11) for _ in range(120)]
    (tmp_path / "t").mkdir()
    for file in (tmp_path / "s").iterdir():
        (tmp_path / "t" / file.name).write_bytes(file.read_bytes())
    assert play("s", restarts=False) == play("t", restarts=True)


def test_going_back_to_no_eviction_is_refused(tmp_path: Path) -> None:
    evicts = msgspec.structs.replace(PLAIN, evict="least_recent")
    table = Table(evicts)
    sight(table, np.arange(10), 1)
    with SnapshotFolder(tmp_path / "s") as folder:
        folder.save(table)
        with pytest.raises(SnapshotError, match="evict = least_recent, but now evict = none"):
            folder.restore(table=Table(PLAIN))

"""Snapshots: what is restored is what was saved, at every moment, and damage is never taken for data."""

import contextlib
import shutil
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from embeddings import Table, TableSpec
from embeddings.errors import SnapshotError
from embeddings.save import folder as folder_module
from embeddings.save import snapshot as snapshot_module
from embeddings.save.folder import SnapshotFolder
from embeddings.save.snapshot import TableSnapshot
from embeddings.spec import Evict

SPEC = TableSpec(
    name="item",
    dim=4,
    optimizer="adagrad",
    init="normal",
    extra=2,
    ttl_s=5000,
    admit_after=2,
    admission_capacity=512,
    rows_max=20_000,
)


def learn(table: Table, step: int, ids: int = 600) -> None:
    """One step of a made-up training: sightings, gradients, extras, expiry, deletions."""
    rng = np.random.default_rng(step)
    keys = (rng.zipf(1.3, ids) % 5000).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    slots = table.upsert(keys, 1000 * step)
    table.apply_gradients(slots, rng.normal(size=(ids, 4)).astype(np.float32))
    table.touch(slots, 1000 * step)
    table.set_extras(slots, rng.normal(size=(ids, 2)).astype(np.float32))
    if step % 3 == 0:
        table.expire(1000 * step, 300)
    if step % 4 == 0:
        table.delete(keys[:40])


def state(table: Table) -> tuple[int, int, bytes]:
    """All that decides what a table does next, bit for bit."""
    return table.digest(0), len(table), table.filter.state()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of a few dozen rows, so that a base takes many saves."""
    monkeypatch.setattr(snapshot_module, "PAGE_BYTES", 4000)


@pytest.mark.slow
@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("evict", ["none", "least_recent", "least_frequent"])
def test_every_save_can_be_restored_and_gone_on_from(tmp_path: Path, evict: Evict) -> None:
    spec = (
        SPEC if evict == "none" else msgspec.structs.replace(SPEC, evict=evict, rows_max=256, admit_after=1)
    )
    table = Table(spec)
    path = tmp_path / "s"
    bases = set()
    with SnapshotFolder(path) as folder:
        for step in range(1, 30):
            learn(table, step)
            folder.save(table)
            with SnapshotFolder(path, read_only=True) as reader:
                again = reader.restore("item")
                bases.add(read_base(reader))
            assert state(again) == state(table)
    assert len(bases) > 3, "bases took each other's place on the way"
    # The restored one learns on as the first one does, in a folder that goes on incrementally.
    with SnapshotFolder(path) as folder:
        again = folder.restore("item")
        for step in range(30, 45):
            learn(table, step)
            learn(again, step)
            folder.save(again)
            # Which expired rows a bounded sweep has reached depends on slots; what exists does not.
            assert again.digest(1000 * step) == table.digest(1000 * step)
            assert again.filter.state() == table.filter.state()
            with SnapshotFolder(path, read_only=True) as reader:
                assert state(reader.restore()) == state(again)


def read_base(folder: SnapshotFolder) -> int:
    """The generation of the base that a restore reads."""
    data = folder.get(b"table/item/meta")
    assert data is not None
    return snapshot_module.read_meta(data, "test").base


@pytest.mark.slow
@pytest.mark.usefixtures("small_pages")
def test_process_that_restarts_often_still_finishes_bases(tmp_path: Path) -> None:
    table = Table(SPEC)
    path = tmp_path / "s"
    kept = []
    for step in range(1, 45):
        with SnapshotFolder(path) as folder:
            if step > 1:
                before = state(table)
                table = folder.restore()
                assert state(table) == before
            learn(table, step)
            folder.save(table)
            kept.append(folder.kept_bytes("item"))
    assert max(kept[20:]) < 6 * len(table) * (8 + 4 * table.width) + 100_000


def test_tables_saved_together_are_of_one_moment(tmp_path: Path) -> None:
    specs = [msgspec.structs.replace(SPEC, name=name) for name in ("a", "b")]
    tables = [Table(spec) for spec in specs]
    with SnapshotFolder(tmp_path / "s") as folder:
        for step in range(1, 5):
            for table in tables:
                learn(table, step)
            folder.save(*tables)
        assert folder.tables() == ["a", "b"]
        for table in tables:
            again = Table(table.spec)
            with SnapshotFolder(tmp_path / "s", read_only=True) as reader:
                assert state(reader.restore(table=again)) == state(table)


@pytest.mark.usefixtures("small_pages")
def test_whole_save_that_fails_midway_leaves_the_one_before_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another table of the name takes the place of the first, or does not, whenever the disk fails."""
    first, second = Table(SPEC), Table(SPEC)
    for step in range(1, 6):
        learn(first, step)
    for step in range(1, 12):
        learn(second, step, 300)
    path = tmp_path / "s"
    monkeypatch.setattr(folder_module, "BATCH_BYTES", 1)
    with SnapshotFolder(path) as folder:
        folder.save(first)
        learn(first, 7)
        folder.save(first)
    saved = state(first)
    write = SnapshotFolder.write
    for allowed in range(4):
        left = allowed

        def failing(self: SnapshotFolder, batch: object, *, sync: bool) -> None:
            nonlocal left
            if left == 0:
                raise SnapshotError("the disk is full")
            left -= 1
            write(self, batch, sync=sync)  # type: ignore[arg-type]

        with SnapshotFolder(path) as folder:
            monkeypatch.setattr(SnapshotFolder, "write", failing)
            with pytest.raises(SnapshotError, match="full"):
                folder.save(second)
            monkeypatch.setattr(SnapshotFolder, "write", write)
        with SnapshotFolder(path, read_only=True) as reader:
            assert state(reader.restore()) == saved
    with SnapshotFolder(path) as folder:
        folder.save(second)
        assert state(second) != saved
        with SnapshotFolder(path, read_only=True) as reader:
            assert state(reader.restore()) == state(second)
        folder.purge(second)
        whole = size_of(path)
    with SnapshotFolder(tmp_path / "fresh") as folder:
        folder.purge(second)
        assert abs(whole - size_of(tmp_path / "fresh")) < 1000


def test_incremental_save_writes_what_changed_and_no_more(tmp_path: Path) -> None:
    table = Table(TableSpec(dim=16, rows_max=200_000))
    table.upsert(np.arange(150_000, dtype=np.uint64), 1)
    with SnapshotFolder(tmp_path / "s") as folder:
        folder.save(table)
        before = size_of(tmp_path / "s")
        assert before > 150_000 * (8 + 4 * table.width)
        table.touch(table.find(np.arange(1000, dtype=np.uint64)), 2)
        folder.save(table)
        assert size_of(tmp_path / "s") - before < 4 * 1000 * (8 + 4 * table.width)


def size_of(path: Path) -> int:
    """Bytes of the database's files."""
    return sum(file.stat().st_size for file in path.glob("*.sst"))


def test_settings_that_change_a_row_are_refused_and_others_are_free(tmp_path: Path) -> None:
    table = Table(SPEC)
    learn(table, 1)
    learn(table, 2)
    with SnapshotFolder(tmp_path / "s") as folder:
        folder.save(table)
        wider = Table(msgspec.structs.replace(SPEC, dim=5))
        with pytest.raises(SnapshotError, match="dim = 4, but now dim = 5"):
            folder.restore(table=wider)
        longer = Table(msgspec.structs.replace(SPEC, ttl_s=90_000, learning_rate=0.5))
        assert state(folder.restore(table=longer)) == state(table)
        with pytest.raises(SnapshotError, match="not empty"):
            folder.restore(table=longer)
        with pytest.raises(SnapshotError, match="no table 'user' was saved here; there are item"):
            folder.restore("user")


def test_missing_folder_and_missing_current_are_said(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="CURRENT"):
        SnapshotFolder(tmp_path / "none", read_only=True)
    table = Table(SPEC)
    learn(table, 1)
    with SnapshotFolder(tmp_path / "s") as folder:
        folder.save(table)
    (tmp_path / "s" / "CURRENT").unlink()
    with pytest.raises(SnapshotError, match="CURRENT"):
        SnapshotFolder(tmp_path / "s")


@pytest.mark.slow
def test_damaged_file_is_refused_by_name_or_changes_nothing(tmp_path: Path) -> None:
    """Flip bytes all over every file: a restore gives the table that was saved, or says which file."""
    table = Table(SPEC)
    path = tmp_path / "s"
    with SnapshotFolder(path) as folder:
        for step in range(1, 8):
            learn(table, step)
            folder.save(table)
    saved = state(table)
    refused = set()
    rng = np.random.default_rng(3)
    for file in sorted(path.iterdir()):
        size = file.stat().st_size
        data_file = file.suffix == ".sst"
        for _ in range(12 if data_file else 3):
            copy = tmp_path / "copy"
            shutil.copytree(path, copy)
            damaged = copy / file.name
            data = bytearray(damaged.read_bytes())
            if not data:
                shutil.rmtree(copy)
                continue
            at = int(rng.integers(0, size))
            data[at] ^= 0x40
            damaged.write_bytes(data)
            try:
                with SnapshotFolder(copy, read_only=True) as reader:
                    again = reader.restore("item")
            except SnapshotError as error:
                if data_file:
                    assert file.name in str(error), (at, str(error))
                assert str(copy) in str(error)
                refused.add(file.suffix)
            else:
                assert state(again) == saved, (file.name, at)
            shutil.rmtree(copy)
    assert ".sst" in refused


def test_truncated_file_is_refused_by_name(tmp_path: Path) -> None:
    table = Table(SPEC)
    path = tmp_path / "s"
    with SnapshotFolder(path) as folder:
        for step in range(1, 5):
            learn(table, step)
            folder.save(table)
    file = max(path.glob("*.sst"), key=lambda f: f.stat().st_size)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SnapshotError, match=file.name), SnapshotFolder(path, read_only=True) as reader:
        reader.restore()
    file.unlink()
    with pytest.raises(SnapshotError, match=file.name), SnapshotFolder(path, read_only=True) as reader:
        reader.restore()


def test_later_format_is_refused_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(SPEC)
    learn(table, 1)
    monkeypatch.setattr(snapshot_module, "FORMAT_VERSION", 99)
    with SnapshotFolder(tmp_path / "s") as folder:
        folder.save(table)
    monkeypatch.undo()
    with (
        pytest.raises(SnapshotError, match="format 99; this Freshet reads formats up to 1"),
        SnapshotFolder(tmp_path / "s") as folder,
    ):
        folder.restore()


def test_purged_id_leaves_no_trace_on_the_disk(tmp_path: Path) -> None:
    table = Table(SPEC)
    path = tmp_path / "s"
    secret = np.array([0x5EC12E7_5EC12E7], dtype=np.uint64)
    with SnapshotFolder(path) as folder:
        for step in range(1, 6):
            learn(table, step)
            slots = table.upsert(np.repeat(secret, 2), 1000 * step)
            table.set_extras(slots, np.full((2, 2), 12345.678, dtype=np.float32))
            folder.save(table)
        traces = (secret.tobytes(), np.float32(12345.678).tobytes())
        assert all(found(path, trace) for trace in traces)
        table.delete(secret)
        folder.save(table)
        assert found(path, traces[0]), "a tombstone and what was there before are still in the folder"
        folder.purge(table)
        assert not any(found(path, trace) for trace in traces)
    assert not any(found(path, trace) for trace in traces)
    with SnapshotFolder(path, read_only=True) as reader:
        assert state(reader.restore()) == state(table)


@pytest.mark.usefixtures("small_pages")
def test_renewed_snapshot_holds_nothing_of_what_was_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "PAGES_PER_SAVE", 1)
    store: dict[bytes, bytes] = {}
    table = Table(SPEC)
    snapshot = TableSnapshot(table, b"t/")
    secret = np.array([0x5EC12E7_5EC12E7], dtype=np.uint64)

    def save(step: int) -> None:
        learn(table, step)
        snapshot.save(_Changes(store))

    for step in range(1, 9):
        table.upsert(np.repeat(secret, 2), 1000 * step)
        save(step)
    assert any(secret.tobytes() in value for value in store.values())
    table.forget(secret)
    snapshot.renew()
    saves = 0
    while snapshot.renewing:
        save(9 + saves)
        saves += 1
    assert saves > 2  # a bounded part of it with each
    assert not any(secret.tobytes() in value for value in store.values())
    restored = Table(SPEC)
    assert TableSnapshot(restored, b"t/").restore(_Changes(store))
    assert state(restored) == state(table)


class _Changes:
    """A store in memory."""

    def __init__(self, entries: dict[bytes, bytes]) -> None:
        self._entries = entries

    def put(self, key: bytes, value: bytes) -> None:
        self._entries[key] = value

    def delete(self, key: bytes) -> None:
        self._entries.pop(key, None)

    def get(self, key: bytes) -> bytes | None:
        return self._entries.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self._entries.get(key) for key in keys]


def found(path: Path, trace: bytes) -> list[str]:
    """The files of a folder that hold these bytes; looked at again where one is merged away meanwhile."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return [file.name for file in path.iterdir() if trace in file.read_bytes()]


def test_snapshot_of_format_1_can_still_be_read(tmp_path: Path) -> None:
    """A folder written by the first version, with a base, deltas and a filter, and what was in it."""
    with zipfile.ZipFile(Path(__file__).parent / "data" / "snapshot_v1.zip") as stored:
        stored.extractall(tmp_path)
    with SnapshotFolder(tmp_path / "snapshot", read_only=True) as folder:
        assert folder.tables() == ["item"]
        table = folder.restore("item")
    with np.load(tmp_path / "expected.npz") as expected:
        keys, _ = table.items()
        assert np.array_equal(np.sort(keys), expected["keys"])
        rows, _ = table.export(expected["keys"])
        assert np.array_equal(rows.view(np.uint32), expected["rows"])
        assert table.filter.state() == expected["filter"].tobytes()

"""Updates and snapshots fit into the records that the log's topics take."""

import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings.save.delta import Changes
from embeddings.table import table as table_module
from learner.features.encoder import FeatureSpec
from learner.model.model import Model
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.updates import streamed
from learner.updates.follower import Follower
from learner.updates.format import Update, arrays_bytes, cut, decode_update, encode_update, frame_bytes
from learner.updates.publisher import FRAME_BYTES, record_bytes_min
from learner.updates.snapshots import SnapshotReader
from stream.errors import LogError
from stream.log.base import DEAD_LETTERS, EXAMPLES, SNAPSHOTS, UPDATES, Log, Outgoing
from stream.log.settings import LogSettings
from stream.log.testing import MemoryLog
from stream.records.types import Example, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import Commit, RoleState

FEATURES = {"user": FeatureSpec(dim=8), "item": FeatureSpec(dim=4)}
SETTINGS = LearnerSettings(deep="none", snapshot_bytes_min=1, snapshot_ratio=0.5)


def log_of(record_bytes_max: int) -> MemoryLog:
    log = MemoryLog(LogSettings(record_bytes_max=record_bytes_max))
    for topic in (EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS):
        log.create_topic(topic, 1)
    return log


def append(log: Log, requests: int) -> None:
    records = [
        Example(
            request_id=f"r{i}",
            time=1e9 + i,
            decided=1e9 + i,
            context={"user": f"u{i}"},
            candidates=[{"item": 10 * i + j} for j in range(10)],
            labels=[float(j == 0) for j in range(10)],
        )
        for i in range(requests)
    ]
    log.append(EXAMPLES, [Outgoing(b"", encode(record)) for record in records])


@pytest.mark.parametrize("rows", ["float32", "int8"])
def test_updates_and_snapshots_are_cut_to_what_the_topics_take(tmp_path: Path, rows: str) -> None:
    learning = msgspec.structs.replace(SETTINGS, update_rows=rows)
    limit = record_bytes_min(Model(FEATURES, learning), partitions=1)
    log = log_of(limit)
    append(log, 600)
    with RoleState(tmp_path, "learner", Learner.fingerprint(FEATURES, learning), sync=False) as state:
        learner = Learner(FEATURES, learning, state)
        learner.publish_to(log)
        runner = Runner(
            log, state, learner, Subscription(EXAMPLES, "learn"), RunnerSettings(commit_every_s=60.0)
        ).open()
        while runner.step():
            pass
        runner.commit()  # all in one update: over the limit by far
        follower = Follower(Model(FEATURES, learning))
        for topic in (UPDATES, SNAPSHOTS):
            sizes = [len(record.key) + len(record.value) for record in log.read(topic, 0, 0)]
            assert len(sizes) > 2
            assert limit // 2 < max(sizes) <= limit
        while follower.poll(log):
            pass
        assert follower.seq == 1
        assert sum(follower.model.table_rows().values()) == sum(learner.model.table_rows().values()) > 6_000


def test_a_snapshot_of_rows_in_memory_gathers_little_beside_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice: as it is, and with its parts dropped as they come, which leaves what the making takes."""
    monkeypatch.setattr(table_module, "PAGE_ROWS", 1 << 12)
    monkeypatch.setattr(streamed, "SEND_BYTES", 1 << 20)
    log = log_of(32 << 20)
    with RoleState(tmp_path, "learner", Learner.fingerprint(FEATURES, SETTINGS), sync=False) as state:
        learner = Learner(FEATURES, SETTINGS, state)
        keys = np.arange(200_000, dtype=np.uint64)
        table = learner.model.tables[0]
        slots = table.upsert(keys, int(1e9))
        table.set_vectors(slots, np.random.default_rng(0).normal(size=(len(keys), 8)))
        commit = state.begin()
        learner.flush(commit)
        state.commit(commit)
        blocks = [block for block in state.unsent() if block.topic == SNAPSHOTS]
        records = [record for block in blocks for record in block.records]
        log.append(SNAPSHOTS, records)
        size = learner.meta.snapshot_bytes
        assert size == sum(len(record.value) for record in records) > 14_000_000
        assert learner.meta.update_bytes == 0, "it covers the updates before it"

        sizes: list[int] = []
        monkeypatch.setattr(Commit, "emit", lambda _, topic, record: sizes.append(len(record.value)))
        tracemalloc.start()
        learner.publish_whole(state.begin())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert sizes == [len(record.value) for record in records]
    assert peak < 0.6 * size
    [snapshot] = SnapshotReader().read(log)
    assert len(snapshot.offsets) == len(records) > 10
    follower = Follower(Model(FEATURES, SETTINGS))
    assert follower.start(log)
    served, there = follower.model.tables[0].export(keys)
    assert there.all()
    assert served.tobytes() == table.export_serving(keys)[0].tobytes()


def test_a_snapshot_of_a_small_model_is_one_record(tmp_path: Path) -> None:
    log = log_of(32 << 20)
    append(log, 20)
    with RoleState(tmp_path, "learner", Learner.fingerprint(FEATURES, SETTINGS), sync=False) as state:
        learner = Learner(FEATURES, SETTINGS, state)
        runner = Runner(log, state, learner, Subscription(EXAMPLES, "learn"), RunnerSettings()).open()
        while runner.step():
            pass
        runner.commit()
    [record] = log.read(SNAPSHOTS, 0, 0)
    part = decode_update(record.value)
    assert (part.part, part.parts) == (0, 1)
    assert len({piece.name for piece in part.tables}) > 1
    assert part.arrays


def test_topic_with_too_small_a_limit_is_refused_with_what_to_do() -> None:
    model = Model(FEATURES, SETTINGS)
    needed = record_bytes_min(model, partitions=1)
    learner = Learner(FEATURES, SETTINGS)
    learner.publish_to(log_of(needed))
    with pytest.raises(LogError, match=rf"'updates' takes .* needs {needed:,}.*record_bytes_max = {needed}"):
        learner.publish_to(log_of(needed - 1))


def test_dense_arrays_larger_than_a_record_are_refused() -> None:
    deep = LearnerSettings(deep="dcn")
    many_features = {f"f{i}": FeatureSpec() for i in range(12)}
    with pytest.raises(LogError, match="dense arrays"):
        Learner(many_features, deep).publish_to(log_of(1 << 20))
    Learner(many_features, deep).publish_to(log_of(2 << 20))


@given(
    tables=st.lists(
        st.tuples(
            st.text(min_size=1, max_size=20), st.integers(0, 40), st.integers(0, 40), st.integers(1, 30)
        ),
        max_size=4,
        unique_by=lambda table: table[0],
    ),
    arrays=st.dictionaries(st.text(max_size=10), st.binary(max_size=400), max_size=3),
    taken=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 1 << 40), st.integers(0, 1 << 40)), max_size=20
    ),
    spare=st.integers(0, 600),
)
@settings(max_examples=many(40), deadline=None)
def test_no_part_is_over_its_limit_and_nothing_is_lost(
    tables: list[tuple[str, int, int, int]],
    arrays: dict[str, bytes],
    taken: list[tuple[int, int, int]],
    spare: int,
) -> None:
    head = Update(1, 1, 0, 1, {0: 1}, 1, 1e9, 1, [], taken=taken)
    changes = []
    for name, deleted, keys, width in tables:
        change = Changes(
            np.arange(deleted, dtype=np.uint64),
            np.arange(keys, dtype=np.uint64),
            np.ones((keys, width), dtype=np.float32),
            np.zeros(0, dtype=np.uint32),
            np.zeros((0, 8), dtype=np.uint64),
        )
        changes.append((name, change))
    least = max([arrays_bytes(arrays), *(8 + 4 * width for *_, width in tables)])
    whole_max = least + spare
    limit = whole_max + frame_bytes(head, [name for name, *_ in tables])
    parts = list(cut(head, changes, arrays, whole_max, whole_max))
    assert all(len(encode_update(part)) <= limit for part in parts)
    assert [part.part for part in parts] == list(range(len(parts)))
    assert [part.arrays for part in parts] == [{}] * (len(parts) - 1) + [arrays]
    found = [piece for part in parts for piece in part.tables]
    for name, deleted, keys, width in tables:
        mine = [piece for piece in found if piece.name == name]
        assert b"".join(piece.deleted for piece in mine) == np.arange(deleted, dtype=np.uint64).tobytes()
        assert b"".join(piece.keys for piece in mine) == np.arange(keys, dtype=np.uint64).tobytes()
        assert sum(len(piece.rows) for piece in mine) == 4 * keys * width


def test_room_kept_for_the_frame_holds_many_stretches() -> None:
    taken = [(i, 1 << 40, 1 << 41) for i in range(2_500)]
    head = Update(1, 1, 0, 1, dict.fromkeys(range(1024), 1 << 60), 1, 1e9, 1, [], taken=taken)
    assert frame_bytes(head, []) < FRAME_BYTES + 16 * 1024

"""Snapshots of models whose rows rest: written and read a piece at a time, while the learner goes on."""

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import starting
from paths import ROOT
from resting_parts import (
    AT_ONCE,
    FEATURES,
    MEMORY_ROWS,
    SETTINGS,
    commit,
    follower_in,
    grow,
    log_in,
    opened,
    rows_of,
    send,
)

from learner.errors import UpdateGapError
from learner.model.model import Model
from learner.role.learner import Learner
from learner.updates.follower import Follower
from learner.updates.format import decode_update
from learner.updates.snapshots import SnapshotReader, parts_of
from learner.updates.streamed import COMMIT_ROWS
from stream.log.base import SNAPSHOTS, UPDATES, Log, Outgoing
from stream.log.testing import MemoryLog
from stream.records.types import Forget

WIDTH = 4 * (16 + 6 + 2) + 8  # bytes of an item's row in a snapshot, with its key


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log with the learner's topics."""
    log = log_in(tmp_path)
    yield log
    log.close()


def same_rows(one: Model, other: Model, now: int) -> None:
    """Check that two models have the same rows, to the bit; the other may have some that were evicted."""
    for t, ((keys, rows), (others, theirs)) in enumerate(
        zip(rows_of(one, now), rows_of(other, now), strict=True)
    ):
        if one.table_names[t] != "tag":
            assert keys.tolist() == others.tolist()
        at = np.minimum(np.searchsorted(others, keys), len(others) - 1)
        assert (others[at] == keys).all()
        assert rows.tobytes() == theirs[at].tobytes()


def until(log: Log, seq: int) -> MemoryLog:
    """The updates up to a number, in a log of their own, without snapshots."""
    other = MemoryLog()
    for topic in (UPDATES, SNAPSHOTS):
        other.create_topic(topic, 1)
    first, end = log.ends(UPDATES)[0]
    while first < end:
        for record in log.read(UPDATES, 0, first):
            first = record.offset + 1
            if decode_update(record.value).seq <= seq:
                other.append(UPDATES, [Outgoing(record.key, record.value)])
    return other


def pieces(log: Log) -> int:
    """How many parts of snapshots came after the last complete one."""
    complete = list(SnapshotReader().read(log))
    return log.ends(SNAPSHOTS)[0][1] - (complete[-1].offsets[-1] + 1 if complete else 0)


@pytest.mark.slow
def test_a_snapshot_goes_out_in_pieces_and_is_of_one_update(log: Log, tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        learner = Learner(FEATURES, SETTINGS, state)
        sent, before, step = [], 0, 0
        while not (found := list(SnapshotReader().read(log))):
            grow(learner, step)
            sent.append(commit(learner, state))
            send(state, log)
            before += pieces(log) > 0
            step += 1
        [snapshot] = found
        assert before > 3, "it took several commits"
        rows = sum(len(piece.keys) // 8 for part in parts_of(snapshot, log) for piece in part.tables)
        assert rows > 3 * COMMIT_ROWS
        # no commit sends more than its update, and a page and its rest of a delta of each table
        assert max(sent) < 2 * (COMMIT_ROWS + 2 * AT_ONCE) * WIDTH + (1 << 16) < rows * WIDTH
        early = Follower(Model(FEATURES, SETTINGS))
        updates = until(log, snapshot.head.seq)
        while early.poll(updates):
            pass
        late = Follower(Model(FEATURES, SETTINGS))
        tracemalloc.start()
        assert late.start(log)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.6 * rows * WIDTH
        assert late.seq == early.seq == snapshot.head.seq
        same_rows(late.model, early.model, int(1e9) + step)
        assert all(table.in_memory <= 1.25 * MEMORY_ROWS for table in late.model.resting.tables.values())
        while late.poll(log):
            pass
        assert late.seq == learner.meta.seq
        same_rows(learner.model, late.model, int(1e9) + step)
        for model in (early.model, late.model):
            model.resting.close()
        log.trim(SNAPSHOTS, 0, snapshot.offsets[1])
        with pytest.raises(UpdateGapError, match="has dropped record 0 of topic snapshots"):
            list(parts_of(snapshot, log))


@pytest.mark.slow
def test_a_snapshot_that_was_cut_short_begins_anew(log: Log, tmp_path: Path) -> None:
    def live(step: int, last: Callable[[], bool]) -> int:
        while not last():
            grow(learner, step)
            commit(learner, state)
            send(state, log)
            step += 1
        return step

    step = 0
    for _ in range(2):  # the second life begins another one, since the first was not complete
        with opened(tmp_path) as state:
            learner = Learner(FEATURES, SETTINGS, state)
            step, before = live(step, lambda: pieces(log) > 0), pieces(log)
            step = live(step, lambda before=before: pieces(log) > before)
    with opened(tmp_path) as state:
        learner = Learner(FEATURES, SETTINGS, state)
        before = pieces(log)
        step = live(step, lambda: pieces(log) > before)
        learner.forget(Forget("f", 1e9, entity={"item": [0]}))
        assert learner.model.tables[1].find(np.zeros(1, dtype=np.uint64)) == [-1]
        before = pieces(log)
        step = live(step, lambda: pieces(log) > before)
        assert decode_update(log.read(SNAPSHOTS, 0, before)[0].value).part == 0, "the row is not sent on"
        step = live(step, lambda: bool(list(SnapshotReader().read(log))))
        follower = follower_in(tmp_path)
        assert follower.start(log)
        while follower.poll(log):
            pass
        same_rows(learner.model, follower.model, int(1e9) + step)
        follower.model.resting.close()


@pytest.mark.long
@pytest.mark.process
def test_kills_while_a_snapshot_is_written_and_read(log: Log, tmp_path: Path) -> None:
    program = str(ROOT / "tests" / "helpers" / "resting_parts.py")
    rest = tmp_path / "rest"

    def complete() -> int:
        return len(list(SnapshotReader().read(log)))

    def parts() -> int:
        return log.ends(SNAPSHOTS)[0][1]

    for kill in range(6):
        before = parts()
        writer = starting.start("write", str(tmp_path), program=program)
        while parts() < before + 3 + kill:
            assert writer.poll() is None
        writer.kill()
        assert writer.wait() == -9
    writer = starting.start("write", str(tmp_path), program=program)
    while complete() < 2:
        assert writer.poll() is None
    for _ in range(4):
        reader = starting.start("read", str(tmp_path), program=program)
        mine = f"freshet-rest-{reader.pid}-"
        while len(list(rest.glob(f"{mine}*"))) < 2:  # of its model, and of the one that it is loading
            assert reader.poll() is None
        reader.kill()
        assert reader.wait() == -9
        assert all(folder.name.startswith(mine) for folder in rest.iterdir()), "others' are removed"
    writer.kill()
    writer.wait()
    with opened(tmp_path) as state:
        learner = Learner(FEATURES, SETTINGS, state)
        send(state, log)
        follower = follower_in(tmp_path)
        assert follower.start(log)
        while follower.poll(log):
            pass
        assert follower.seq == learner.meta.seq > 0
        same_rows(learner.model, follower.model, int(1e9) + learner.meta.seq)
        follower.model.resting.close()

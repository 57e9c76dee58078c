"""One learner leads, the others could: whatever happens to them, who follows sees one learner."""

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest

from learner.errors import OtherModelError
from learner.features.encoder import FeatureSpec
from learner.model.model import Model
from learner.role.anew import begin_anew
from learner.role.learner import Learner
from learner.role.session import AsideError, FencedError, Session
from learner.role.setup import Callbacks, Folders, Learning
from learner.role.shared_snapshots import SharedSnapshots
from learner.role.succession import Succession
from learner.settings import LearnerSettings
from learner.updates.follower import Follower
from stream.errors import LogAwayError, LogError
from stream.group.membership import GroupSettings, Member
from stream.log.base import DEAD_LETTERS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES, Log, Outgoing
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.log.testing import Faults, FaultyLog, MemoryLog
from stream.records.entities.record import EntityEvent
from stream.records.forgetting import forget_records
from stream.records.types import Example, Forget, encode
from stream.run.contract import RunnerSettings
from stream.run.runner import Runner
from stream.state.disk import ROCKS_DISK, Disk
from stream.state.layout import PURGE_KEY
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

pytestmark = pytest.mark.slow

FEATURES = {"user": FeatureSpec(dim=2), "item": FeatureSpec(dim=2, ttl_s=500.0)}
SETTINGS = LearnerSettings(deep="none", snapshot_bytes_min=50_000)
_opened = ExitStack()  # what a test has opened; the fixture closes it
BY_HAND = GroupSettings(beat_s=60.0, timeout_s=180.0)
EAGER = RunnerSettings(commit_every_s=0.0, read_max=11, wait_s=0.0)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = SqliteLog(tmp_path / "log.db", LogSettings(sync=False))
    log.create_topic(EXAMPLES, 3)
    for topic in (UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES):
        log.create_topic(topic, 1)
    yield log
    _opened.close()
    log.close()


def append(log: Log, first: int, n: int) -> None:
    """Examples by number; every 40th is one that no learner can use."""
    rng = np.random.default_rng(first)
    examples = [
        Example(
            request_id=f"r{i}",
            time=1e9 + i,
            decided=1e9 + i,
            context={"user": 0.5 if i % 40 == 7 else int(rng.integers(20))},
            candidates=[{"item": int(rng.integers(200))}],
            labels=[float(rng.integers(2))],
        )
        for i in range(first, first + n)
    ]
    log.append(EXAMPLES, [Outgoing(e.request_id.encode(), encode(e)) for e in examples])


class One:
    """A learner of the group, moved step by step."""

    def __init__(
        self,
        log: Log,
        folder: Path,
        name: str,
        on_ready: Callable[[], None] = lambda: None,
        opens: bool = True,
        runner: RunnerSettings = EAGER,
        features: dict[str, FeatureSpec] = FEATURES,
        settings: LearnerSettings = SETTINGS,
        disk: Disk = ROCKS_DISK,
    ) -> None:
        self.log = log
        self.faulty = FaultyLog(log, 0, Faults())
        self.name = name
        self.member = _opened.enter_context(Member(log, "learn", name, BY_HAND))

        @contextlib.contextmanager
        def at_work(runner: Runner, learner: Learner) -> Iterator[object]:
            def ignore() -> None:
                pass

            yield ignore

        self.group = Succession(
            self.faulty,
            self.member,
            Folders(folder / name, folder / "snapshots", disk),
            Learning(features, settings, runner),
            Callbacks(on_ready, at_work),  # type: ignore[arg-type]
        )
        if opens:
            self.open()

    def open(self) -> None:
        self.group.snapshots.begin(self.group.folder)
        self.state = RoleState(
            self.group.folder, "learner", self.group.fingerprint, sync=False, disk=self.group.disk
        )
        self.session = Session(self.group, self.state, threading.Event())

    def close(self) -> None:
        """As after a kill: what is not committed is gone."""
        self.session.end(finish=False)
        self.state.close()

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.member.beat()
            self.member.look()
            self.session.turn()

    def commit_unsent(self) -> None:
        """Learn and commit something of which nothing gets out."""
        self.faulty.faults = Faults(append_lost=1.0)
        committed = self.session.runner.progress.commits
        with pytest.raises(LogAwayError):
            self.turn()
        assert self.session.runner.progress.commits == committed + 1
        self.faulty.faults = Faults()

    def lead(self) -> None:
        while not self.session.leading:
            self.turn()

    def learn(self) -> None:
        """Lead, or follow, to the end of what there is."""
        for _ in range(400):
            self.turn()
            meta = self.session.learner.meta
            if self.session.leading and sum(meta.watermark.values()) == _end(self.log, EXAMPLES):
                return
            if not self.session.leading and self.session.offset == _end(self.log, UPDATES):
                return
        raise AssertionError("it does not come to an end")

    @property
    def digest(self) -> str:
        return self.session.learner.digest()

    def snap(self) -> None:
        if self.session.snapping is not None:
            self.session.snapping.join()  # one of before, beside which none is begun
        self.session.snap()
        assert self.session.snapping is not None
        self.session.snapping.join()


def _end(log: Log, topic: str) -> int:
    return sum(end for _, end in log.ends(topic))


def gone(of: One, watcher: One) -> None:
    """`watcher` beats until it takes `of` for gone."""
    for _ in range(10):
        watcher.member.beat()
        watcher.member.look()
    assert of.name not in watcher.member.names


def follow(log: Log, features: dict[str, FeatureSpec] = FEATURES) -> Follower:
    follower = Follower(Model(features, SETTINGS))
    follower.start(log)
    while follower.poll(log):
        pass
    return follower


def assert_follows(follower: Follower, learner: Learner) -> None:
    """Whoever follows has each of the learner's rows, bit for bit, and none besides."""
    assert follower.gaps == 0 and follower.seq == learner.meta.seq
    assert follower.watermark == learner.meta.watermark
    now = int(learner.trainer.clock)
    for mine, theirs in zip(follower.model.tables, learner.model.tables, strict=True):
        keys, _ = theirs.items(now)
        expected, _ = theirs.export_serving(keys)
        found, there = mine.export(keys)
        assert there.all() and np.array_equal(found, expected)
        assert len(mine.items(now)[0]) == len(keys)
    for name, array in learner.model.arrays().items():
        assert np.array_equal(follower.model.arrays()[name], array)


def letters(log: Log) -> list[int]:
    found: dict[tuple[str, int], int] = {}
    for record in log.read(DEAD_LETTERS, 0, 0, 10_000):
        found.setdefault((record.producer, record.seq), record.offset)
    return sorted(found.values())


@pytest.mark.slow
def test_one_that_stands_by_has_the_leaders_state_and_goes_on_where_it_ends(log: Log, tmp_path: Path) -> None:
    a, b = One(log, tmp_path, "a"), One(log, tmp_path, "b")
    a.lead()
    append(log, 0, 400)
    a.learn()
    b.learn()
    assert b.digest == a.digest and not b.session.leading
    live = follow(log)
    append(log, 400, 100)
    a.turn(3)  # and it is paused in the middle of them
    gone(a, b)
    b.lead()
    b.learn()
    while live.poll(log):
        pass
    assert_follows(live, b.session.learner)
    assert_follows(follow(log), b.session.learner)
    # it wakes up, and writes, before it knows
    append(log, 500, 50)
    a.session.runner.step()
    a.session.runner.commit()
    with pytest.raises(FencedError):
        a.turn()
    b.learn()
    while live.poll(log):
        pass
    assert live.fenced > 0
    assert_follows(live, b.session.learner)
    requests = b.session.learner.meta.requests
    assert requests == 550 - len(letters(log))
    a.close()
    b.close()


@pytest.mark.slow
def test_log_that_goes_away_in_the_middle_of_an_update_is_waited_for(log: Log, tmp_path: Path) -> None:
    a, b = One(log, tmp_path, "a"), One(log, tmp_path, "b")
    a.lead()
    append(log, 0, 300)
    a.learn()
    b.faulty.faults = Faults(away=0.3, away_calls_max=2)
    while b.session.learner.meta.seq < a.session.learner.meta.seq:
        with contextlib.suppress(LogAwayError):
            b.turn()
    assert b.faulty.happened["away"] > 20 and b.digest == a.digest
    a.close()
    b.close()


@pytest.mark.slow
def test_state_that_nobody_has_taken_is_put_aside_for_a_snapshots(log: Log, tmp_path: Path) -> None:
    a = One(log, tmp_path, "a")
    a.lead()
    append(log, 0, 200)
    a.learn()
    a.snap()
    b = One(log, tmp_path, "b")
    assert b.session.learner.meta.seq == a.session.learner.meta.seq, "it began from the snapshot"
    b.learn()
    append(log, 200, 100)
    a.commit_unsent()
    a.close()
    gone(a, b)
    b.lead()
    b.learn()
    a.open()
    with pytest.raises(AsideError):
        a.turn()
    a.close()
    a.group.put_aside("it was never published")
    a.open()
    a.learn()
    assert a.digest == b.digest
    append(log, 300, 100)
    b.learn()
    a.learn()
    assert a.digest == b.digest
    assert_follows(follow(log), b.session.learner)
    a.close()
    b.close()


@pytest.mark.slow
def test_snapshot_with_more_than_its_name_says_is_not_begun_from_again(log: Log, tmp_path: Path) -> None:
    a, b = One(log, tmp_path, "a"), One(log, tmp_path, "b")
    a.lead()
    append(log, 0, 200)
    a.learn()
    b.learn()
    named = a.session.learner.meta.seq
    append(log, 200, 100)
    a.commit_unsent()
    gone(a, b)
    b.lead()
    b.learn()
    b.snap()
    for snapshot in b.group.snapshots.there():
        b.group.disk.remove(snapshot)
    # as of a leader that learned on while its state was copied, and whose last update was never accepted
    a.group.snapshots.make(a.state, a.session.term, named, alone=True)
    a.close()
    c = One(log, tmp_path, "c")
    assert c.session.learner.meta.seq > named
    with pytest.raises(AsideError) as why:
        c.turn()
    c.close()
    c.group.put_aside(str(why.value), why.value.right_until)
    c.open()
    assert not c.group.snapshots.begun_from, "it would end so again, for ever"
    c.learn()
    assert c.digest == b.digest
    b.close()
    c.close()


@pytest.mark.slow
def test_snapshot_from_before_changes_that_nobody_has_taken_is_begun_from_again(
    log: Log, tmp_path: Path
) -> None:
    a = One(log, tmp_path, "a")
    a.lead()
    append(log, 0, 200)
    a.learn()
    a.snap()
    log.trim(UPDATES, 0, _end(log, UPDATES))
    b, c = One(log, tmp_path, "b"), One(log, tmp_path, "c")
    begun_from = b.group.snapshots.begun_from
    assert begun_from == b.group.snapshots.there()[0].name
    a.close()
    gone(a, b)
    b.lead()
    append(log, 200, 100)
    b.commit_unsent()
    b.close()
    gone(a, c)
    gone(b, c)
    c.lead()
    b.open()
    with pytest.raises(AsideError) as why:
        b.turn()
    b.close()
    b.group.put_aside(str(why.value), why.value.right_until)
    b.open()
    assert b.group.snapshots.begun_from == begun_from, "it is the group's, whatever came after it"
    c.learn()
    b.learn()
    assert not b.session.lost and b.digest == c.digest
    b.close()
    c.close()


@pytest.mark.slow
def test_leader_that_is_started_again_sends_what_it_had_not_and_goes_on(log: Log, tmp_path: Path) -> None:
    a = One(log, tmp_path, "a")
    a.lead()
    append(log, 0, 300)
    a.turn(4)
    a.commit_unsent()
    committed = a.session.learner.digest()
    a.close()
    again = One(log, tmp_path, "a")
    assert again.digest == committed
    again.lead()
    again.learn()
    assert again.session.learner.meta.requests == 300 - len(letters(log))
    assert_follows(follow(log), again.session.learner)
    again.close()


@pytest.mark.slow
def test_one_without_state_neither_leads_nor_begins_anew_beside_a_history(log: Log, tmp_path: Path) -> None:
    a = One(log, tmp_path, "a")
    a.lead()
    append(log, 0, 300)
    a.learn()
    log.trim(UPDATES, 0, 3)
    a.close()
    shutil.rmtree(tmp_path / "snapshots")
    b = One(log, tmp_path, "b")
    gone(a, b)
    b.turn(5)
    assert b.session.lost and not b.session.leading and b.session.term == -1
    a = One(log, tmp_path, "a")
    a.lead()
    a.snap()
    with pytest.raises(AsideError):
        b.turn()
    b.close()
    b.group.put_aside("there is a snapshot")
    b.open()
    b.learn()
    assert b.digest == a.digest
    a.close()
    b.close()


@pytest.mark.slow
def test_one_that_begins_beside_a_short_history_learns_it_from_the_log(log: Log, tmp_path: Path) -> None:
    a = One(log, tmp_path, "a")
    a.lead()
    append(log, 0, 300)
    a.learn()
    b = One(log, tmp_path, "b")
    b.learn()
    assert b.digest == a.digest and b.session.learner.meta.epoch == a.session.learner.meta.epoch
    a.close()
    b.close()


def spoil(file: Path) -> None:
    """Flip bits all over a file, and not in those that are linked to it."""
    spoilt = bytearray(file.read_bytes())
    for at in range(len(spoilt) // 4, len(spoilt), 97):
        spoilt[at] ^= 0xFF
    file.unlink()
    file.write_bytes(spoilt)


@pytest.mark.slow
def test_damaged_snapshot_is_passed_over_for_the_one_before(log: Log, tmp_path: Path) -> None:
    a = One(log, tmp_path, "a")
    a.lead()
    for first in (0, 200):
        append(log, first, 200)
        a.learn()
        a.snap()
    older, newer = sorted((tmp_path / "snapshots").glob("learn-*"))
    a.close()
    for file in newer.glob("*.sst"):
        spoil(file)
    shutil.rmtree(a.group.folder / "db")
    stop = threading.Event()

    def ready() -> None:
        assert again.group.snapshots.begun_from == older.name
        assert again.group.snapshots.there() == [older]
        stop.set()

    again = One(log, tmp_path, "a", ready, opens=False)
    again.group.run(stop)
    assert stop.is_set() and newer.is_dir(), "what is damaged is left for a person to look at"


@pytest.mark.slow
def test_snapshot_whose_purge_meets_damage_is_passed_over_before_it_leads(log: Log, tmp_path: Path) -> None:
    """Else the leader would make its next snapshot of what is damaged, and begin from that one again."""
    disk = MemoryDisk()
    a = One(log, tmp_path, "a", disk=disk)
    a.lead()
    for first in (0, 200):
        append(log, first, 200)
        a.learn()
        a.snap()
    newer, older = a.group.snapshots.there()
    a.close()
    disk.remove(a.group.folder)
    entries = disk.open(newer, sync=True)
    asked = entries.batch()
    asked.put(PURGE_KEY, b"")
    entries.write(asked)
    unread = next(key for key, _ in entries.items(b"") if b"journal" in key)
    disk.move(newer, newer / "db")
    assert disk.flip(newer, lambda keys: unread)
    disk.move(newer / "db", newer)
    stop = threading.Event()

    def ready() -> None:
        assert again.group.snapshots.begun_from == older.name
        assert again.group.snapshots.there() == [older]
        stop.set()

    again = One(log, tmp_path, "a", ready, opens=False, disk=disk)
    again.group.run(stop)
    assert stop.is_set()
    with RoleState(tmp_path / "a", "learner", again.group.fingerprint, disk=disk) as state:
        again.group.snapshots.make(state, 10**6, 1, alone=True)
    assert disk.names(tmp_path / "snapshots") == [f"learn-{10**6:015d}-{1:015d}"], "nor a damaged one"


@pytest.mark.slow
def test_damaged_update_in_the_log_does_not_stop_the_learner_that_knows_it(log: Log, tmp_path: Path) -> None:
    a = One(log, tmp_path, "a")
    a.lead()
    append(log, 0, 200)
    a.learn()
    damaged = log.read(UPDATES, 0, _end(log, UPDATES) // 2, 1)[0].value
    file = sqlite3.connect(tmp_path / "log.db")
    file.execute("UPDATE records SET value = zeroblob(length(value)) WHERE value = ?", (damaged,))
    file.commit()
    file.close()
    a.close()
    a = One(log, tmp_path, "a")
    a.lead()
    append(log, 200, 100)
    a.learn()
    assert sum(a.session.learner.meta.watermark.values()) == 300
    a.close()


def test_one_without_state_waits_for_a_snapshot_where_an_update_in_the_log_is_damaged(
    log: Log, tmp_path: Path
) -> None:
    """It would meet the gap again each time that it began at the first update."""
    a = One(log, tmp_path, "a")
    a.lead()
    append(log, 0, 200)
    a.learn()
    assert a.session.snapping is not None
    a.session.snapping.join()
    shutil.rmtree(tmp_path / "snapshots")
    damaged = log.read(UPDATES, 0, _end(log, UPDATES) // 2, 1)[0].value
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as file, file:
        file.execute("UPDATE records SET value = zeroblob(length(value)) WHERE value = ?", (damaged,))
    b = One(log, tmp_path, "b")
    with pytest.raises(AsideError, match="no longer holds update"):
        b.learn()
    b.close()
    b.group.put_aside("there is a gap")
    b.open()
    b.turn(3)
    assert b.session.lost and b.session.learner.meta.seq == 0, "it begins no second time"
    a.snap()
    with pytest.raises(AsideError, match="a snapshot to begin from"):
        b.turn()
    a.close()
    b.close()


@pytest.mark.slow
def test_one_that_stands_by_keeps_its_place_and_needs_no_update_from_before_it(
    log: Log, tmp_path: Path
) -> None:
    a, b = One(log, tmp_path, "a"), One(log, tmp_path, "b")
    a.lead()
    append(log, 0, 300)
    a.learn()
    b.learn()
    here = b.session.learner.position
    assert here.offset == _end(log, UPDATES) and here.seq == b.session.learner.meta.seq
    b.close()
    log.trim(UPDATES, 0, here.offset)
    append(log, 300, 100)
    a.learn()
    b = One(log, tmp_path, "b")
    assert b.session.learner.position == here
    b.learn()
    assert b.digest == a.digest
    a.close()
    b.close()


@pytest.mark.slow
def test_state_behind_a_gap_in_the_updates_is_put_aside_and_not_gone_on_with(
    log: Log, tmp_path: Path
) -> None:
    a, b = One(log, tmp_path, "a"), One(log, tmp_path, "b")
    a.lead()
    append(log, 0, 200)
    a.learn()
    b.learn()
    seq = b.session.learner.meta.seq
    append(log, 200, 200)
    a.learn()
    log.trim(UPDATES, 0, _end(log, UPDATES) - 1)
    with pytest.raises(AsideError, match=f"no longer holds update {seq + 1}"):
        b.learn()
    assert b.session.learner.meta.seq == seq, "nothing was learnt behind the gap"
    a.close()
    b.close()


def test_one_without_state_waits_where_the_log_has_dropped_examples_of_the_first_update(
    log: Log, tmp_path: Path
) -> None:
    one = One(log, tmp_path, "a")
    one.lead()
    append(log, 0, 30)
    one.learn()
    for partition in range(3):
        log.trim(EXAMPLES, partition, 1)
    assert one.session.snapping is not None
    one.session.snapping.join()
    shutil.rmtree(tmp_path / "snapshots")
    two = One(log, tmp_path, "b")
    two.turn(3)
    assert two.session.lost and not two.session.leading
    two.close()
    one.close()


@pytest.mark.parametrize(
    ("dropped", "says"),
    [([2], r"came after \d+ rows, not \d+ as here"), (range(100), "first update cannot be learned again")],
    ids=["one", "all_but_the_last"],
)
def test_update_is_not_learnt_along_where_the_log_lacks_an_example_in_the_middle(
    tmp_path: Path, dropped: Sequence[int], says: str
) -> None:
    """As where a topic is compacted: the first offset says nothing of it."""
    log = MemoryLog()
    log.create_topic(EXAMPLES, 3)
    for topic in (UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES):
        log.create_topic(topic, 1)
    one = One(log, tmp_path, "a")
    one.lead()
    two = One(log, tmp_path, "b")
    for first in (0, 30):
        append(log, first, 30)
        one.learn()
    assert one.session.snapping is not None
    one.session.snapping.join()
    shutil.rmtree(tmp_path / "snapshots")
    log.drop(EXAMPLES, 0, [offset for offset in dropped if offset < log.ends(EXAMPLES)[0][1] - 1])
    with pytest.raises(AsideError, match=says):
        two.turn(3)
    two.close()
    two.open()
    assert two.session.learner.meta.seq == 0, "none of it was committed"
    two.turn(3)
    assert two.session.lost and not two.session.leading, "it waits for a snapshot"
    two.close()
    one.close()


def test_update_is_not_learnt_along_where_the_log_lacks_what_was_said_of_an_entity(tmp_path: Path) -> None:
    """An entity event is no row, so the number of rows says nothing of it."""
    log = MemoryLog()
    log.create_topic(EXAMPLES, 1)
    for topic in (UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES):
        log.create_topic(topic, 1)
    features = {"item": FeatureSpec(dim=2), "brand": FeatureSpec(dim=2, of="item")}
    one, two = (One(log, tmp_path, name, features=features) for name in "ab")
    one.lead()
    said = [EntityEvent("item", number, 1e9, {"brand": "b"}) for number in range(3)]
    log.append(EXAMPLES, [Outgoing(b"", encode(event)) for event in said])
    one.learn()
    assert one.session.snapping is not None
    one.session.snapping.join()
    shutil.rmtree(tmp_path / "snapshots")
    log.drop(EXAMPLES, 0, [1])
    with pytest.raises(AsideError, match="says other things of entities than are known here"):
        two.turn(3)
    two.close()
    one.close()


def test_first_snapshot_of_a_leader_replaces_those_of_before_it_was_started(log: Log, tmp_path: Path) -> None:
    """They may hold what was forgotten since: the purge is remembered by nobody once it is done."""
    one = One(log, tmp_path, "a")
    one.lead()
    for first in (0, 30):
        append(log, first, 30)
        one.learn()
        one.snap()
    assert len(one.group.snapshots.there()) == 2
    one.close()
    again = One(log, tmp_path, "a")
    again.lead()
    again.turn()  # a leader makes one at once
    assert again.session.snapping is not None
    again.session.snapping.join()
    assert len(again.group.snapshots.there()) == 1
    again.close()


def test_leader_that_wakes_deposed_makes_no_snapshot(log: Log, tmp_path: Path) -> None:
    """It may know nothing of a purge, after which no snapshot of before is to stay."""
    a, b = One(log, tmp_path, "a"), One(log, tmp_path, "b")
    a.lead()
    append(log, 0, 30)
    a.learn()
    b.learn()
    assert a.session.snapping is not None
    a.session.snapping.join()
    gone(a, b)
    b.lead()
    for there in a.group.snapshots.there():
        a.group.disk.remove(there)
    assert a.session.leading and not a.session.snap()
    a.close()
    b.close()
    assert not a.group.snapshots.there()


def test_late_snapshot_of_a_deposed_leader_is_gone_with_the_next_one(log: Log, tmp_path: Path) -> None:
    """It may be of before a purge; where many are kept it would stay for long."""
    one = One(log, tmp_path, "a", disk=MemoryDisk())
    one.lead()
    append(log, 0, 30)
    log.append(EXAMPLES, forget_records(Forget("f", 1e9, {"user": [1]}), 3))
    one.learn()
    folder = Path("of several")
    deposed, leads = (SharedSnapshots(folder, name, one.group.disk, kept=5) for name in ("b", "c"))
    deposed.make(one.state, 5, 1, alone=False)
    leads.make(one.state, 9, 2, alone=True)
    deposed.make(one.state, 5, 3, alone=False)
    leads.make(one.state, 9, 4, alone=False)
    assert [path.name[-1] for path in leads.there()] == ["4", "2"]
    one.close()


def test_defect_in_a_snapshot_ends_a_leader_that_makes_no_further_one(log: Log, tmp_path: Path) -> None:
    broken = False

    def trouble(what: str, folder: Path) -> None:
        if broken and folder.name.startswith("making"):
            raise ValueError("a defect")

    a = One(log, tmp_path, "a", disk=MemoryDisk(trouble))
    a.lead()
    append(log, 0, 40)
    a.learn()
    broken = True
    a.snap()
    with pytest.raises(ValueError, match="a defect"):
        a.session.end(finish=False)
    a.state.close()


def test_leader_that_ends_waits_for_its_snapshot(log: Log, tmp_path: Path) -> None:
    """It copies the state, which is closed next."""
    copying, go = threading.Event(), threading.Event()

    def trouble(what: str, folder: Path) -> None:
        if folder.name.startswith("making"):
            copying.set()
            assert go.wait(60.0)

    go.set()
    a = One(log, tmp_path, "a", disk=MemoryDisk(trouble))
    a.lead()
    append(log, 0, 40)
    a.learn()
    if a.session.snapping is not None:
        a.session.snapping.join()
    copying.clear()
    go.clear()
    a.session.snap()
    assert copying.wait(60.0)
    ended = threading.Event()
    ending = threading.Thread(target=lambda: (a.session.end(finish=False), ended.set()), daemon=True)
    ending.start()
    assert not ended.wait(0.3)
    go.set()
    ending.join(60.0)
    assert ended.is_set() and a.group.snapshots.there()
    a.state.close()


def test_leader_copies_its_state_for_each_snapshot_that_it_publishes(log: Log, tmp_path: Path) -> None:
    """Else the log drops updates that the newest copy needs: also where one is published in each commit."""
    each = msgspec.structs.replace(SETTINGS, snapshot_ratio=0.01, snapshot_bytes_min=1)
    a = One(log, tmp_path, "a", settings=each, disk=MemoryDisk())
    a.lead()
    for first in range(0, 60, 20):
        append(log, first, 20)
        a.learn()
        assert a.session.snapping is not None
        a.session.snapping.join()
        a.turn()  # one was published while the copy before was made
        a.session.snapping.join()
        newest = a.group.snapshots.there()[0].name
        assert newest == f"learn-{a.session.term:015d}-{a.session.learner.meta.seq:015d}"
    a.close()


def test_leader_corrects_the_older_offsets_that_another_one_committed_late(log: Log, tmp_path: Path) -> None:
    """The other one was paused while it was replaced; without this the lag of a quiet stream stays."""
    append(log, 0, 60)
    one = One(log, tmp_path, "a")
    one.lead()
    one.learn()
    taken = log.committed("learn", EXAMPLES)
    assert sum(taken.values()) == 60
    log.commit("learn", EXAMPLES, dict.fromkeys(taken, 1))
    one.session._noted_s = float("-inf")  # some seconds later
    one.turn(3)
    assert log.committed("learn", EXAMPLES) == taken
    one.close()


def test_clean_stop_of_a_leader_commits_and_sends_what_it_has_learnt(log: Log, tmp_path: Path) -> None:
    seldom = RunnerSettings(commit_every_s=1e6, read_max=11, wait_s=0.0)
    a = One(log, tmp_path, "a", runner=seldom)
    a.lead()
    append(log, 0, 100)
    while sum(a.session.learner.meta.watermark.values()) < 100:
        a.turn()
    assert a.session.runner.uncommitted
    a.session.end(finish=True)
    a.state.close()
    again = One(log, tmp_path, "a")
    assert sum(again.session.learner.meta.watermark.values()) == 100
    assert follow(log).watermark == again.session.learner.meta.watermark
    again.close()


OTHER = {**FEATURES, "item": FeatureSpec(dim=2, ttl_s=500.0, optimizer="adam")}


def test_learner_of_another_model_is_refused_with_the_command_that_begins_anew(
    log: Log, tmp_path: Path
) -> None:
    a = One(log, tmp_path, "a")
    a.lead()
    append(log, 0, 200)
    a.learn()
    a.close()
    b = One(log, tmp_path / "other", "a", features=OTHER)
    with pytest.raises(OtherModelError, match="freshet learn --anew"):
        b.turn()
    b.close()
    assert follow(log).seq > 0 and follow(log, OTHER).other


@pytest.mark.slow
def test_learner_that_begins_anew_learns_all_examples_and_takes_the_others_place(
    log: Log, tmp_path: Path
) -> None:
    a = One(log, tmp_path, "a")
    a.lead()
    append(log, 0, 200)
    a.learn()
    a.snap()
    a.close()
    waiting = follow(log, OTHER)
    aside = begin_anew(tmp_path / "a", tmp_path / "snapshots")
    assert aside[0].name == "db.before-anew" and all(path.is_dir() for path in aside)
    assert begin_anew(tmp_path / "a", tmp_path / "snapshots") == [], "once is enough"
    b = One(log, tmp_path, "a", features=OTHER)
    b.lead()
    b.learn()
    assert sum(b.session.learner.meta.watermark.values()) == 200
    assert b.session.learner.meta.epoch > waiting.model.epoch
    while waiting.poll(log):
        pass
    assert_follows(waiting, b.session.learner)
    assert_follows(follow(log, OTHER), b.session.learner)
    learnt = b.digest
    b.close()
    b = One(log, tmp_path, "a", features=OTHER)  # started again it goes on
    assert b.digest == learnt
    append(log, 200, 50)
    b.lead()
    b.learn()
    assert b.session.learner.meta.requests == 250 - len(set(letters(log)))
    b.close()


def test_learner_that_died_before_its_first_update_still_begins_anew(log: Log, tmp_path: Path) -> None:
    a = One(log, tmp_path, "a")
    a.lead()
    append(log, 0, 100)
    a.learn()
    a.close()
    begin_anew(tmp_path / "a", tmp_path / "snapshots")
    b = One(log, tmp_path, "a", features=OTHER)
    while not b.session.leading:
        b.turn()
    b.close()
    assert begin_anew(tmp_path / "a", tmp_path / "snapshots") == [], "its state is new already"
    b = One(log, tmp_path, "a", features=OTHER)
    b.lead()
    b.learn()
    assert sum(b.session.learner.meta.watermark.values()) == 100
    b.close()


def test_updates_learnt_with_other_settings_are_not_learnt_along(log: Log, tmp_path: Path) -> None:
    """Its state would differ from the leader's: half of a replica's rows would be one's, half the other's."""
    a = One(log, tmp_path, "a")
    a.lead()
    append(log, 0, 100)
    a.learn()
    a.snap()
    shutil.rmtree(tmp_path / "snapshots")
    b = One(log, tmp_path, "b", settings=msgspec.structs.replace(SETTINGS, count_tau=0.5))
    b.turn(3)
    assert b.session.lost and b.session.learner.meta.seq == 0
    a.close()
    b.close()


def test_learner_is_refused_at_start_where_a_topic_cannot_take_its_updates(tmp_path: Path) -> None:
    log = MemoryLog(LogSettings(record_bytes_max=60_000))
    for topic in (EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES):
        log.create_topic(topic, 1)
    with pytest.raises(LogError, match=r"topic 'updates' takes .*60,000.*set record_bytes_max = "):
        One(log, tmp_path, "a")


@pytest.mark.slow
def test_whoever_is_behind_updates_that_were_dropped_takes_none_of_a_deposed_leader(
    log: Log, tmp_path: Path
) -> None:
    """Its number would fit, and the record that began the next term was dropped too."""
    eager = msgspec.structs.replace(SETTINGS, snapshot_bytes_min=1, snapshot_ratio=1e-6)
    a, b = (One(log, tmp_path, name, settings=eager) for name in "ab")
    a.lead()
    append(log, 0, 100)
    a.learn()
    b.learn()
    live = follow(log)
    append(log, 100, 50)
    a.commit_unsent()
    gone(a, b)
    b.lead()
    b.learn()
    kept = _end(log, UPDATES)
    a.session.runner.step()
    assert _end(log, UPDATES) > kept, "it has sent what it had committed, before it knew"
    log.trim(UPDATES, 0, kept)
    append(log, 150, 50)
    b.learn()
    while live.poll(log):
        pass
    assert live.gaps == 1
    live.gaps = 0
    assert_follows(live, b.session.learner)
    a.close()
    a.open()
    with pytest.raises(AsideError, match="dropped the record that began term"):
        a.turn()
    a.close()
    b.close()


def test_copy_that_could_not_be_made_is_made_again_and_still_alone(log: Log, tmp_path: Path) -> None:
    """Else a disk that is full after a purge would keep snapshots with forgotten ids."""
    a = One(log, tmp_path, "a")
    a.lead()
    append(log, 0, 50)
    a.learn()
    a.snap()
    asked: list[bool] = []

    def make(state: RoleState, term: int, seq: int, *, alone: bool) -> bool:
        asked.append(alone)
        return len(asked) > 1

    a.group.snapshots.make = make  # type: ignore[method-assign]
    a.state.purges += 1
    for _ in range(3):
        a.snap()
    assert asked == [True, True, False]
    a.close()

"""Resharding: N shards go on as M, whatever step it ends at, and nothing is lost, repeated or changed."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from live_shards import (
    FOLDER,
    PARTITIONS,
    SNAPSHOTS_FOLDER,
    Killed,
    LiveShards,
    append_examples,
    check_shards,
    filled_log,
)
from turns import FEATURES, KEPT, examples_of

from embeddings import TableError
from ground.clock import SYSTEM_CLOCK, Clock
from learner.errors import ShardError
from learner.features.spec import FeatureSpec
from learner.model.model import Model
from learner.role.anew import begin_anew
from learner.role.learner import Learner
from learner.role.setup import Callbacks, Folders
from learner.role.succession import Succession
from learner.shards.live.kept import KeptShard
from learner.shards.owners import Owners
from learner.shards.reshard.folders import finish_resharding, numbers_there, state_folder
from learner.shards.reshard.group import learn_last_group
from learner.shards.reshard.states import reshard
from learner.shards.reshard.stretches import followed
from learner.shards.shard import Shard
from learner.updates.follower import Follower
from stream.errors import StateError, StateFullError
from stream.group.membership import GroupSettings, Member
from stream.log.base import EXAMPLES
from stream.records.types import Forget
from stream.run.runner import Runner
from stream.state.disk import Database, Disk, Held
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

pytestmark = pytest.mark.slow

REQUESTS = 90
EXAMPLES_OF = examples_of(REQUESTS)
GROUP = GroupSettings(beat_s=0.05, timeout_s=60.0)
Step = Callable[[str], None]


class StepDisk(Disk):
    """A process's view of a disk, which calls `step` around everything that changes it."""

    def __init__(self, disk: MemoryDisk, step: Step) -> None:
        self._disk = disk.connect(lambda what, _: step(what))
        self._step = step

    def crash(self) -> None:
        self._disk.crash()

    def move(self, source: Path, target: Path) -> None:
        self._step("move")
        self._disk.move(source, target)
        self._step("moved")

    def remove(self, folder: Path) -> None:
        self._step("remove")
        self._disk.remove(folder)

    def hold(self, folder: Path, clock: Clock = SYSTEM_CLOCK) -> Held:
        return self._disk.hold(folder, clock)

    def is_begun(self, folder: Path) -> bool:
        return self._disk.is_begun(folder)

    def is_whole(self, folder: Path) -> bool:
        return self._disk.is_whole(folder)

    def open(self, folder: Path, sync: bool, rows: bool = False) -> Database:
        return self._disk.open(folder, sync, rows)

    def names(self, folder: Path) -> list[str]:
        return self._disk.names(folder)

    def make(self, folder: Path) -> None:
        self._disk.make(folder)

    def copy(self, source: Path, target: Path) -> None:
        self._disk.copy(source, target)


class Counting:
    """Counts the steps of each kind; at the last one of a kind that it is given it raises."""

    def __init__(self, kind: str = "", at: int = 0, error: Exception | type[Killed] = Killed) -> None:
        self.seen = Counter[str]()
        self._of, self._error = (kind, at), error

    def __call__(self, kind: str) -> None:
        self.seen[kind] += 1
        if (kind, self.seen[kind]) == self._of:
            raise self._error


def learn_all(live: LiveShards) -> None:
    assert live.attempt(lambda rank, step: None), live.errors


def held(live: LiveShards, shards: int, folder: Path = FOLDER) -> list[object]:
    """All that the states of so many shards hold of a model, by rank: rows, filters, arrays and counters."""
    found: list[object] = []
    for rank in range(shards):
        with RoleState(state_folder(folder, shards, rank), "shard", None, disk=live.disk) as state:
            learning = live.learning()
            shard = Shard(rank, Owners(shards), learning.features, learning.settings)
            kept = KeptShard(shard, learning.settings, state, SYSTEM_CLOCK, None)  # type: ignore[arg-type]
            offsets = [state.offset(EXAMPLES, p) for p in range(PARTITIONS)]
            meta = msgspec.structs.replace(kept.meta, record_seq=0)
            found.append((shard.digests(), shard.arrays(), offsets, meta, kept.metrics.summary()))
    return found


def rows_of(live: LiveShards) -> list[dict[int, bytes]]:
    """Each table's rows by key, of all shards together."""
    found: list[dict[int, bytes]] = [{} for _ in live.kept[0].shard.tables]
    for rank in range(live.shards):
        with RoleState(live.folder(rank), "shard", None, disk=live.disk) as state:
            learning = live.learning()
            shard = Shard(rank, Owners(live.shards), learning.features, learning.settings)
            KeptShard(shard, learning.settings, state, SYSTEM_CLOCK, None)  # type: ignore[arg-type]
            for rows, owned in zip(found, shard.tables, strict=True):
                for keys, page in owned.table.pages():
                    assert (shard.owners.of(keys) == rank).all()
                    columns = np.delete(page, owned.table.spec.age_column, axis=1)
                    rows |= {int(key): row.tobytes() for key, row in zip(keys, columns, strict=True)}
    return found


def rows_at_rest(live: LiveShards) -> list[int]:
    """By shard, of all its tables together."""
    found = []
    for rank in range(live.shards):
        with RoleState(live.folder(rank), "shard", None, disk=live.disk) as state:
            found.append(sum(b"/row/" in key for key, _ in state.scan(b"table/")))
    return found


@pytest.fixture(scope="module", params=[None, 5], ids=["whole", "resting"])
def learned(request: pytest.FixtureRequest) -> LiveShards:
    """Two shards that have learned, one of which has something of the last update unsent."""
    live = LiveShards(filled_log(EXAMPLES_OF), 2, resting=request.param)
    assert not live.attempt(Ending(1, "append updates", 3))
    return live


class Ending:
    """Ends a shard at the n-th time that it comes to a step."""

    def __init__(self, rank: int, step: str, at: int) -> None:
        self._of, self._left = (rank, step), at

    def __call__(self, rank: int, step: str) -> None:
        self._left -= (rank, step) == self._of
        if (rank, step) == self._of and self._left == 0:
            raise Killed


@pytest.mark.parametrize(
    ("step", "features", "resting"),
    [
        ("append updates", KEPT, None),
        ("append updates", KEPT, 24),
        pytest.param("write", FEATURES, None, marks=pytest.mark.long),
        pytest.param("write", FEATURES, 24, marks=pytest.mark.long),
    ],
)
def test_shards_go_on_as_more_and_as_fewer_and_a_replay_follows_them(
    step: str, features: dict[str, FeatureSpec], resting: int | None
) -> None:
    live = LiveShards(filled_log(EXAMPLES_OF[:40]), 2, features, resting=resting)
    assert not live.attempt(Ending(0, step, 4)), "something is unsent, or not at all shards"
    for more, to in ((40, 3), (65, 2)):
        live.reshard(to)
        if resting is not None:
            assert min(rows_at_rest(live)) > 0
        append_examples(live.log, EXAMPLES_OF[more : more + 25], more)
        learn_all(live)
    check_shards(live, REQUESTS)
    before = rows_of(live)
    for to in (3, 2):
        live.reshard(to)
        assert rows_of(live) == before
    states = live.states()
    assert [len(stretch.took) for stretch in followed(states)] == [2, 3, 2, 3, 2]
    for state in states:
        state.close()


def test_a_resharding_that_ends_at_any_step_has_changed_nothing_or_all(learned: LiveShards) -> None:
    counting = Counting()
    learned.disk.copy(FOLDER, Path("count"))
    learned.reshard(3, StepDisk(learned.disk, counting), Path("count"))
    assert counting.seen.keys() >= {"make", "open", "write", "written", "move", "moved", "remove", "removing"}
    before, after = held(learned, 2), held(learned, 3, Path("count"))
    found = Counter[int]()
    del counting.seen["read"]  # between the others
    for kind, count in counting.seen.items():
        for at in sorted({1, count // 2 + 1, count} if kind in ("written", "move", "removing") else {count}):
            folder = Path(f"{kind}-{at}")
            learned.disk.copy(FOLDER, folder)
            view = StepDisk(learned.disk, Counting(kind, at))
            with pytest.raises(Killed):
                learned.reshard(3, view, folder)
            view.crash()
            finish_resharding(folder, SNAPSHOTS_FOLDER, learned.disk)
            (there,) = numbers_there(folder, learned.disk)
            assert held(learned, there, folder) == (before if there == 2 else after), (kind, at)
            found[there] += 1
            learned.reshard(3, folder=folder)
            assert held(learned, 3, folder) == after
            learned.disk.remove(folder)
    assert found[2] > 5 and found[3] > 2


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(28, "No space left on device"), StateFullError),
        (Exception("IO error: No space left on device"), StateFullError),
        (Exception("IO error: Input/output error"), StateError),
    ],
)
def test_a_disk_that_is_full_or_damaged_leaves_the_old_states(
    learned: LiveShards, error: Exception, raised: type[Exception]
) -> None:
    kind = "make" if isinstance(error, OSError) else "write"
    folder, counting = Path(f"failing {error}"), Counting()
    learned.disk.copy(FOLDER, folder)
    learned.disk.copy(FOLDER, Path("counted"))
    learned.reshard(3, StepDisk(learned.disk, counting), Path("counted"))
    learned.disk.remove(Path("counted"))
    view = StepDisk(learned.disk, Counting(kind, counting.seen[kind] - 1, error))
    with pytest.raises(raised):
        learned.reshard(3, view, folder)
    view.crash()
    assert held(learned, 2, folder) == held(learned, 2)
    learned.disk.remove(folder)


def test_what_cannot_be_resharded_is_refused_with_what_to_do(learned: LiveShards) -> None:
    disk, folder = learned.disk, Path("refused")

    def refused(message: str, before: int = 2, to: int = 3, live: LiveShards = learned) -> None:
        with pytest.raises((ShardError, StateError, TableError), match=message):
            reshard(live.log, folder, live.learning(), before, to, SYSTEM_CLOCK, disk)
        disk.crash()

    refused("holds no state of shard 0 of 2: bring the folders of all shards")
    disk.copy(FOLDER, folder)
    refused("4 shards, but topic examples has 3 partitions", to=4)
    other = LiveShards(learned.log, 2, {**FEATURES, "late": FeatureSpec(dim=4)})
    refused("was made with features = .*put features back", live=other)
    view = disk.connect()
    lock = view.hold(state_folder(folder, 2, 1))
    refused("in use")
    lock.release()
    disk.damage(state_folder(folder, 2, 1))
    refused("cannot be read")
    disk.remove(folder)
    disk.copy(FOLDER, folder)
    begin_anew(state_folder(folder, 2, 1), SNAPSHOTS_FOLDER, disk)
    refused("holds no state of shard 1")
    disk.remove(folder)


def test_states_that_are_older_than_what_was_published_are_not_resharded() -> None:
    live = LiveShards(filled_log(EXAMPLES_OF[:40]), 2)
    learn_all(live)
    live.disk.copy(FOLDER, Path("old"))
    append_examples(live.log, EXAMPLES_OF[40:], 40)
    learn_all(live)
    with pytest.raises(ShardError, match="another learner has published, or the shards' states are old"):
        live.reshard(3, folder=Path("old"))
    assert numbers_there(Path("old"), live.disk) == [2]


def learn_in_one(live: LiveShards, requests: int) -> None:
    """Let one process learn until it has learned so many requests."""
    stop = threading.Event()

    @contextmanager
    def at_work(runner: Runner, learner: Learner) -> Iterator[Callable[[], None]]:
        def report() -> None:
            if learner.meta.requests == requests and not runner.uncommitted:
                stop.set()

        yield report

    with Member(live.log, "learn", "one", GROUP) as member:
        folders, learning = Folders(FOLDER, SNAPSHOTS_FOLDER, live.disk), live.learning()
        Succession(live.log, member, folders, learning, Callbacks(lambda: None, at_work)).run(stop)


@pytest.mark.parametrize("resting", [None, 24])
def test_one_process_goes_on_as_shards_and_shards_as_one_process(resting: int | None) -> None:
    live = LiveShards(filled_log(EXAMPLES_OF[:37]), 1, resting=resting)
    learn_in_one(live, 37)
    with pytest.raises(ShardError, match="has an incomplete group"):
        live.reshard(2)
    with Member(live.log, "learn", "one", GROUP) as member:
        folders = Folders(FOLDER, SNAPSHOTS_FOLDER, live.disk)
        learn_last_group(live.log, member, folders, live.learning(), threading.Event())
    live.reshard(2)
    append_examples(live.log, EXAMPLES_OF[37:60], 37)
    learn_all(live)
    states = live.states()
    with pytest.raises(StateError, match="in one process before a resharding, cannot be repeated"):
        followed(states)
    for state in states:
        state.close()
    rows = rows_of(live)
    live.reshard(1)
    learning = live.learning()
    with RoleState(FOLDER, "learner", None, disk=live.disk) as state:
        learner = Learner(learning.features, learning.settings, state)
        found = [
            {
                int(key): np.delete(row, table.spec.age_column).tobytes()
                for keys, page in table.pages()
                for key, row in zip(keys, page, strict=True)
            }
            for table in learner.model.tables
        ]
        assert found == rows
    append_examples(live.log, EXAMPLES_OF[60:], 60)
    learn_in_one(live, REQUESTS)
    with RoleState(FOLDER, "learner", None, disk=live.disk) as state:
        learner = Learner(learning.features, learning.settings, state)
        follower = Follower(Model(live.features, live.settings))
        follower.start(live.log)
        while follower.poll(live.log):
            pass
        assert (follower.seq, follower.gaps) == (learner.meta.seq, 0)
        assert follower.examples == learner.meta.examples == REQUESTS
        assert learner.metrics.examples == REQUESTS - learner.trainer.pending.n, (
            "scored when they are learned"
        )
        for mine, theirs in zip(follower.model.tables, learner.model.tables, strict=True):
            keys, rows = (np.concatenate(parts) for parts in zip(*theirs.pages(), strict=True))
            assert len(mine) == len(keys)
            assert (mine.export(keys)[0] == theirs.served(rows)).all()


def test_forgotten_ids_stay_refused_and_their_counts_stay_whole() -> None:
    forget = Forget("f1", 1e9, {"user": ["u3", "u5"], "item": [4]}, refuse_s=1e6)
    live = LiveShards(filled_log([*EXAMPLES_OF[:40], forget]), 2)
    learn_all(live)
    live.reshard(3)
    append_examples(live.log, EXAMPLES_OF[40:], 41)
    learn_all(live)
    named = [e for e in EXAMPLES_OF[40:] if e.context.get("user") in ("u3", "u5")]
    assert named and sum(kept.meta.refused for kept in live.kept.values()) >= len(named)
    assert sum(kept.meta.requests for kept in live.kept.values()) < REQUESTS
    assert sum(kept.meta.forgets for kept in live.kept.values()) == PARTITIONS

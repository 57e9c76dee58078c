"""Live shards: whatever step one ends at, all go on from one update, and nothing is lost or repeated."""

import random

import numpy as np
import pytest
from live_shards import (
    FOLDER,
    PARTITIONS,
    Hall,
    HallEnd,
    Killed,
    LiveShards,
    append_examples,
    check_shards,
    filled_log,
)
from turns import FEATURES, KEPT, SETTINGS, examples_of

from ground.clock import ManualClock
from learner.errors import OtherModelError, ShardError, ShardLostError
from learner.features.spec import FeatureSpec
from learner.model.forgetting import keys_by_column, pair_keys
from learner.model.model import Model
from learner.role.setup import Learning
from learner.shards.live.kept import KeptShard
from learner.shards.live.meeting import ROLE, Standing, common_update
from learner.shards.live.session import check_shardable
from learner.shards.live.watch import ShardWatch, check_partitions, shard_name
from learner.shards.owners import Owners
from learner.shards.shard import Shard
from learner.updates.follower import Follower, check_own
from learner.updates.format import decode_update
from stream.errors import LogAwayError, StateFullError
from stream.group.membership import GroupSettings, Member
from stream.log.base import EXAMPLES, UPDATES, Record
from stream.records.entities.record import EntityEvent
from stream.records.types import Example, Forget, encode
from stream.run.contract import RUNNER_DEFAULTS
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

pytestmark = pytest.mark.slow

REQUESTS = 80
STEPS = ["write", "written", "append updates", "appended updates", "append snapshots", "gather", "swap"]
"""Of a commit: before it is on this shard's disk and after, before and after what it sends, and exchanges."""


class Cut:
    """Ends a shard at the n-th time that it comes to a step, or lets that step fail up to the last time."""

    def __init__(
        self, rank: int, step: str, first: int, error: Exception | None = None, last: int = 1 << 30
    ) -> None:
        self._of, self._first, self._last, self._error = (rank, step), first, last, error
        self._seen = 0

    def __call__(self, rank: int, step: str) -> None:
        if (rank, step) == self._of:
            self._seen += 1
            if self._first <= self._seen <= self._last:
                raise Killed if self._error is None else self._error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shards", "resting", "features"), [(2, None, FEATURES), (3, 12, FEATURES), (2, 12, KEPT)]
)
def test_shards_learn_all_commit_as_one_and_are_followed(
    shards: int, resting: int | None, features: dict[str, FeatureSpec]
) -> None:
    live = LiveShards(filled_log(examples_of(REQUESTS)), shards, features, resting=resting)
    assert live.attempt(lambda rank, step: None), live.errors
    check_shards(live, REQUESTS)
    at_rest = [kept.metric_values().get("rows_at_rest", 0) for kept in live.kept.values()]
    assert all(at_rest) == (resting is not None)


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_shard_that_ends_at_a_step_of_a_commit_loses_and_repeats_nothing(rank: int, step: str) -> None:
    live = LiveShards(filled_log(examples_of(REQUESTS)), 2, resting=None if rank else 8)
    ends = [live.attempt(Cut(rank, step, at)) for at in (1, 4)]
    assert not ends[0], "it was to end"
    assert live.attempt(lambda who, what: None), live.errors
    check_shards(live, REQUESTS)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_thirty_ends_at_random_steps_lose_and_repeat_nothing(seed: int) -> None:
    rng = random.Random(seed)
    shards = rng.choice([2, 3])
    live = LiveShards(filled_log(examples_of(400, seed=seed)), shards, turn=12, resting=rng.choice([None, 9]))
    ends = 0
    for _ in range(30):
        cut = Cut(rng.randrange(shards), rng.choice([*STEPS, "read", "open"]), rng.randint(1, 12))
        ends += not live.attempt(cut)
    assert ends > 5 and live.attempt(lambda who, what: None), live.errors
    check_shards(live, 400)


def test_a_disk_that_is_full_and_a_log_that_is_away_lose_and_repeat_nothing() -> None:
    live = LiveShards(filled_log(examples_of(REQUESTS)), 2)
    assert not live.attempt(Cut(1, "write", 5, Exception("IO error: No space left on device")))
    assert any(isinstance(error, StateFullError) for error in live.errors), live.errors
    away = Cut(0, "append updates", 4, LogAwayError("no answer"), last=6)
    assert live.attempt(away), live.errors  # in the same life: it waits, and so do the others
    check_shards(live, REQUESTS)


def test_what_a_shard_hears_of_an_entity_is_forgotten_at_all() -> None:
    forget = Forget("f1", 1e9, {"user": ["u3", "u5"], "item": [4]}, refuse_s=1e6)
    examples = examples_of(REQUESTS)
    live = LiveShards(filled_log([*examples[:60], forget, *examples[60:]]), 2)
    assert live.attempt(lambda rank, step: None), live.errors
    model = live.kept[0].shard.model
    keys = keys_by_column(model, forget.entity)
    gone = [key for _, part in pair_keys(model, keys, lambda column: [live.ids(column)]) for key in part]
    for kept in live.kept.values():
        for column, ids in keys.items():
            assert (kept.shard.tables[column].table.find(ids) < 0).all()
        assert (kept.shard.tables[-1].table.find(np.array(gone, dtype=np.uint64)) < 0).all()
    refused = [kept.meta.refused for kept in live.kept.values()]
    assert sum(refused) > 0 and sum(kept.meta.requests for kept in live.kept.values()) < REQUESTS


def test_what_is_read_of_an_entity_after_examples_goes_with_them_into_one_turn() -> None:
    features = {"item": FeatureSpec(dim=4), "brand": FeatureSpec(of="item", dim=4)}
    one = Example("r", 1e9, 1e9, [{"item": 3, "brand": "a"}], [1.0])
    told = EntityEvent("item", 4, 9e8, {"brand": "b"})
    shard = Shard(0, Owners(1), features, SETTINGS)
    alone = HallEnd(Hall(1), 0, lambda rank, step: None, lambda rank, messages: messages)
    with RoleState(FOLDER, ROLE, None, disk=MemoryDisk()) as state:
        kept = KeptShard(shard, SETTINGS, state, ManualClock(), alone)
        for event in (one, told):
            kept.handle([Record(EXAMPLES, 0, 0, b"", encode(event))], state.begin())
    (share,) = kept.shares
    assert share.labelled is not None and share.labelled.requests == 1
    assert share.news.told == (told,)


@pytest.mark.slow
def test_what_one_shard_reads_of_entities_all_know_and_publish_once() -> None:
    features = {**FEATURES, "brand": FeatureSpec(of="item", dim=4), "town": FeatureSpec(of="user", dim=4)}
    told = [EntityEvent("item", i, 9e8, {"brand": f"b{i % 7}"}) for i in range(50)]
    told += [EntityEvent("user", f"u{i}", 9e8, {"town": i % 3}) for i in range(40)]
    live = LiveShards(filled_log(told), 3, features)
    assert live.attempt(lambda rank, step: None), live.errors
    later = [EntityEvent("item", 3, 2e9, {"brand": "later"}), EntityEvent("user", "u1", 2e9, {"town": None})]
    examples = examples_of(REQUESTS)
    append_examples(live.log, [*examples[:30], *later, *examples[30:]], len(told))
    assert not live.attempt(Cut(1, "written", 2))
    assert live.attempt(lambda rank, step: None), live.errors
    check_shards(live, REQUESTS)
    follower = Follower(Model(features, live.settings))
    follower.start(live.log)
    while follower.poll(live.log):
        pass
    known = [kept.shard.model.entities for kept in live.kept.values()]
    assert len(follower.model.entities) == 90 and known[0].read("item", 3, 2e9) == {"brand": "later"}
    assert {one.digest() for one in [*known, follower.model.entities]} == {known[0].digest()}
    forget = Forget("f1", 1e9, {"item": [3], "user": ["u2"]})
    again = EntityEvent("item", 3, 3e9, {"brand": "new"})
    append_examples(live.log, [forget, again], len(told) + len(examples) + len(later))
    assert live.attempt(lambda rank, step: None), live.errors
    for kept in live.kept.values():
        assert kept.shard.model.entities.read("item", 3, 3e9) == {"brand": "new"}
        assert kept.shard.model.entities.read("item", 3, 2e9) == {}
        assert kept.shard.model.entities.read("user", "u2", 2e9) == {}
    known = [kept.shard.model.entities for kept in live.kept.values()]
    live.reshard(2)
    assert live.attempt(lambda rank, step: None), live.errors
    for rank in range(2):
        assert live.kept[rank].shard.model.entities.digest() == known[2].digest()


@pytest.mark.parametrize(
    ("standings", "found"),
    [
        ([(5, 7), (5, 7)], 7),
        ([(5, 7), (5, 8), (5, 7)], 7),
        ([(9, 0), (5, 1)], 0),
        ([(5, 7), (6, 7)], "shard 1 has a model of epoch 6, shard 0 of epoch 5"),
        ([(5, 9), (5, 7)], "shard 1 is at update 7, shard 0 at 9: the state of shard 1 is lost or old"),
        ([(5, 0), (5, 2)], "shard 0 is at update 0, shard 1 at 2"),
    ],
)
def test_shards_meet_at_the_last_update_that_all_have(
    standings: list[tuple[int, int]], found: int | str
) -> None:
    given = [Standing(epoch, seq) for epoch, seq in standings]
    if isinstance(found, int):
        assert common_update(given) == found
    else:
        with pytest.raises(ShardError, match=found):
            common_update(given)


def test_states_that_are_older_than_what_was_published_and_a_log_of_others_are_refused() -> None:
    live = LiveShards(filled_log(examples_of(30)), 2)
    assert live.attempt(lambda rank, step: None), live.errors
    fresh = LiveShards(live.log, 2)
    assert not fresh.attempt(lambda rank, step: None)
    said = next(str(error) for error in fresh.errors if "topic updates holds update 1 of epoch" in str(error))
    assert "the shards are at update 0" in said and "freshet learn --anew" in said
    alone = Model(live.features, live.settings)
    shown = decode_update(live.log.read(UPDATES, 0, 1)[-1].value)
    with pytest.raises(OtherModelError, match="of a learner in 2 shards, and this learner is one process"):
        check_own(shown, alone)
    with pytest.raises(ShardError, match="4 shards, but topic examples has 3 partitions"):
        check_partitions(4, PARTITIONS)


def test_a_shard_whose_beats_stop_and_learners_that_are_no_shards_are_noticed() -> None:
    log, settings = filled_log([]), GroupSettings(beat_s=0.1, timeout_s=0.5)
    clock = ManualClock()
    members = [Member(log, "learn", shard_name(rank, 2), settings, clock) for rank in (0, 1)]
    watch = ShardWatch(members[0], 2, lambda error: None, clock)
    for member in members:
        member.join()
    members[0].look()
    watch.check_alone()
    watch.look()
    for _ in range(5):
        members[0].beat()
        members[0].look()
    with pytest.raises(ShardLostError, match=r"shard-1-of-2: no beat came within 0\.5 s"):
        watch.look()
    strangers = {shard_name(0, 4): "shards of 4 are alive", "machine": "learners that are no shards"}
    for name, what in strangers.items():
        stranger = Member(log, "learn", name, settings, clock)
        stranger.join()
        members[0].look()
        with pytest.raises(ShardLostError, match=f"{what}.*this is a shard of 2"):
            watch.check_alone()
        stranger.leave()
        members[0].look()
        watch.check_alone()


def test_learners_that_were_killed_are_waited_for() -> None:
    """The group hears nothing of their end; with each start the count of unanswered beats begins anew."""
    log, settings, clock = filled_log([]), GroupSettings(beat_s=0.1, timeout_s=0.5), ManualClock()
    Member(log, "learn", shard_name(0, 2), settings, clock).join()
    member = Member(log, "learn", shard_name(0, 3), settings, clock)
    member.join()
    assert member.names == ["shard-0-of-2", "shard-0-of-3"]

    class Beating(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            member.beat()
            member.look()

    ShardWatch(member, 3, lambda error: None, Beating()).check_alone()
    assert member.names == ["shard-0-of-3"]


def test_what_shards_do_not_have_is_named() -> None:
    learning = Learning(FEATURES, SETTINGS, RUNNER_DEFAULTS, model="main")
    with pytest.raises(
        ShardError, match=r"snapshots_kept is over 2, and shards keep no snapshots .*count = 1"
    ):
        check_shardable(learning)

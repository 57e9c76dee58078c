"""Shards that do not fit, and what befalls one of them: named, and nothing is lost or repeated."""

from collections import Counter

import numpy as np
import pytest
from live_shards import Killed, LiveShards, append_examples, check_shards, filled_log
from turns import examples_of

from ground.clock import SYSTEM_CLOCK, SystemClock
from learner.errors import ShardError
from learner.shards.gloo import check_versions
from learner.shards.live.kept import read_meta
from learner.shards.live.watch import ShardWatch, shard_name
from learner.shards.messages import Bytes
from stream.errors import GroupError, StateDamagedError, StateFullError
from stream.group.membership import GroupSettings, Member
from stream.log.base import EXAMPLES
from stream.state.role_state import RoleState

pytestmark = pytest.mark.slow

REQUESTS = 36


def live_shards() -> LiveShards:
    return LiveShards(filled_log(examples_of(REQUESTS)), 2)


def learn_all(live: LiveShards) -> None:
    assert live.attempt(lambda rank, step: None), live.errors


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("the version of torch", "2.4.0"),
        ("the version of numba", "0.60.0"),
        ("the number of shards", "3"),
        ("the processor", "aarch64"),
    ],
)
def test_a_shard_of_other_versions_is_refused_with_both_values(name: str, there: str) -> None:
    mine = {"the number of shards": "2", "the version of torch": "2.5.0", "the version of numba": "0.61.0"}
    mine["the processor"] = "x86_64"
    check_versions(0, mine, 1, dict(mine))
    with pytest.raises(
        ShardError, match=f"shard 1 does not fit shard 0: {name} is {there} there and {mine[name]}"
    ):
        check_versions(0, mine, 1, {**mine, name: there})


class DayAhead(SystemClock):
    """A clock that somebody has set wrong."""

    def unix_s(self) -> float:
        return super().unix_s() + 86_400.0


def test_a_clock_that_is_off_by_a_day_changes_nothing() -> None:
    live = live_shards()
    live.clocks[1] = DayAhead()
    learn_all(live)
    check_shards(live, REQUESTS)


@pytest.mark.parametrize(("at", "kept"), [(1, 0.0), (3, 0.5), (6, -1.0)])
def test_a_message_that_is_cut_off_or_too_long_ends_all_and_nothing_is_lost(at: int, kept: float) -> None:
    live, sent = live_shards(), Counter[int]()

    def spoil(rank: int, messages: list[Bytes]) -> list[Bytes]:
        sent[rank] += 1
        if (rank, sent[rank]) != (1, at):
            return messages
        first = messages[0]
        return [np.tile(first, 2) if kept < 0.0 else first[: int(len(first) * kept) // 8 * 8], *messages[1:]]

    live.spoil = spoil
    assert not live.attempt(lambda rank, step: None)
    assert any("the message of shard 1 is" in str(error) for error in live.errors), live.errors
    learn_all(live)
    check_shards(live, REQUESTS)


@pytest.mark.parametrize(("rank", "step"), [(0, "make"), (1, "write")])
def test_a_disk_that_is_full_at_one_shard_is_named_and_nothing_is_lost(rank: int, step: str) -> None:
    live, seen = live_shards(), Counter[str]()

    def full(who: int, what: str) -> None:
        seen[what] += who == rank
        if (who, what) == (rank, step) and seen[what] == (1 if step == "make" else 3):
            raise OSError(28, "No space left on device")

    assert not live.attempt(full)
    assert any(isinstance(error, StateFullError) for error in live.errors), live.errors
    learn_all(live)
    check_shards(live, REQUESTS)


def test_a_state_that_is_damaged_is_named_and_the_others_stay() -> None:
    live = live_shards()
    learn_all(live)
    live.disk.damage(live.folder(1))
    append_examples(live.log, examples_of(10, seed=3), REQUESTS)
    assert not live.attempt(lambda rank, step: None)
    damaged = [str(error) for error in live.errors if isinstance(error, StateDamagedError)]
    assert damaged and str(live.folder(1)) in damaged[0] and "restore the folder from a copy" in damaged[0]
    with RoleState(live.folder(0), "shard", None, disk=live.disk) as state:
        assert read_meta(state, SYSTEM_CLOCK).seq == live.kept[0].meta.seq


def test_rows_at_rest_whose_file_is_damaged_amid_a_turn_are_named_and_the_other_shard_stays() -> None:
    live, seen = LiveShards(filled_log(examples_of(2 * REQUESTS)), 2, resting=8), Counter[str]()

    def damage(rank: int, step: str) -> None:
        seen[step] += rank == 1
        if (rank, step, seen["written"]) == (1, "swap", 2):  # a state that has been committed to twice
            live.disk.damage(live.folder(1))

    assert not live.attempt(damage)  # its commit reads what it replaces
    assert f"state {live.folder(1)}: " in str(live.errors[0]) and "block checksum" in str(live.errors[0])
    assert not live.attempt(lambda rank, step: None)
    damaged = [str(error) for error in live.errors if isinstance(error, StateDamagedError)]
    assert damaged and str(live.folder(1)) in damaged[0] and "restore the folder from a copy" in damaged[0]
    assert seen["written"] == 2, "what could not be read is in no update"
    with RoleState(live.folder(0), "shard", None, disk=live.disk) as state:
        assert read_meta(state, SYSTEM_CLOCK).seq == live.kept[0].meta.seq > 0


def test_an_entity_that_is_half_of_all_traffic_shows_and_is_learned() -> None:
    examples = examples_of(REQUESTS)
    for example in examples[::2]:
        example.context["user"] = "u7"
    live = LiveShards(filled_log(examples), 2)
    learn_all(live)
    check_shards(live, REQUESTS)
    skew = live.meters[0].values(2)["busiest_over_fair_share"]
    ends = [end for _, end in live.log.ends(EXAMPLES)]
    busiest = max(ends[0] + ends[2], ends[1])
    assert skew is not None and 1.0 < skew <= 2.0 and busiest > REQUESTS / 2


def test_the_older_of_two_shards_of_a_rank_stops() -> None:
    log, settings = filled_log([]), GroupSettings(beat_s=0.1, timeout_s=0.5)
    older, newer = (Member(log, "learn", shard_name(1, 2), settings) for _ in range(2))
    older.join()
    newer.join()
    older.look()
    watch = ShardWatch(older, 2, lambda error: None, SYSTEM_CLOCK)
    taken = "another process has joined group 'learn' as 'shard-1-of-2'"
    with pytest.raises(GroupError, match=taken), watch:
        pass
    newer.turn()


def test_shards_that_have_learned_nothing_begin_anew_in_another_number() -> None:
    live = live_shards()

    def end(rank: int, step: str) -> None:
        if step == "swap":
            raise Killed

    assert not live.attempt(end)
    with pytest.raises(ShardError, match=r"learned nothing yet: set the new number, and .* --anew"):
        live.reshard(3)

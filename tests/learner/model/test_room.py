"""Full tables: eviction by default, old states that have none, and the settings of the table of pairs."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from learner.features.encoder import FeatureSpec
from learner.meta import KEY
from learner.model.tables import PAIRS
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from stream.records.types import Example
from stream.state.role_state import RoleState

pytestmark = pytest.mark.slow

ROWS_MAX = 128
SLACK = 8  # evicted rows whose slots have not been given back yet
SETTINGS = LearnerSettings(deep="none", group=8)


def schema() -> dict[str, FeatureSpec]:
    return {"item": FeatureSpec(dim=4, rows_max=ROWS_MAX, pairs=False)}


def examples_of(first: int, count: int) -> list[Example]:
    """One request per id, each with an id of its own."""
    return [
        Example(str(i), 1e9 + i, 1e9 + i, [{"item": i}], [float(i % 2)]) for i in range(first, first + count)
    ]


def pairs_of(users: int, times: int = 1) -> list[Example]:
    """Each of some users, with an item of its own, so many times."""
    return [
        Example(f"{t}-{i}", 1e9 + t, 1e9 + t, [{"user": i, "item": i}], [float(i % 2)])
        for t in range(times)
        for i in range(users)
    ]


def known(learner: Learner, ids: range) -> int:
    """How many of the ids have a row."""
    batch = learner.model.encoder.encode(examples_of(ids.start, len(ids)))
    return int(np.count_nonzero(learner.model.tables[0].find(batch.rows.key, np.uint32(2**31)) >= 0))


def test_full_table_evicts_by_default_and_learns_new_ids() -> None:
    learner = Learner(schema(), SETTINGS)
    learner.learn(examples_of(0, 5 * ROWS_MAX))
    learner.finish()
    stats = learner.model.tables[0].stats
    assert stats.rows <= ROWS_MAX + SLACK and stats.full == 0
    assert stats.evicted >= 3 * ROWS_MAX
    assert known(learner, range(5 * ROWS_MAX - 50, 5 * ROWS_MAX)) == 50
    assert known(learner, range(50)) == 0


def test_full_table_refuses_new_ids_if_eviction_is_off() -> None:
    features = {"item": FeatureSpec(dim=4, rows_max=ROWS_MAX, pairs=False, evict="none")}
    learner = Learner(features, SETTINGS)
    learner.learn(examples_of(0, 5 * ROWS_MAX))
    stats = learner.model.tables[0].stats
    assert (stats.rows, stats.evicted, stats.full) == (ROWS_MAX, 0, 4 * ROWS_MAX)
    assert known(learner, range(50)) == 50


@pytest.mark.parametrize("old", [True, False])
def test_state_from_before_eviction_was_the_default_stays_without_it(tmp_path: Path, old: bool) -> None:
    """An older Freshet made rows without the age that eviction needs, and a meta without `makes_room`."""
    features = {"item": msgspec.structs.replace(schema()["item"], evict="none" if old else None)}
    fingerprint = Learner.fingerprint(schema(), SETTINGS)
    with RoleState(tmp_path, "learner", fingerprint, sync=False) as state:
        learner = Learner(features, SETTINGS, state)
        learner.learn(examples_of(0, ROWS_MAX - 20))
        learner.finish()
        commit = state.begin()
        learner.flush(commit)
        if old:
            meta = msgspec.to_builtins(learner.meta)
            del meta["makes_room"]
            commit.put(KEY, msgspec.msgpack.encode(meta))
        state.commit(commit)
    for restart in range(2):
        with RoleState(tmp_path, "learner", fingerprint, sync=False) as state:
            learner = Learner(schema(), SETTINGS, state)
            assert learner.meta.makes_room is not old
            learner.learn(examples_of((restart + 1) * ROWS_MAX, 3 * ROWS_MAX))
            learner.finish()
            stats = learner.model.tables[0].stats
            assert (stats.evicted == 0, stats.full > 0) == (old, old)
            assert known(learner, range(50)) == (50 if old else 0)
            commit = state.begin()
            learner.flush(commit)
            state.commit(commit)


def pairs_learned(settings: LearnerSettings, examples: list[Example]) -> Learner:
    learner = Learner({"user": FeatureSpec(dim=4), "item": FeatureSpec(dim=4)}, settings)
    learner.learn(examples)
    learner.finish()
    return learner


@pytest.mark.parametrize("after", [1, 2, 3])
def test_pair_gets_its_row_at_the_configured_sighting(after: int) -> None:
    settings = LearnerSettings(deep="none", pairs_admit_after=after)
    rows = [pairs_learned(settings, pairs_of(20, times)).model.table_rows()[PAIRS] for times in (1, 2, 3)]
    assert rows == [20 if times >= after else 0 for times in (1, 2, 3)]


def test_full_table_of_pairs_evicts_by_default_and_refuses_if_eviction_is_off() -> None:
    found = {}
    for evict in (None, "least_frequent", "none"):
        settings = LearnerSettings(deep="none", pairs_rows_max=ROWS_MAX, pairs_evict=evict)  # type: ignore[arg-type]
        model = pairs_learned(settings, pairs_of(5 * ROWS_MAX)).model
        stats = model.tables[model.table_names.index(PAIRS)].stats
        assert stats.rows <= ROWS_MAX + SLACK
        assert model.table_rows()["user"] == 5 * ROWS_MAX  # limits of pairs are of pairs alone
        found[evict] = (stats.evicted > 3 * ROWS_MAX, stats.full)
    assert found == {None: (True, 0), "least_frequent": (True, 0), "none": (False, 4 * ROWS_MAX)}


def test_pairs_expire_by_their_own_ttl() -> None:
    late = [Example("late", 1e9 + 10_000, 1e9 + 10_000, [{"user": 1, "item": 1}], [1.0])]
    for ttl_s, left in ((600.0, 1), (0.0, 20)):
        learner = pairs_learned(LearnerSettings(deep="none", pairs_ttl_s=ttl_s), [*pairs_of(20), *late])
        for table in learner.model.tables:
            table.expire(int(learner.trainer.clock), 10_000)
        assert learner.model.table_rows() == {"user": 20, "item": 20, PAIRS: left}

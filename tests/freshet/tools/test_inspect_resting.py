"""`freshet inspect` counts the rows of a table that are on disk, too."""

from pathlib import Path

import pytest

from freshet.roles.states import read_state
from freshet.tools.inspect import describe
from learner.features.encoder import FeatureSpec
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from stream.errors import StateError
from stream.records.types import Example
from stream.state.role_state import RoleState


def test_inspect_counts_rows_at_rest(tmp_path: Path) -> None:
    features = {
        "item": FeatureSpec(dim=2, memory_rows=3, pairs=False),
        "user": FeatureSpec(dim=2, pairs=False),
    }
    settings = LearnerSettings(deep="none")
    with RoleState(tmp_path, "learner", Learner.fingerprint(features, settings), sync=False) as state:
        learner = Learner(features, settings, state)
        for first in (0, 10):
            items = range(first, first + 10)
            learner.learn([Example(f"r{i}", 1e9, 1e9, [{"item": i}], [1.0], {"user": 1}) for i in items])
            commit = state.begin()
            learner.flush(commit)
            state.commit(commit)
        assert learner.metric_values()["rows_at_rest"] == 17
    assert read_state(tmp_path)["rows_with_those_at_rest"] == {"item": 20}


def test_a_folder_of_shards_says_which_states_it_has(tmp_path: Path) -> None:
    for rank in range(2):
        with RoleState(tmp_path / "shards-2" / str(rank), "shard", {}, sync=False):
            pass
    with pytest.raises(StateError, match="it has states of shards-2/0, shards-2/1"):
        read_state(tmp_path)


def test_state_is_told_for_people() -> None:
    sizes = {
        999: "999 bytes",
        1_000: "1.0 kB",
        1_250_000: "1.2 MB",
        2_500_000_000: "2.5 GB",
        3e12: "3,000.0 GB",
    }
    assert {size: next(iter(describe({"bytes": size})))[28:] for size in sizes} == sizes
    found = {
        "event_time": 1767225600.0,
        "done_time": 0,
        "speed_tau": (0.3, 0.03),
        "name": "x" * 120,
        "on": True,
    }
    assert [line[28:] for line in describe({"of": found})] == [
        "", "2026-01-01 00:00:00 UTC", "0", "0.3, 0.03", f"{'x' * 100}… (120 characters; --json)", "True",
    ]  # fmt: skip

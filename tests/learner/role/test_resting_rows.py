"""A learner whose rows rest learns, saves and publishes what one with all rows in memory does."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from embeddings import SnapshotError, TableError, TableSpec
from embeddings.rest.table import RestingTable
from ground.keys import key_of
from learner.features.encoder import FeatureSpec, Request
from learner.model.model import Model
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.updates.follower import Follower
from stream.errors import StateDamagedError, StateFullError
from stream.log.base import SNAPSHOTS, UPDATES
from stream.log.testing.memory import MemoryLog
from stream.records.types import Example, Forget
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

WHOLE = {
    "user": FeatureSpec(dim=4, rows_max=64, evict="least_frequent"),
    "item": FeatureSpec(dim=4, admit_after=2, ttl_s=4000.0),
    "past": FeatureSpec(kind="sequence", of="item", dim=4),
    "tags": FeatureSpec(kind="ids", dim=4, rows_max=64),
}
RESTING = {name: msgspec.structs.replace(spec, memory_rows=8) for name, spec in WHOLE.items()}
SETTINGS = LearnerSettings(window=200, snapshot_bytes_min=50_000, pairs_rows_max=900)
PAIRS = msgspec.structs.replace(SETTINGS, pairs_memory_rows=20)


def make_examples(n: int) -> list[Example]:
    """Requests with ids drawn by a power law, and late ones, without weight, and repeated ids among them."""
    rng = np.random.default_rng(7)
    found = []
    for i in range(n):
        items = np.minimum(rng.zipf(1.2, rng.integers(1, 4)), 300)
        candidates: list[dict[str, object]] = [
            {"item": int(item), "tags": [int(item) % 90, f"t{item % 3}"]} for item in items
        ]
        labels = [float(rng.random() < 0.1 + 0.8 * (item % 2)) for item in items]
        context = {"user": f"u{min(rng.zipf(1.2), 200)}", "past": rng.integers(0, 60, 2).tolist()}
        time = 1e9 + 30.0 * i
        found.append(Example(f"r{i}", time, time, candidates, labels, context))  # type: ignore[arg-type]
    return found


EXAMPLES_1 = make_examples(500)
FORGET = Forget("f1", EXAMPLES_1[300].time, entity={"user": ["u1"], "item": [2]})


def opened(features: Mapping[str, FeatureSpec], settings: LearnerSettings, disk: MemoryDisk) -> RoleState:
    fingerprint = Learner.fingerprint(features, settings)
    return RoleState(Path("learner"), "learner", fingerprint, disk=disk)


def committed(learner: Learner, state: RoleState) -> None:
    commit = state.begin()
    learner.flush(commit)
    state.commit(commit)


def learn(learner: Learner, first: int, last: int, step: int = 50) -> None:
    for at in range(first, last, step):
        learner.learn(EXAMPLES_1[at : min(at + step, last)])


@pytest.fixture(scope="module")
def expected() -> str:
    whole = Learner(WHOLE, SETTINGS)
    learn(whole, 0, 500)
    assert whole.metric_values()["evicted"]
    return whole.digest()


def kept_for_ever(
    memory_rows: int | msgspec.UnsetType,
) -> tuple[dict[str, FeatureSpec], LearnerSettings]:
    """A schema whose rows neither expire nor are evicted: nothing depends on when they are removed."""
    features = {
        name: msgspec.structs.replace(spec, memory_rows=memory_rows, evict="none", ttl_s=0.0, rows_max=400)
        for name, spec in WHOLE.items()
    }
    return features, msgspec.structs.replace(SETTINGS, pairs_rows_max=1 << 20, pairs_memory_rows=memory_rows)


def test_forgetting_finds_rows_and_pairs_at_rest():
    digests = []
    for memory_rows in (msgspec.UNSET, 8):
        features, settings = kept_for_ever(memory_rows)
        disk = MemoryDisk()
        with opened(features, settings, disk) as state:
            learner = Learner(features, settings, state)
            for at in range(0, 300, 50):
                learn(learner, at, at + 50)
                committed(learner, state)
            learner.forget(FORGET)
            committed(learner, state)
            assert not learner.meta.purging
            kept = b"".join(key + value for key, value in state.scan(b"table/"))
            for key in () if memory_rows is msgspec.UNSET else (key_of("u1"),):
                assert key.to_bytes(8, "big") not in kept and key.to_bytes(8, "little") not in kept
            learn(learner, 300, 500)
            committed(learner, state)
            digests.append(learner.digest())
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_rows_rest_in_the_state_and_come_back_after_restarts(expected):
    disk = MemoryDisk()
    for first in range(0, 500, 100):
        with opened(RESTING, PAIRS, disk) as state:
            learner = Learner(RESTING, PAIRS, state, beside=first % 200 == 0)
            for at in range(first, first + 100, 20):
                learn(learner, at, at + 20, step=20)
                committed(learner, state)
                tables = learner.model.resting.tables.values()
                assert all(table.in_memory <= table.memory_rows for table in tables)
            assert all(table.at_rest > 0 for table in tables)
            learner.close()
    with opened(RESTING, PAIRS, disk) as state:
        assert Learner(RESTING, PAIRS, state).digest() == expected


@pytest.mark.slow
def test_rows_rest_in_a_folder_of_their_own_without_a_state(expected):
    learner = Learner(RESTING, PAIRS, beside=True)
    learn(learner, 0, 500)
    learner.settle()
    assert learner.digest() == expected
    assert all(table.at_rest > 0 for table in learner.model.resting.tables.values())
    learner.close()


@pytest.mark.slow
def test_a_state_changes_from_one_form_to_the_other_and_back(expected):
    disk = MemoryDisk()
    forms = [(WHOLE, SETTINGS), (RESTING, PAIRS), (WHOLE, SETTINGS), (RESTING, PAIRS), (WHOLE, SETTINGS)]
    for part, (features, settings) in enumerate(forms):
        with opened(features, settings, disk) as state:
            learner = Learner(features, settings, state)
            learn(learner, 100 * part, 100 * part + 100, step=20)
            committed(learner, state)
            digest = learner.digest()
    assert digest == expected


@pytest.mark.slow
def test_a_server_follows_a_learner_whose_rows_rest():
    models = []
    for features, settings in (kept_for_ever(msgspec.UNSET), kept_for_ever(8)):
        with opened(features, settings, MemoryDisk()) as state:
            learner = Learner(features, settings, state)
            own = MemoryLog()
            for topic in (UPDATES, SNAPSHOTS):
                own.create_topic(topic, 1)
            for at in range(0, 500, 50):
                learner.learn(EXAMPLES_1[at : at + 50])
                committed(learner, state)
                for block in state.unsent():
                    own.append(block.topic, block.records)
                    state.mark_sent(block.number)
        late, early = Follower(Model(features, settings)), Follower(Model(features, settings))
        while early.poll(own):
            pass
        assert late.start(own)
        while late.poll(own):
            pass
        models += [early.model, late.model]
    requests = [Request(e.time, e.context, e.candidates) for e in EXAMPLES_1[::7]]
    scores = [model.score_requests(requests).z.tobytes() for model in models]
    assert [score == scores[0] for score in scores] == [True] * 4
    assert models[2].resting.tables[0].at_rest > 0


@pytest.mark.parametrize("rows", [0, -1, 65])
def test_memory_rows_out_of_range_are_refused(rows):
    with pytest.raises(ValueError, match="memory_rows must be 1 to rows_max = 64; without it"):
        FeatureSpec(rows_max=64, memory_rows=rows)
    with pytest.raises(ValueError, match="pairs_memory_rows must be 1 to pairs_rows_max = 64; without it"):
        LearnerSettings(pairs_rows_max=64, pairs_memory_rows=rows)
    with pytest.raises(TableError, match="memory_rows must be from 1 to rows_max = 64"):
        RestingTable(TableSpec(rows_max=64), rows)


def test_rows_need_a_state_to_rest_in_before_they_are_committed():
    learner = Learner(RESTING, PAIRS)
    learn(learner, 0, 50)
    with (
        opened(RESTING, PAIRS, MemoryDisk()) as state,
        pytest.raises(TableError, match="no state to rest in"),
    ):
        learner.flush(state.begin())
    learner.close()


def test_a_damaged_row_is_named_and_a_full_disk_loses_nothing():
    disk = MemoryDisk()
    trouble: list[OSError] = []

    def fail(what: str, folder: Path) -> None:
        if what == "write" and trouble:
            raise trouble[0]

    own = disk.connect(fail)
    with opened(RESTING, PAIRS, own) as state:
        learner = Learner(RESTING, PAIRS, state)
        learn(learner, 0, 100)
        committed(learner, state)
        digest = learner.digest()
        learn(learner, 100, 200)
        trouble.append(OSError(28, "No space left on device"))
        with pytest.raises(StateFullError, match="free some disk space"):
            committed(learner, state)
        trouble.clear()
    with opened(RESTING, PAIRS, disk) as state:
        assert Learner(RESTING, PAIRS, state).digest() == digest
    assert disk.flip(Path("learner"), lambda keys: next(key for key in keys if b"table/user/row/" in key))
    with opened(RESTING, PAIRS, disk) as state:
        learner = Learner(RESTING, PAIRS, state)
        with pytest.raises(StateDamagedError, match="restore the folder from a copy"):
            learner.digest()


@pytest.mark.parametrize("entry", ["rest", "delta"])
def test_a_damaged_snapshot_is_refused(entry):
    features, settings = kept_for_ever(300)
    disk = MemoryDisk()
    with opened(features, settings, disk) as state:
        learner = Learner(features, settings, state)
        learn(learner, 0, 5)
        committed(learner, state)
        name, value = next(state.scan(b"table/user/" + entry.encode()))
        commit = state.begin()
        commit.put(name, value[:-1])
        state.commit(commit)
    with opened(features, settings, disk) as state, pytest.raises(SnapshotError, match=r"'user': .*be read"):
        Learner(features, settings, state)

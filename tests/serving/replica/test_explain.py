"""POST /v1/explain: its parts add up to what POST /v1/score answers, bit for bit."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from serving.replica.explaining import Explanation
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.log.base import EXAMPLES, SNAPSHOTS, UPDATES, Log, Outgoing
from stream.log.testing import MemoryLog
from stream.records.types import Example, Impression, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState
from stream.world.simulator import World, WorldSettings

FEATURES = {
    "user": FeatureSpec(dim=4),
    "item": FeatureSpec(dim=4),
    "tags": FeatureSpec(kind="ids", dim=4),
    "price": FeatureSpec(kind="number", dim=4),
}
SETTINGS = LearnerSettings(group=256)


def tagged(example: Example) -> Example:
    for features in example.candidates:
        item = int(features["item"])  # type: ignore[arg-type]
        features |= {"tags": [item % 7, f"t{item % 5}"], "price": item / 10}
    return example


@pytest.fixture(scope="module")
def log() -> Iterator[Log]:
    opened = MemoryLog()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory, log: Log) -> Iterator[Replica]:
    """One whose learner has learnt 300 requests, and whose memory has seen 400 more."""
    folder: Path = tmp_path_factory.mktemp("explain")
    for topic in (EXAMPLES, UPDATES, SNAPSHOTS):
        log.create_topic(topic, 1)
    world = World(WorldSettings(users=30, items=40, slate=5))

    def append(count: int) -> None:
        log.append(EXAMPLES, [Outgoing(b"", encode(tagged(e)), 0) for e in world.examples(count)])

    append(300)
    with RoleState(folder / "state", "learner", {}, sync=False) as state:
        learner = Learner(FEATURES, SETTINGS, state)
        runner = Runner(
            log,
            state,
            learner,
            Subscription(EXAMPLES, "learn"),
            RunnerSettings(commit_every_s=0.0, wait_s=0.0),
        ).open()
        while runner.step():
            pass
    world.shift()
    append(400)
    made = Replica(log, FEATURES, SETTINGS, MemorySettings(), ServerSettings())
    while made.step():
        pass
    yield made


item = st.integers(0, 60)
candidate = st.fixed_dictionaries(
    {},
    optional={
        "item": item,
        "tags": st.lists(st.integers(0, 9) | st.sampled_from(["t1", "t4", "t9"]), max_size=4),
        "price": st.floats(-1e3, 1e3),
    },
)
request = st.builds(
    Impression,
    request_id=st.just("r"),
    time=st.just(1_700_001_000.0),
    candidates=st.lists(candidate, min_size=1, max_size=6),
    context=st.fixed_dictionaries({}, optional={"user": st.integers(0, 40)}),
)


@pytest.mark.slow
@given(request)
@settings(deadline=None, max_examples=many(16))
def test_parts_add_up_to_the_score_exactly(replica: Replica, asked: Impression) -> None:
    (scored,) = replica.score([asked])
    taken = replica.explain(asked)
    assert [c.base for c in taken.candidates] == scored.base
    assert [c.corrected for c in taken.candidates] == scored.corrected
    assert (taken.order, taken.version) == (scored.order, scored.version)
    for c in taken.candidates:
        total = 0.0
        for part in c.parts:
            assert part.evidence > 0.0
            total += part.logit
        assert c.logit == c.base_logit + taken.gate * total
        assert c.corrected == pytest.approx(1.0 / (1.0 + math.exp(-c.logit)), rel=1e-14)
        assert c.base == pytest.approx(1.0 / (1.0 + math.exp(-c.base_logit)), rel=1e-12)
        assert c.parts or c.corrected == c.base
        fast = (taken.bias + sum(c.weights.values())) * c.share + c.deep
        assert fast == pytest.approx(c.base_logit, abs=1e-5)


def explained(replica: Replica, context: dict[str, Any], *candidates: dict[str, Any]) -> Explanation:
    return replica.explain(Impression("r", 1_700_001_000.0, list(candidates), context))


def test_it_names_what_is_known_and_what_is_not(replica: Replica) -> None:
    known = next(
        i for i in range(40) if not explained(replica, {"user": 1}, {"item": i}).candidates[0].unknown
    )
    taken = explained(
        replica, {"user": 1}, {"item": known}, {"item": 10_000, "tags": [3, "never", 10**9], "price": 1e9}
    )
    first, second = taken.candidates
    assert first.unknown == []
    assert {u.feature: u.values for u in second.unknown} == {
        "item": [10_000], "tags": ["never", 10**9], "price": [1e9],
    }  # fmt: skip
    assert {"user", "item", "user*item", "user count", "item count"} == set(first.weights)
    assert {part.of.removesuffix(" lately") for part in first.parts} <= set(first.weights)
    assert any(part.of.endswith(" lately") for part in first.parts)
    assert taken.evidence == 2_000 and 0.0 < taken.gate <= 1.0
    assert taken.freshness_s is not None and taken.base_freshness_s is not None
    assert taken.freshness_s <= taken.base_freshness_s


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sketch", "neighbours", "none"])
def test_memories_without_parts_say_what_they_made_of_it(replica: Replica, log: Log, kind: str) -> None:
    made = Replica(log, FEATURES, SETTINGS, MemorySettings(kind=kind), ServerSettings())  # type: ignore[arg-type]
    while made.step():
        pass
    asked = Impression("r", 1_700_001_000.0, [{"item": i} for i in range(5)], {"user": 2})
    taken = made.explain(asked)
    assert [c.corrected for c in taken.candidates] == made.score([asked])[0].corrected
    assert all(c.parts == [] for c in taken.candidates) and taken.memory == kind

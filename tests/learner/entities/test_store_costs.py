"""What an event of an entity costs in a full store is about what it costs in a small one."""

import time

import pytest
from costs import DEARER_MAX, dearer

from learner.entities.store import EntityStore
from learner.features.spec import FeatureSpec
from learner.settings import ENTITIES_BYTES_MIN, LearnerSettings
from stream.records.entities.record import EntityEvent

FEATURES = {"item": FeatureSpec(), "text": FeatureSpec(kind="text", of="item")}
TEXT, SIZE = "x" * 3_000, 3_250  # and the bytes that one takes, about


def entities_cost(entities_max: int) -> float:
    """Of an event of a new entity, with what it costs to make room for it."""
    store = EntityStore(FEATURES, LearnerSettings(entities_bytes_max=entities_max * SIZE))
    store.tell(EntityEvent("item", 0, 1e9, {"text": TEXT}))
    ((name, _, kept),) = store.take_all()
    store.load((name, -key, kept) for key in range(1, entities_max))
    assert 0.9 * entities_max * SIZE < store.nbytes <= entities_max * SIZE
    steps = entities_max // 2
    began = time.thread_time()
    for i in range(steps):
        store.tell(EntityEvent("item", i, 1e9 + 3600.0 + i, {"text": TEXT}))
    took_s = time.thread_time() - began
    assert store.evicted >= 0.9 * steps and len(store) > 0.8 * entities_max
    return took_s / steps


@pytest.mark.slow
def test_event_in_a_full_store_costs_about_what_one_in_a_small_store_does() -> None:
    assert dearer(entities_cost, 100 * -(-ENTITIES_BYTES_MIN // SIZE)) < DEARER_MAX

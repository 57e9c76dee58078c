"""Who answers whom: shares hold, and people keep their model as far as the shares allow."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.models.routing import model_for

ENTITIES = [f"user-{i}" for i in range(20_000)]


@pytest.mark.parametrize("shares", [{"a": 0.9, "b": 0.1}, {"a": 0.5, "b": 0.3, "c": 0.2}])
def test_each_model_answers_its_share(shares: dict[str, float]) -> None:
    counts = Counter(model_for(shares, entity) for entity in ENTITIES)
    for name, share in shares.items():
        error = (share * (1.0 - share) / len(ENTITIES)) ** 0.5
        assert abs(counts[name] / len(ENTITIES) - share) < 4.5 * error


@pytest.mark.slow
@given(st.floats(0.05, 0.45), st.floats(0.0, 0.5))
def test_a_larger_share_moves_nobody_between_others(small: float, more: float) -> None:
    def shares(b: float) -> dict[str, float]:
        left = (1.0 - b) / 2.0
        return {"a": left, "b": b, "c": left}

    before, after = shares(small), shares(small + more)
    for entity in ENTITIES[:300]:
        was, now = model_for(before, entity), model_for(after, entity)
        assert now in (was, "b")


def test_a_model_without_a_share_answers_nobody() -> None:
    assert {model_for({"a": 1.0, "shadow": 0.0}, entity) for entity in ENTITIES[:100]} == {"a"}

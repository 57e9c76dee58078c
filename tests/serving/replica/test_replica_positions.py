"""Positions against their definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.replica.positions import Positions

steps = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), max_size=60)


def grow(moves: list[tuple[int, int]], positions: Positions) -> list[tuple[int, int]]:
    """Observe one example per move, its offset so much beyond its partition's last."""
    ends = [0, 0, 0]
    seen = []
    for partition, step in moves:
        ends[partition] += step
        seen.append((partition, ends[partition]))
        assert positions.add(partition, ends[partition]) == len(seen)
    return seen


def learnt_prefix(seen: list[tuple[int, int]], watermark: dict[int, int]) -> int:
    done = 0
    for partition, offset in seen:
        if offset >= watermark.get(partition, 0):
            break
        done += 1
    return done


@pytest.mark.slow
@given(steps, st.dictionaries(st.integers(0, 2), st.integers(0, 200)))
def test_learnt_is_the_longest_prefix_below_the_watermark(
    moves: list[tuple[int, int]], watermark: dict[int, int]
) -> None:
    positions = Positions(marks_max=1000)
    seen = grow(moves, positions)
    assert positions.learnt(watermark) == learnt_prefix(seen, watermark)


@given(steps, st.dictionaries(st.integers(0, 2), st.integers(0, 200)), st.integers(2, 8))
def test_learnt_with_few_marks_never_says_too_much(
    moves: list[tuple[int, int]], watermark: dict[int, int], marks_max: int
) -> None:
    positions = Positions(marks_max)
    seen = grow(moves, positions)
    assert len(positions) <= marks_max
    assert positions.learnt(watermark) <= learnt_prefix(seen, watermark)
    everything = dict.fromkeys(range(3), 1000)
    assert positions.learnt(everything) == len(seen)
    assert len(positions) == 0


def test_learnt_stands_when_the_watermark_does() -> None:
    positions = Positions(marks_max=4)
    assert positions.learnt({0: 5}) == 0
    positions.add(0, 0)
    positions.add(0, 1)
    assert positions.learnt({0: 1}) == 1
    assert positions.learnt({0: 1}) == 1


def test_marks_below_two_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Positions(marks_max=1)

"""Refused ids: until when, what a state keeps of them, and what an example costs."""

import itertools
import time
from collections.abc import Callable, Sequence

import msgspec
import pytest
from costs import least_ratio
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.records.refusals import REFUSALS_MAX, Refusals
from stream.records.types import Example, Forget


def example(at: float, user: int, items: Sequence[int]) -> Example:
    """A request of one user with a candidate for each item."""
    return Example(
        "r", at, at, [{"item": item} for item in items], [1.0] * len(items), {"user": user, "other": 1}
    )


def forget(at: float, refuse_s: float, **ids: list[int | str]) -> Forget:
    """A request to forget."""
    return Forget("f", at, ids, refuse_s=refuse_s)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["forget", "example", "reopen"]),
        st.floats(0, 50),  # time
        st.floats(0, 50),  # how long
        st.integers(0, 3),  # user
        st.lists(st.integers(0, 3), min_size=1, max_size=3),  # items
    ),
    max_size=40,
)


@pytest.mark.slow
@settings(deadline=None)
@given(STEPS)
def test_what_is_admitted_is_what_a_plain_dict_says_and_a_restart_changes_nothing(steps: list) -> None:  # type: ignore[type-arg]
    refusals = Refusals()
    saved: dict[bytes, bytes] = {}
    plain: dict[tuple[str, int], float] = {}
    clock = 0.0
    for what, at, how_long, user, items in steps:
        if what == "forget":
            refusals.add(forget(at, how_long, user=[user], item=[*items]))
            for place in [("user", user), *(("item", item) for item in items)]:
                if how_long > 0:
                    plain[place] = max(plain.get(place, 0.0), at + how_long)
        elif what == "example":
            clock = max(clock, at)
            refused = {place for place, until in plain.items() if until >= clock}
            plain = {place: until for place, until in plain.items() if until >= clock}
            kept = [] if ("user", user) in refused else [i for i in items if ("item", i) not in refused]
            found = refusals.admit(example(at, user, items))
            assert [c["item"] for c in (found.candidates if found else [])] == kept
        else:
            for key, value in refusals.changes():
                if value is None:
                    saved.pop(key, None)
                else:
                    saved[key] = value
            again = Refusals()
            again.load(saved.items(), refusals.clock)
            assert again.changes() == [] and len(again) == len(refusals)
            refusals = again
        plain = {place: until for place, until in plain.items() if until >= clock}


def test_state_of_an_older_version_is_taken_and_written_anew() -> None:
    new = Refusals()
    new.add(forget(100.0, 50.0, user=[1, 2]))
    old = [("user", key[-16:], 150.0) for key, _ in new.changes()]
    refusals = Refusals()
    refusals.load_whole(msgspec.msgpack.encode((90.0, old)))
    assert refusals.admit(example(120.0, 1, [1])) is None
    assert len(refusals.changes()) == 2
    assert refusals.admit(example(151.0, 1, [1])) is not None


@pytest.mark.slow
def test_one_more_than_the_limit_drops_the_one_that_ends_first() -> None:
    refusals = Refusals()
    for first in range(0, REFUSALS_MAX, 1000):
        refusals.add(forget(float(first), 1e6, user=[*range(first, first + 1000)]))
    refusals.add(forget(5e5, 1e6, item=[7]))
    assert len(refusals) == REFUSALS_MAX
    assert refusals.admit(example(5e5, REFUSALS_MAX - 1, [1])) is None
    assert refusals.admit(example(5e5, 5, [7])) is None, "the item is refused"
    dropped = [user for user in range(1000) if refusals.admit(example(5e5, user, [1])) is not None]
    assert len(dropped) == 1


@pytest.mark.slow
@pytest.mark.parametrize("apart_s", [0.0, 1.0])
def test_example_and_commit_at_the_limit_cost_what_they_cost_with_few_refused_ids(apart_s: float) -> None:
    """Looking at each refused id for each example made it 680 times as slow."""

    def steps_of(ids: int) -> Callable[[], float]:
        refusals = Refusals()
        for first in range(0, ids, 1000):
            values: list[int | str] = [*range(first, min(first + 1000, ids))]
            refusals.add(forget(first * apart_s, 1e7, user=values))
        refusals.changes()
        turns = itertools.count()

        def cost() -> float:
            turn = next(turns)
            begun = time.thread_time()
            for i in range(200):
                refusals.admit(example(turn * 1000.0 + i, ids + i, [1]))
                refusals.add(forget(1e5, 1e7, user=[10**9 + turn * 1000 + i]))
            assert len(refusals.changes()) <= 400
            return time.thread_time() - begun

        return cost

    assert least_ratio(steps_of(REFUSALS_MAX), steps_of(100)) < 10.0

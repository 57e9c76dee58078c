"""A table whose rows rest on disk does what one with all its rows in memory does, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import TableSpec
from tests.helpers.depth import many
from tests.helpers.resting_tables import Pair

KEYS = 160

specs = st.fixed_dictionaries(
    {
        "ttl_s": st.sampled_from([0, 0, 40, 200]),
        "tick_s": st.sampled_from([0, 16]),
        "evict": st.sampled_from(["none", "least_recent", "least_frequent"]),
        "admit_after": st.sampled_from([1, 1, 2]),
        "rows_max": st.sampled_from([64, 100]),
        "optimizer": st.sampled_from(["adagrad", "adam"]),
    }
)
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["learn", "learn", "learn", "learn", "look", "commit", "restart", "expire", "forget"]
        ),
        st.integers(0, 2**32 - 1),
    ),
    min_size=4,
    max_size=25,
)


@pytest.mark.slow
@settings(max_examples=many(40), deadline=None)
@given(specs, st.integers(1, 64), steps)
def test_rows_that_rest_change_no_result(chosen, memory_rows, acts):
    pair = Pair(TableSpec(dim=3, extra=2, init="normal", admission_capacity=64, **chosen), memory_rows)
    now = 100
    for act, seed in acts:
        rng = np.random.default_rng(seed)
        count = int(rng.integers(1, 60 if seed % 2 else 8))
        ids = np.minimum(rng.zipf(1.3, count), KEYS) if seed % 3 else rng.integers(0, 4 * KEYS, count)
        keys = ids.astype(np.uint64) << np.uint64(40)
        if act == "learn":
            times = now + np.sort(rng.integers(0, 20, len(keys)))
            pair.learn(keys, times, seed)
            now = int(times[-1])
        elif act == "look":
            now += int(rng.integers(0, 30))
            pair.look(keys, now)
        elif act == "commit":
            pair.commit(now)
        elif act == "restart":
            pair.commit(now)
            assert pair.open()
        elif act == "expire":
            pair.whole.expire(now)
            pair.part.expire(now)
        else:
            gone = keys[:2]
            assert pair.part.forget(gone) == pair.whole.forget(gone)
            pair.snapshot.renew()
            assert set(gone.tolist()) <= pair.commit(now)
            assert not pair.snapshot.renewing
            held = b"".join(pair.store.entries) + b"".join(pair.store.entries.values())
            for key in gone.tolist():
                row = b"row/" + key.to_bytes(8, "big")
                assert row not in held
    pair.same(now)


@pytest.mark.slow
def test_a_limit_that_was_higher_than_the_last_one_counts_for_rows_at_rest():
    pair = Pair(TableSpec(dim=3, extra=2, rows_max=64, evict="least_frequent"), memory_rows=4)

    def learn(first: int, last: int, sightings: int) -> None:
        for key in range(first, last):
            pair.learn(np.full(sightings, key, dtype=np.uint64), np.full(sightings, 100), seed=key)

    learn(0, 40, sightings=3)
    pair.commit()
    learn(100, 125, sightings=3)
    highest = pair.part.limits.kept[-1]
    learn(200, 260, sightings=1)
    assert pair.part.limits.kept[-1][1] < highest[1]
    assert pair.whole.find(np.zeros(1, dtype=np.uint64))[0] == -1
    pair.look(np.arange(40, dtype=np.uint64), 100)
    pair.same(100)

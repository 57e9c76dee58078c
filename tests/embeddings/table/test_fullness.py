"""How full a table is follows from its sightings alone: not from batches, sweeps, restarts or slots."""

from unittest import mock

import numpy as np
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import Table, TableInputError, TableSpec
from embeddings.spec import Evict
from embeddings.table import table as table_module

SPECS = st.fixed_dictionaries(
    {
        "ttl_s": st.sampled_from([0, 1, 7, 80, 5000, 90_000]),
        "tick_s": st.sampled_from([0, 0, 10, 700]),
        "admit_after": st.sampled_from([1, 1, 2, 3]),
        "evict": st.sampled_from(["none", "none", "least_recent", "least_frequent"]),
    }
)


def make(**given: object) -> Table:
    return Table(TableSpec(**{"dim": 2, "init": "uniform", "admission_capacity": 64, **given}))


def restarted(table: Table, seed: int) -> Table:
    """A table made anew from what a snapshot holds, its rows in another order."""
    again = Table(table.spec)
    keys, _ = table.items()
    keys = np.random.default_rng(seed).permutation(keys)
    again.load(keys, table.export(keys)[0])
    again.filter.restore(table.filter.state())
    return again


# Not with one row: NumPy calls a column of one element contiguous, and all kernels would compile anew.
@pytest.mark.slow
@settings(max_examples=many(40), deadline=None)
@given(given_spec=SPECS, small=st.sampled_from([2, 3, 20]), data=st.data())
def test_what_is_refused_does_not_depend_on_cuts_sweeps_or_restarts(given_spec, small, data):
    rows_max = small if given_spec["evict"] == "none" else 64 + small
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n = int(rng.integers(50, 250))
    keys = rng.integers(0, int(rows_max * rng.choice([1.2, 3, 10])) + 1, n).astype(np.uint64)
    pace = max(given_spec["ttl_s"], 1) * rng.choice([0.5, 2.0, 8.0]) / rows_max
    gaps = rng.exponential(pace, n) * (1 + 50 * (rng.random(n) < 0.02))
    times = (1_000_000 + np.cumsum(gaps)).astype(np.uint32)

    def run(cuts: list[int], cut_seed: int, *, disturbed: bool):
        chance = np.random.default_rng(cut_seed)
        table, present, full = make(rows_max=rows_max, **given_spec), [], 0
        for start, end in zip([0, *cuts], [*cuts, n], strict=True):
            slots = table.upsert(keys[start:end], times[start:end])
            table.touch(slots, times[start:end])
            present += (slots >= 0).tolist()
            if disturbed and chance.random() < 0.5:
                table.expire(int(chance.integers(0, int(times[end - 1]) + 1)), int(chance.integers(1, 50)))
            if disturbed and chance.random() < 0.2:
                full += table.stats.full
                table = restarted(table, cut_seed)
        return present, full + table.stats.full, table.digest(int(times[-1])), table.filter.state()

    one_by_one = run(list(range(1, n)), 0, disturbed=False)
    for cut_seed in (1, 2, 3):
        cuts = sorted(
            {*np.random.default_rng(seed + cut_seed).integers(1, n, n // (1 + 8 * cut_seed)).tolist()}
        )
        assert run(cuts, cut_seed, disturbed=False) == one_by_one
        assert run(cuts, cut_seed, disturbed=True) == one_by_one
    assert run([], 0, disturbed=False) == one_by_one


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 7, 60, 600])
def test_expired_rows_hold_no_place(batch):
    """One new id a second, each alive for 80 s, in room for 100: nobody is refused, whoever sweeps."""
    table = make(rows_max=100, ttl_s=80)
    for start in range(0, 6000, batch):
        ids = np.arange(start, start + batch)
        assert (table.upsert(ids, ids) >= 0).all()
    assert table.stats.full == 0


def test_refusals_are_those_of_a_list_of_living_rows():
    """Against a dict: refused while rows_max rows are alive at that second, and not a moment longer."""
    rng = np.random.default_rng(5)
    n, ttl_s, rows_max = 4000, 50, 40
    keys = rng.integers(0, 200, n)
    times = 1000 + np.cumsum(rng.integers(0, 3, n))
    table = make(rows_max=rows_max, ttl_s=ttl_s)
    seen: dict[int, int] = {}
    expected = []
    for key, time in zip(keys.tolist(), times.tolist(), strict=True):
        seen = {other: at for other, at in seen.items() if at + ttl_s >= time}
        if key in seen or len(seen) < rows_max:
            seen[key] = time
        expected.append(key in seen)
    present = np.concatenate(
        [table.upsert(*part) >= 0 for part in zip(np.split(keys, 80), np.split(times, 80), strict=True)]
    )
    assert present.tolist() == expected
    assert 0 < table.stats.full == expected.count(False)


@pytest.mark.slow
@pytest.mark.parametrize("evict", ["none", "least_recent", "least_frequent"])
def test_rows_that_expire_unswept_never_use_up_the_slots(evict):
    """New ids expire again and again with no call of `expire`: memory stays within the slots there are."""
    table = make(rows_max=2000, ttl_s=10, evict=evict)
    with mock.patch.object(table_module, "BATCH_MAX", 1000):
        for step in range(100):  # each slot is used some thirty times
            slots = table.upsert(np.arange(step * 1000, (step + 1) * 1000), 100 + 11 * step)
            assert (slots >= 0).all()
    assert table.stats.full == 0
    assert table.slots_used < 2000 * 1.25 + 1000 * 1.125


@pytest.mark.parametrize("evict", ["none", "least_recent"])
def test_all_rows_expire_at_once_and_as_many_new_ones_come(evict):
    table = make(rows_max=10_000, ttl_s=100, evict=evict)
    for start in range(0, 9000, 500):
        table.upsert(np.arange(start, start + 500), 1000)
    for start in range(0, 9000, 100):
        assert (table.upsert(np.arange(100_000 + start, 100_100 + start), 1101) >= 0).all()
    assert table.slots_used < 10_000 * 1.25 + 1000
    assert len(table.items(1101)[0]) == 9000


def test_deleting_makes_room_and_a_row_put_back_takes_it():
    table = make(rows_max=3, ttl_s=10)
    table.upsert([1, 2, 3], 5)
    rows = table.export([1])[0]
    assert table.upsert([4], 6).tolist() == [-1]
    table.delete([1])
    assert table.upsert([4], 6)[0] >= 0
    table.delete([4])
    table.load([1], rows)
    assert table.upsert([4], 6).tolist() == [-1]
    table.load([1], rows)  # over itself
    assert table.upsert([4], 15).tolist() == [-1]  # at 15 all three are in their last second
    assert table.upsert([4], 16)[0] >= 0


@pytest.mark.parametrize("settings", [{"ttl_s": 5}, {"evict": "least_recent"}])
def test_batch_beyond_the_spare_slots_is_refused(settings):
    table = make(rows_max=100, **settings)
    with (
        mock.patch.object(table_module, "BATCH_MAX", 1000),
        pytest.raises(TableInputError, match="1001 sightings"),
    ):
        table.upsert(np.arange(1001), 0)


@pytest.mark.parametrize("evict", ["least_recent", "least_frequent"])
def test_counts_after_forgetting_do_not_depend_on_what_a_sweep_has_met(evict: Evict) -> None:
    """A table that has seen nothing for a time: its own clock is behind that of who forgets."""
    keys = np.arange(40, dtype=np.uint64)
    states = []
    for swept in (False, True):
        table = Table(TableSpec(dim=2, rows_max=64, evict=evict, ttl_s=50))
        table.upsert(keys, np.arange(100, 140, dtype=np.uint32))
        if swept:
            assert table.expire(170, 1_000) == 20
        table.forget(keys[10:30], 170)
        states.append((table.filter.words().tobytes(), table.digest(170)))
    assert states[0] == states[1]

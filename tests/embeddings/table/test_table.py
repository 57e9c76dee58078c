"""The table: what it keeps, what it forgets, and that neither batches nor sweeps change either."""

import subprocess
import sys

import numpy as np
import pytest

from embeddings import Table, TableError, TableInputError, TableSpec, TableSpecError

EDGE_KEYS = np.array([0, 1, 2**63, 2**64 - 1, 2**64 - 2, 0xFFFFFFFF], dtype=np.uint64)


def make(**settings) -> Table:
    return Table(TableSpec(**{"dim": 3, "rows_max": 10_000, **settings}))


def test_upsert_any_key_is_legal_and_has_a_row_of_its_own():
    table = make()
    slots = table.upsert(EDGE_KEYS, 5)
    assert len(set(slots.tolist())) == len(EDGE_KEYS)
    assert (slots >= 0).all()
    np.testing.assert_array_equal(table.find(EDGE_KEYS), slots)
    np.testing.assert_array_equal(table.last_seen(slots), 5)
    assert (table.counts(slots) == 0).all()


@pytest.mark.parametrize("key", EDGE_KEYS.tolist())
def test_find_unknown_key_in_empty_table_is_minus_one_and_inserts_nothing(key):
    table = make()
    assert table.find([key]).tolist() == [-1]
    assert len(table) == 0
    assert table.vectors(np.array([-1])).tolist() == [[0.0, 0.0, 0.0]]


def test_upsert_while_growing_keeps_every_key():
    table = make(rows_max=200_000, capacity_initial=1)
    keys = np.random.default_rng(0).integers(0, 2**64, 150_000, dtype=np.uint64)
    for part in np.array_split(keys, 40):
        table.upsert(part, 0)
    slots = table.find(keys)
    assert (slots >= 0).all()
    assert len(set(slots.tolist())) == len(keys) == len(table)
    known, at = table.items()
    np.testing.assert_array_equal(table.find(known), at)


def test_delete_many_and_reinsert_leaves_no_trace():
    table = make(rows_max=50_000, extra=2)
    keys = np.arange(40_000, dtype=np.uint64)
    fresh = table.digest(0)
    slots = table.upsert(keys, 9)
    table.apply_gradients(slots, np.ones((len(keys), 3)))
    table.set_extras(slots, np.ones((len(keys), 2)))
    table.touch(slots, 11)
    assert table.delete(keys) == len(keys)
    assert len(table) == 0
    assert table.digest(0) == fresh
    again = table.upsert(keys[:100], 3)
    assert (table.vectors(again) == 0).all()
    assert (table.extras(again) == 0).all()
    assert (table.counts(again) == 0).all()
    assert (table.last_seen(again) == 3).all()


@pytest.mark.parametrize("settings", [{}, {"ttl_s": 100}, {"evict": "least_recent"}], ids=str)
def test_delete_of_repeated_and_absent_keys_removes_each_row_once(settings):
    table = make(rows_max=20_000, **settings)
    keys = np.arange(10_000, dtype=np.uint64)
    table.upsert(keys, 9)
    table.drain_delta()
    rng = np.random.default_rng(1)
    gone = rng.integers(0, 15_000, 9_000).astype(np.uint64)  # absent ones and repeats, near and far
    there = np.unique(gone[gone < 10_000])
    assert table.delete(gone) == len(there) < len(np.unique(gone))
    assert table.delete(gone) == 0
    assert table.stats.deleted == len(there)
    np.testing.assert_array_equal(np.sort(table.drain_delta().deleted), there)
    stay = np.setdiff1d(keys, there)
    np.testing.assert_array_equal(np.sort(table.items()[0]), stay)
    assert (table.find(stay, 9) >= 0).all()
    assert (table.find(there, 9) < 0).all()
    slots = table.upsert(there, 9)
    assert len(np.unique(slots)) == len(there), "no slot was freed twice"
    assert len(table) == len(keys)


def test_upsert_beyond_rows_max_is_refused_and_counted():
    table = make(rows_max=10)
    slots = table.upsert(np.arange(12), 0)
    assert (slots >= 0).sum() == 10
    assert table.stats.full == 2
    table.delete([0, 1])
    assert (table.upsert([10, 11], 0) >= 0).all()


def test_new_row_depends_on_key_and_seed_alone():
    keys = np.arange(500, dtype=np.uint64)
    for init in ("uniform", "normal"):
        one = make(dim=8, init=init, init_scale=0.5, seed=7)
        two = make(dim=8, init=init, init_scale=0.5, seed=7, capacity_initial=5000)
        other = make(dim=8, init=init, init_scale=0.5, seed=8)
        a = one.vectors(one.upsert(keys, 0))
        b = two.vectors(two.upsert(keys[::-1], 4))[::-1]
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, other.vectors(other.upsert(keys, 0)))
        assert abs(float(a.mean())) < 0.05
    assert abs(float(a.std()) - 0.5) < 0.05


def test_apply_gradients_minus_one_is_skipped():
    table = make()
    slots = table.upsert([1, 2], 0)
    before = table.digest(0)
    table.apply_gradients(np.array([-1, -1]), np.ones((2, 3)))
    table.set_extras(np.array([-1]), np.ones((1, 0)))
    table.touch(np.array([-1]), 99)
    assert table.digest(0) == before
    assert len(slots) == 2


@pytest.mark.parametrize("ttl_s", [0, 15, 50])
@pytest.mark.parametrize("admit_after", [1, 3])
@pytest.mark.parametrize("rows_max", [40, 10_000])
def test_block_equals_slot_by_slot(ttl_s, admit_after, rows_max):
    rng = np.random.default_rng(2)
    settings = {"ttl_s": ttl_s, "admit_after": admit_after, "admit_age_s": 25, "rows_max": rows_max}
    plain, fast = make(init="normal", **settings), make(init="normal", **settings)
    for step in range(60):
        n = int(rng.integers(0, 200))
        keys = rng.zipf(1.3, n).astype(np.uint64)
        times = rng.integers(step * 20, step * 20 + rng.integers(1, 20), n)  # in no order within the batch
        gradients = rng.normal(size=(n, 3)).astype(np.float32)
        slots = plain.upsert(keys, times)
        block = fast.block(keys, times)
        np.testing.assert_array_equal(plain.vectors(slots), fast.spread(block))
        plain.apply_gradients(slots, gradients)
        fast.apply_block(block, gradients)
        assert plain.digest(0) == fast.digest(0)
        for one in (plain, fast):
            one.expire(step * 20, 30)
    assert plain.filter.state() == fast.filter.state()
    assert (np.sort(plain.drain_delta().touched) == np.sort(fast.drain_delta().touched)).all()
    assert plain.stats.inserted == fast.stats.inserted


def test_admission_kth_sighting_makes_the_row_within_and_across_batches():
    table = make(admit_after=3)
    assert table.upsert([7, 7, 8, 7, 7], 0).tolist() == [-1, -1, -1, 0, 0]
    assert table.upsert([8], 0).tolist() == [-1]
    assert table.upsert([8], 0).tolist() == [1]
    assert table.stats.refused == 4
    table.delete([7])
    assert table.upsert([7, 7, 7], 0)[:2].tolist() == [-1, -1]  # anew


def test_admission_old_sightings_do_not_count():
    table = make(admit_after=2, admit_age_s=10)
    assert table.upsert([1, 1], [100, 111]).tolist() == [-1, -1]
    assert table.upsert([1], [121]).tolist() == [0]


def test_admission_filter_is_bounded_and_forgets_the_longest_unseen():
    table = make(admit_after=2, admission_capacity=8)
    table.upsert(np.arange(9), np.arange(9))
    assert table.upsert([8], 10).tolist() == [0]
    assert table.upsert([0], 10).tolist() == [-1]


def test_filter_state_restores_the_counting():
    for incremental in (False, True):
        table, copy = make(admit_after=2), make(admit_after=2)
        table.upsert(np.arange(100), 0)
        if incremental:
            lines = table.take_changes()[2]
            copy.filter.restore_lines(lines, table.filter.words_of(lines))
            assert len(table.take_changes()[2]) == 0
        else:
            copy.filter.restore(table.filter.state())
        assert (copy.upsert(np.arange(100), 1) >= 0).all()
    with pytest.raises(TableInputError, match="admission_capacity"):
        make(admit_after=2, admission_capacity=64).filter.restore(table.filter.state())


def test_expired_row_is_never_read_swept_or_not():
    for swept in (False, True):
        table = make(ttl_s=100)
        slot = table.upsert([5], 1000)
        table.apply_gradients(slot, np.ones((1, 3)))
        assert table.find([5], 1100).tolist() == slot.tolist()
        assert table.find([5], 1101).tolist() == [-1]
        if swept:
            assert table.expire(1101, budget=10) == 1
        fresh = table.upsert([5], 1101)
        assert (table.vectors(fresh) == 0).all()
        assert table.drain_delta().deleted.tolist() == [5]
        assert table.stats.expired == 1


def test_expired_slot_still_held_by_the_batch_is_not_reused_in_it():
    table = make(ttl_s=100)
    first = table.upsert([5], 0)
    table.set_vectors(first, [[1, 2, 3]])
    slots = table.upsert([5, 5, 6], [50, 500, 500])  # the second sighting finds the first's row expired
    assert len(set(slots.tolist())) == 3
    np.testing.assert_array_equal(table.vectors(slots), [[1, 2, 3], [0, 0, 0], [0, 0, 0]])
    table.drain_delta()
    table.apply_gradients(slots[:1], np.ones((1, 3)))  # to a row that is gone: forgotten
    table.touch(slots[:1], 900)
    assert len(table.drain_delta().touched) == 0
    assert table.upsert([9], 500).tolist() == slots[:1].tolist()
    assert (table.vectors(slots[:1]) == 0).all()
    assert table.drain_delta().touched.tolist() == [9]


def test_expire_is_bounded_and_gets_around():
    table = make(ttl_s=10)
    table.upsert(np.arange(1000), 0)
    table.upsert(np.arange(5000, 5100), 100)
    assert table.expire(100, budget=300) == 300
    while len(table) > 100:
        assert table.expire(100, budget=300) <= 300
    assert table.expire(100, budget=5000) == 0


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"ttl_s": 40}, {"ttl_s": 40, "admit_after": 3}, {"admit_after": 2}])
def test_results_do_not_depend_on_how_the_stream_is_cut(settings):
    rng = np.random.default_rng(3)
    n = 3000
    keys = rng.zipf(1.2, n).astype(np.uint64)
    times = np.sort(rng.integers(0, 1000, n))
    gradients = rng.normal(size=(n, 3)).astype(np.float32)

    def run(cuts: list[int], sweep: bool) -> tuple[int, list[float]]:
        table, read = make(init="uniform", optimizer="sgd", **settings), []
        for start, end in zip([0, *cuts], [*cuts, n], strict=True):
            slots = table.upsert(keys[start:end], times[start:end])
            read.append(slots >= 0)
            for i in range(start, end):  # one gradient at a time: only the table's own cutting is compared
                table.apply_gradients(slots[i - start : i - start + 1], gradients[i : i + 1])
            table.touch(slots, times[start:end])
            if sweep:
                table.expire(int(times[end - 1]), budget=50)
        return table.digest(int(times[-1])), np.concatenate(read).tolist()

    whole = run([], False)
    assert run(list(range(1, n, 97)), False) == whole
    assert run(list(range(1, n, 7)), True) == whole


def test_drain_delta_each_key_once_and_rewritten_after_deletion():
    table = make()
    slots = table.upsert([1, 2, 3, 1], 0)
    table.touch(slots, 1)
    table.delete([2, 99])
    table.delete([3])
    table.upsert([3], 2)
    delta = table.drain_delta()
    assert sorted(delta.touched.tolist()) == [1, 3]
    assert delta.deleted.tolist() == [2, 3]
    again = table.drain_delta()
    assert len(again.touched) == len(again.deleted) == 0
    table.set_extras(table.find([1]), np.ones((1, 0)))
    assert table.drain_delta().touched.tolist() == [1]


def test_deltas_applied_to_a_copy_make_it_equal():
    rng = np.random.default_rng(4)
    table, copy = make(ttl_s=30, extra=2), make(ttl_s=30, extra=2)
    serving = Table(table.spec.serving())
    now = 0
    for _ in range(40):
        now += 5
        slots = table.upsert(rng.zipf(1.3, 200).astype(np.uint64), now)
        table.apply_gradients(slots, rng.normal(size=(200, 3)))
        table.touch(slots, now)
        table.expire(now, 40)
        delta = table.drain_delta()
        for replica, export in ((copy, table.export), (serving, table.export_serving)):
            replica.delete(delta.deleted)
            rows, found = export(delta.touched)
            assert found.all()
            replica.load(delta.touched, rows)
        assert copy.digest(now) == table.digest(now)
    keys, slots = table.items(now)
    np.testing.assert_array_equal(serving.vectors(serving.find(keys, now)), table.vectors(slots))
    np.testing.assert_array_equal(serving.counts(serving.find(keys, now)), table.counts(slots))


def test_export_and_load_keep_every_bit():
    table = make(extra=1)
    slots = table.upsert([1, 2], 0xFFC00001)  # as float bits these are a NaN with a payload
    table.touch(slots, 0xFFC00001, 0x7F800001)
    rows, found = table.export([1, 2, 3])
    assert found.tolist() == [True, True, False]
    copy = make(extra=1)
    copy.load([1, 2], rows[:2])
    assert copy.digest(0) == table.digest(0)
    assert copy.counts(copy.find([1])).tolist() == [0x7F800001]
    with pytest.raises(TableInputError, match="shape"):
        copy.load([1], rows[:1, :3])
    with pytest.raises(TableError, match="rows_max"):
        make(extra=1, rows_max=1).load([1, 2], rows[:2])


def test_digest_order_independent_and_sees_each_part():
    one, two = make(), make(capacity_initial=9000)
    one.upsert(np.arange(1000), 1)
    two.upsert(np.arange(1000)[::-1], 1)
    assert one.digest(1) == two.digest(1) != make().digest(1)
    two.touch(two.find([5]), 1)
    assert one.digest(1) != two.digest(1)
    assert 0 <= one.digest(1) < 2**64


def test_touch_later_time_wins_and_count_stops_at_its_limit():
    table = make()
    slots = table.upsert([1], 10)
    table.touch(slots, 5, 2**32 - 2)
    assert table.last_seen(slots).tolist() == [10]
    table.touch(slots, 20, 7)
    assert table.last_seen(slots).tolist() == [20]
    assert table.counts(slots).tolist() == [2**32 - 1]


def test_read_only_and_strided_arrays_are_taken():
    table = make()
    keys = np.frombuffer(np.arange(6, dtype=np.uint64).tobytes(), dtype=np.uint64)
    assert table.upsert(keys, 0).tolist() == list(range(6))
    assert table.find(keys[::2]).tolist() == [0, 2, 4]
    assert table.upsert(np.empty(0, dtype=np.uint64), 0).tolist() == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.upsert([1.5], 0), "integers"),
        (lambda t: t.upsert([[1]], 0), "shape"),
        (lambda t: t.upsert([1], -1), "seconds"),
        (lambda t: t.upsert([1], 1.7e12), "milliseconds"),
        (lambda t: t.upsert([1], float("nan")), "seconds"),
        (lambda t: t.upsert([1, 2], [1, 2, 3]), "times"),
        (lambda t: t.vectors(np.array([5])), "slots"),
        (lambda t: t.vectors(np.array([-2])), "slots"),
        (lambda t: t.apply_gradients(t.upsert([1], 0), np.ones((1, 4))), "gradients"),
        (lambda t: Table(t.spec.serving()).apply_gradients(np.array([-1]), np.ones((1, 3))), "serve"),
    ],
)
def test_misuse_is_told(call, message):
    with pytest.raises(TableError, match=message):
        call(make())


@pytest.mark.parametrize(
    "settings",
    [{"dim": -1}, {"optimizer": "adma"}, {"init": "x"}, {"admit_after": 0}, {"dim": 0}, {"ttl_s": -1}],
)
def test_spec_that_cannot_work_names_its_setting(settings):
    with pytest.raises(TableSpecError, match=next(iter(settings))):
        TableSpec(**settings)


def test_import_is_light():
    code = "import sys, embeddings; from embeddings import TableSpec; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pages_cover_every_row_once_and_skip_freed_slots() -> None:
    table = Table(TableSpec(dim=2, init="normal", rows_max=1000))
    keys = np.arange(100, dtype=np.uint64)
    table.upsert(keys, 5)
    table.delete(keys[10:20])
    found: dict[int, bytes] = {}
    for first in range(0, table.slots_used, 7):
        page_keys, rows = table.page(first, 7)
        for key, row in zip(page_keys.tolist(), rows, strict=True):
            assert key not in found
            found[key] = row.tobytes()
    expected_keys = np.concatenate([keys[:10], keys[20:]])
    expected, _ = table.export(expected_keys)
    assert found == {key: row.tobytes() for key, row in zip(expected_keys.tolist(), expected, strict=True)}
    assert len(table.page(95, 100)[0]) == 5
    assert len(table.page(200, 10)[0]) == 0


def test_load_of_many_rows_takes_each_key_s_last_one_new_or_not() -> None:
    """More keys than are looked up ahead of writing, some there before, some twice, some new and twice."""
    rng = np.random.default_rng(0)
    table = Table(TableSpec(name="t", dim=1, optimizer="none", rows_max=4096))
    there = rng.integers(0, 1 << 64, 1500, dtype=np.uint64)
    table.load(there, np.zeros((1500, table.width), dtype=np.float32))
    keys = rng.choice(np.concatenate([there, rng.integers(0, 1 << 64, 1500, dtype=np.uint64)]), 5000)
    rows = rng.random((5000, table.width), dtype=np.float32)
    table.load(keys, rows)
    last = dict(zip(keys.tolist(), rows, strict=True))
    found, known = table.export(np.array(list(last), dtype=np.uint64))
    assert known.all() and np.array_equal(found, np.array(list(last.values())))
    assert len(table) == len(set(there.tolist()) | set(last))

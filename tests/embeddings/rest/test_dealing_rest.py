"""Rows at rest dealt out to other owners: as with all rows in memory. Followers hear of all that is gone."""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import Table, TableError, TableSpec
from embeddings.rest.changing import hold_whole, let_rest
from embeddings.rest.dealing import deal_rest, new_part
from embeddings.rest.snapshot import RestingSnapshot
from embeddings.rest.table import RestingTable
from embeddings.save.dealing import deal
from embeddings.save.entries import Sink, put_deleted
from embeddings.save.snapshot import TableSnapshot
from tests.helpers.depth import many
from tests.helpers.resting_tables import DictStore, Pair

Keys = npt.NDArray[np.uint64]
MEMORY_ROWS = 4


def owner(parts: int, keys: Keys) -> npt.NDArray[np.int32]:
    return ((keys >> np.uint64(40)) % np.uint64(parts)).astype(np.int32)


def learn(pairs: list[Pair], keys: Keys, times: npt.NDArray[np.int64], seed: int) -> None:
    """Learn sightings, each at the owner of its key."""
    at = owner(len(pairs), keys)
    for number, pair in enumerate(pairs):
        if (at == number).any():
            pair.learn(keys[at == number], times[at == number], seed)


def dealt(pairs: list[Pair], parts: int, now: int) -> list[Pair]:
    """Deal both tables of some pairs, which have been committed, to others."""
    spec = pairs[0].spec
    news = [Pair(spec, MEMORY_ROWS) for _ in range(parts)]
    sources = [range(len(pairs))] * parts
    deal([pair.whole for pair in pairs], [new.whole for new in news], now, lambda k: owner(parts, k), sources)
    olds = []
    for pair in pairs:
        olds.append(RestingTable(spec, spec.rows_max))
        assert RestingSnapshot(olds[-1], pair.store, b"t/", "store").restore()
    made = [new_part(spec, b"t/", new.store) for new in news]
    counts = deal_rest(olds, made, now, lambda k: owner(parts, k), sources)
    followed = set().union(*(pair.followed for pair in pairs))
    for number, new in enumerate(news):
        assert new.open()
        assert counts[number] == len(new.whole)
        assert new.part.in_memory == 0
        keys = np.array(sorted(followed), dtype=np.uint64)
        new.followed = set(keys[owner(parts, keys) == number].tolist())
        new.same(now)
        whole = Table(spec)
        kept = TableSnapshot(whole, b"t/")
        store = new.store.view()
        assert hold_whole(kept, store, b"t/", "store", partial(commit, store))
        assert whole.digest(now) == new.whole.digest(now)
        assert new.followed - set(kept.gone.tolist()) == set(whole.items()[0].tolist())
    return news


def commit(store: DictStore, fill: Callable[[Sink], None]) -> None:
    fill(store)
    store.commit()


specs = st.fixed_dictionaries(
    {
        "ttl_s": st.sampled_from([0, 40, 200]),
        "tick_s": st.sampled_from([0, 16]),
        "evict": st.sampled_from(["none", "least_recent", "least_frequent"]),
        "admit_after": st.sampled_from([1, 2]),
        "rows_max": st.sampled_from([64, 100]),
    }
)


@pytest.mark.slow
@settings(max_examples=many(40), deadline=None)
@given(specs, st.lists(st.integers(1, 3), min_size=3, max_size=3), st.integers(0, 2**32 - 1))
def test_rows_that_rest_are_dealt_out_as_rows_in_memory(chosen, parts, seed):
    spec = TableSpec(dim=3, extra=2, init="normal", admission_capacity=64, **chosen)
    pairs = [Pair(spec, MEMORY_ROWS) for _ in range(parts[0])]
    rng = np.random.default_rng(seed)
    now = 1000
    for part in (*parts[1:], 0):
        for _ in range(int(rng.integers(1, 6))):
            for step in range(int(rng.integers(1, 6))):
                keys = np.minimum(rng.zipf(1.2, int(rng.integers(1, 40))), 300).astype(
                    np.uint64
                ) << np.uint64(40)
                times = now + np.sort(rng.integers(0, 20, len(keys)))
                learn(pairs, keys, times, step)
                now = int(times[-1])
            for pair in pairs:
                pair.commit(now)
        if part:
            pairs = dealt(pairs, part, now)
    for pair in pairs:
        for _ in range(3):  # each sweeps all of so few entries
            pair.commit(now)
        there = set().union(*(keys.tolist() for keys, _ in pair.part.pages()))
        assert pair.followed == there
        pair.same(now)


def test_a_table_whole_in_memory_is_dealt_out_with_one_that_rests():
    spec = TableSpec(dim=2, init="normal", extra=2, rows_max=100, evict="least_recent")
    pairs = [Pair(spec, MEMORY_ROWS) for _ in range(2)]
    keys = np.arange(30, dtype=np.uint64) << np.uint64(40)
    learn(pairs, keys, np.arange(100, 130), 1)
    for pair in pairs:
        pair.commit()
    news = [Table(spec) for _ in range(3)]
    everywhere = [range(2)] * 3
    deal([pair.whole for pair in pairs], news, 130, lambda k: owner(3, k), everywhere)
    stores = [DictStore() for _ in news]
    parts = [new_part(spec, b"t/", store) for store in stores]
    deal_rest([pairs[0].whole, pairs[1].part], parts, 130, lambda k: owner(3, k), everywhere)
    for new, store in zip(news, stores, strict=True):
        part = RestingTable(spec, 5)
        assert RestingSnapshot(part, store, b"t/", "store").restore()
        assert part.digest(130) == new.digest(130)


def test_one_owner_has_room_for_its_rows_only():
    spec = TableSpec(dim=1, rows_max=20)
    olds = [Pair(spec, MEMORY_ROWS) for _ in range(2)]
    learn(olds, np.arange(30, dtype=np.uint64) << np.uint64(40), np.full(30, 100), 1)
    for pair in olds:
        pair.commit()
    parts = [new_part(spec, b"t/", DictStore())]
    with pytest.raises(TableError, match="more than 20 rows for one owner, with rows_max 20: raise it"):
        deal_rest([pair.part for pair in olds], parts, 100, lambda k: owner(1, k), [range(2)])


def test_what_is_gone_is_reported_after_the_form_has_changed():
    """Rows that are gone have no place in a whole table, and what was to be reported is."""
    spec = TableSpec(dim=2, init="normal", extra=2, rows_max=64, evict="least_frequent")
    pair = Pair(spec, MEMORY_ROWS)
    for first, sightings in ((0, 3), (40, 3), (70, 3), (100, 1), (130, 1), (160, 1)):
        for key in range(first, first + 30):
            pair.learn(np.full(sightings, key, dtype=np.uint64), np.full(sightings, 100 + first), key)
        pair.commit(100 + first)

    pair.frozen = None
    put_deleted(pair.store, b"t/", np.array([7777], dtype=np.uint64))
    pair.store.commit()
    pair.followed.add(7777)
    for _ in range(2):
        whole = Table(spec)
        kept = TableSnapshot(whole, b"t/")
        assert hold_whole(kept, pair.store, b"t/", "store", partial(commit, pair.store))
        assert whole.digest(400) == pair.whole.digest(400)
        pair.part = RestingTable(spec, MEMORY_ROWS)
        pair.snapshot = RestingSnapshot(pair.part, pair.store, b"t/", "store")
        assert let_rest(pair.snapshot, pair.store, b"t/", "store", partial(commit, pair.store))
    pair.same(400)
    for _ in range(2):
        pair.commit(400)
    assert pair.followed == set(pair.whole.items(400)[0].tolist())

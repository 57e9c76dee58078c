"""The table against a dict, with blocks, eviction, forgetting and restarts; and ten million operations."""

import numpy as np
import pytest
from depth import many
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from embeddings import Table, TableSpec
from embeddings.save.snapshot import TableSnapshot

EDGES = [0, 1, 2, 3, 2**32, 2**63, 2**63 - 1, 2**64 - 2, 2**64 - 1]  # as int64: also -2**63, -2 and -1
KEYS = st.sampled_from(EDGES)
BATCH = st.lists(st.tuples(KEYS, st.integers(0, 15)), max_size=12)
ROWS_MAX = 64  # a generation of eviction is one sighting, so recency is exact


class Row:
    """What the table should know of an id."""

    def __init__(self, time: int, stamp: int) -> None:
        self.value, self.seen, self.count = 0.0, time, 0
        self.stamp, self.uses = stamp, 1


class Entries(dict[bytes, bytes]):
    """A key-value store for snapshots."""

    def put(self, key: bytes, value: bytes) -> None:
        self[key] = value

    def delete(self, key: bytes) -> None:
        self.pop(key, None)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys]


class Model:
    """The table's promises, one sighting at a time."""

    def __init__(self, ttl_s: int, admit_after: int, evict: str) -> None:
        self.ttl_s, self.admit_after, self.evict = ttl_s, admit_after, evict
        self.rows: dict[int, Row] = {}
        self.sightings: dict[int, int] = {}
        self.touched: set[int] = set()
        self.deleted: set[int] = set()
        self.pending: set[int] = set()  # evicted, not told yet
        # Evicted, made, and evicted again between two saves: the one deletion told may stand for both.
        self.doubtful: set[int] = set()
        self.optional: set[int] = set()  # of those, made again since: a deletion may be told
        self.clock = 0  # sightings so far
        self.made = ROWS_MAX

    def is_gone(self, key: int, now: int) -> bool:
        return bool(self.ttl_s) and self.rows[key].seen + self.ttl_s < now

    def drop(self, key: int) -> None:
        del self.rows[key]
        self.deleted.add(key)
        self.touched.discard(key)

    def see(self, key: int, time: int) -> Row | None:
        self._evict()
        self.clock += 1
        if key in self.rows and self.is_gone(key, time):
            self.drop(key)
        row = self.rows.get(key)
        if row is None:
            if key in self.pending:
                self.pending.discard(key)
                self.deleted.add(key)
            elif key in self.doubtful:
                self.doubtful.discard(key)
                self.optional.add(key)
            self.sightings[key] = self.sightings.get(key, 0) + 1
            if self.sightings[key] < self.admit_after:
                return None
            del self.sightings[key]
            row = self.rows[key] = Row(time, self.clock)
            self.made += 1
            self.touched.add(key)
            return row
        if (self.ttl_s and time > row.seen) or self.evict != "none":
            self.touched.add(key)
        if self.ttl_s:
            row.seen = max(row.seen, time)
        row.stamp, row.uses = self.clock, row.uses + 1
        return row

    def _evict(self) -> None:
        excess = len(self.rows) - (ROWS_MAX - 7)
        if self.evict == "none" or excess <= 6 or self.made < 6:
            return
        floor = self.clock + 1 - (4096 if self.evict == "least_recent" else 256) + 1
        uses = self.evict == "least_frequent"
        cells: dict[tuple[int, int], list[int]] = {}
        for key, row in self.rows.items():
            cells.setdefault((min(row.uses, 63) if uses else 0, max(row.stamp, floor)), []).append(key)
        for cell in sorted(cells):
            if excess <= 0:
                break
            for key in cells[cell]:
                del self.rows[key]
                self.touched.discard(key)
                self.pending.add(key)
                excess -= 1
        self.made = 0


class EvictingTableAgainstDict(RuleBasedStateMachine):
    """SGD at rate 1 keeps sums exact."""

    @initialize(
        ttl_s=st.sampled_from([0, 10]),
        admit_after=st.sampled_from([1, 3]),
        evict=st.sampled_from(["none", "least_recent", "least_frequent"]),
    )
    def begin(self, ttl_s: int, admit_after: int, evict: str) -> None:
        if evict != "none":
            ttl_s = 0
        self.spec = TableSpec(
            dim=1,
            optimizer="sgd",
            learning_rate=1.0,
            ttl_s=ttl_s,
            admit_after=admit_after,
            evict=evict,  # type: ignore[arg-type]
            rows_max=ROWS_MAX if evict != "none" else 5000,
            capacity_initial=1,
        )
        self.model = Model(ttl_s, admit_after, evict)
        self.now = self.fresh = 0
        self.entries = Entries()
        self.table = Table(self.spec)
        self.snapshot = TableSnapshot(self.table, b"t/")

    @rule(batch=BATCH, blocks=st.booleans(), flood=st.sampled_from([0, 0, 0, 5, 40, 150]))
    def learn(self, batch: list[tuple[int, int]], blocks: bool, flood: int) -> None:
        """Sight known ids, perhaps among many new ones, and give each sighting's row a gradient of 1."""
        batch = batch + [(1000 + self.fresh + i // 3, 0) for i in range(flood)]
        self.fresh += flood
        times = []
        for _, step in batch:
            self.now += step
            times.append(self.now)
        keys = np.array([key for key, _ in batch], dtype=np.uint64)
        if blocks:
            block = self.table.block(keys, times)
            slots = block.slots[block.inverse]
        else:
            slots = self.table.upsert(keys, times)
        owners = [self.model.see(key, time) for (key, _), time in zip(batch, times, strict=True)]
        assert (slots >= 0).tolist() == [owner is not None for owner in owners]
        if blocks:
            self.table.apply_block(block, np.ones((len(slots), 1)))
        else:
            self.table.apply_gradients(slots, np.ones((len(slots), 1)))
        self.table.touch(slots, times)
        for (key, _), owner, time in zip(batch, owners, times, strict=True):
            if owner is not None:
                owner.value -= 1
                owner.seen = max(owner.seen, time)
                owner.count += 1
                if self.model.rows.get(key) is owner:
                    self.model.touched.add(key)

    @rule(keys=st.lists(KEYS, max_size=5))
    def delete(self, keys: list[int]) -> None:
        self.table.delete(np.array(keys, dtype=np.uint64))
        for key in set(keys):
            if key in self.model.rows:
                self.model.drop(key)

    @rule(keys=st.lists(KEYS, max_size=3))
    def forget(self, keys: list[int]) -> None:
        self.table.forget(np.array(keys, dtype=np.uint64))
        for key in set(keys):
            if key in self.model.rows:
                self.model.drop(key)
            self.model.sightings.pop(key, None)
            self.model.pending.discard(key)
            self.model.doubtful.discard(key)
            self.model.deleted.add(key)

    @rule(budget=st.integers(1, 20))
    def expire(self, budget: int) -> None:
        if not self.model.ttl_s:
            return
        before = set(self.model.rows)
        self.table.expire(self.now, budget)
        kept = set(self.table.items()[0].tolist())
        for key in before - kept:
            assert self.model.is_gone(key, self.now)
            self.model.drop(key)

    @rule(restart=st.booleans())
    def save(self, restart: bool) -> None:
        """Save, and perhaps go on with a table that was made from what was saved."""
        changes = self.snapshot.save(self.entries)
        self.agree_on(set(changes.keys.tolist()), set(changes.deleted.tolist()))
        if restart:
            copy = Table(self.spec)
            snapshot = TableSnapshot(copy, b"t/")
            assert snapshot.restore(self.entries)
            assert copy.digest(self.now) == self.table.digest(self.now)
            assert copy.filter.state() == self.table.filter.state()
            self.table, self.snapshot = copy, snapshot

    def agree_on(self, touched: set[int], deleted: set[int]) -> None:
        model = self.model
        gone = model.pending | model.doubtful
        assert model.deleted <= deleted <= model.deleted | gone | model.optional
        assert touched - gone == model.touched
        model.doubtful = (model.doubtful - deleted) | (deleted & model.deleted & gone)
        model.pending -= deleted
        model.touched, model.deleted, model.optional = set(), set(), set()

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "model"):
            return
        # `items()` has what is not swept yet: of the evicted only `items(0)` is free.
        keys, slots = self.table.items(None if self.spec.evict == "none" else 0)
        values = zip(
            self.table.vectors(slots)[:, 0].tolist(),
            self.table.last_seen(slots).tolist(),
            self.table.counts(slots).tolist(),
            strict=True,
        )
        expected = {key: (row.value, row.seen, row.count) for key, row in self.model.rows.items()}
        assert dict(zip(keys.tolist(), values, strict=True)) == expected
        known = np.array(list(self.model.rows), dtype=np.uint64)
        gone = [self.model.is_gone(key, self.now) for key in self.model.rows]
        assert (self.table.find(known, self.now) < 0).tolist() == gone


EvictingTableAgainstDict.TestCase.settings = settings(
    max_examples=many(32), stateful_step_count=30, deadline=None
)
TestEvictingTableAgainstDict = pytest.mark.slow(EvictingTableAgainstDict.TestCase)


@pytest.mark.long
@pytest.mark.parametrize("blocks", [False, True])
def test_ten_million_operations_against_a_dict(blocks):
    """Half by `upsert`, half by `block`: sightings, gradients and deletions, with sweeps and restarts."""
    rng = np.random.default_rng(11)
    spec = TableSpec(
        dim=1,
        optimizer="sgd",
        learning_rate=1.0,
        ttl_s=3000,
        admit_after=2,
        admission_capacity=1 << 20,
        rows_max=100_000,
    )
    table, model = Table(spec), Model(3000, 2, "none")
    names = np.concatenate(
        [np.array(EDGES, dtype=np.uint64), rng.integers(0, 2**64, 50_000, dtype=np.uint64)]
    )
    now = operations = 0
    while operations < 5_000_000:
        keys = names[np.minimum(rng.zipf(1.1, 2000) - 1, len(names) - 1)]
        times = now + np.sort(rng.integers(0, 40, len(keys)))
        now = int(times[-1])
        if blocks:
            block = table.block(keys, times)
            slots = block.slots[block.inverse]
            table.apply_block(block, np.ones((len(keys), 1)))
        else:
            slots = table.upsert(keys, times)
            table.apply_gradients(slots, np.ones((len(keys), 1)))
        owners = [model.see(key, time) for key, time in zip(keys.tolist(), times.tolist(), strict=True)]
        assert (slots >= 0).tolist() == [owner is not None for owner in owners]
        for owner in owners:
            if owner is not None:
                owner.value -= 1
        lost = names[rng.integers(0, len(names), 20)]
        table.delete(lost)
        for key in lost.tolist():
            model.rows.pop(key, None)
        table.expire(now, 500)
        operations += 2 * len(keys) + len(lost)
        if rng.random() < 0.02:
            keys_now, at = table.items(now)
            assert dict(zip(keys_now.tolist(), table.vectors(at)[:, 0].tolist(), strict=True)) == {
                key: row.value for key, row in model.rows.items() if not model.is_gone(key, now)
            }
            copy, everything = Table(spec), table.items()[0]
            copy.load(everything, table.export(everything)[0])
            copy.filter.restore(table.filter.state())
            assert copy.digest(now) == table.digest(now)
            table = copy

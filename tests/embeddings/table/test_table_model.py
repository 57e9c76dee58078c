"""The table against a dict: any sequence of operations on few keys, so that they meet often.

Beside the table goes a copy that is fed by its deltas, and a store that takes its snapshots: pages of few
rows, so that bases are finished and begun, and restored from, in the middle of everything.
"""

import copy
from unittest import mock

import numpy as np
import pytest
from depth import many
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from embeddings import Table, TableSpec
from embeddings.save import snapshot as snapshot_module
from embeddings.save.delta import apply
from embeddings.save.snapshot import TableSnapshot

KEYS = st.sampled_from([0, 1, 2, 3, 2**32, 2**63, 2**64 - 2, 2**64 - 1])
BATCH = st.lists(st.tuples(KEYS, st.integers(0, 15)), min_size=1, max_size=12)


class Entries(dict[bytes, bytes]):
    """A store in memory."""

    def put(self, key: bytes, value: bytes) -> None:
        self[key] = value

    def delete(self, key: bytes) -> None:
        self.pop(key, None)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def delete_range(self, first: bytes, end: bytes) -> None:
        for key in [key for key in self if first <= key < end]:
            del self[key]


class TableAgainstDict(RuleBasedStateMachine):
    """A row of the model is [vector value, last seen, count]; SGD at rate 1 keeps sums exact."""

    @initialize(ttl_s=st.sampled_from([0, 10]), admit_after=st.sampled_from([1, 3]))
    def begin(self, ttl_s: int, admit_after: int) -> None:
        self.spec = TableSpec(
            dim=1,
            optimizer="sgd",
            learning_rate=1.0,
            ttl_s=ttl_s,
            admit_after=admit_after,
            admission_capacity=64,
            rows_max=64,
            capacity_initial=1,
        )
        self.table = Table(self.spec)
        self.follower = Table(self.spec)
        self.entries = Entries()
        self.snapshot = self.open_snapshot()
        self.ttl_s, self.admit_after = ttl_s, admit_after
        self.model: dict[int, list[float]] = {}
        self.sightings: dict[int, int] = {}
        self.touched: set[int] = set()
        self.deleted: set[int] = set()
        self.now = 0

    def forget(self, key: int) -> None:
        del self.model[key]
        self.deleted.add(key)
        self.touched.discard(key)

    def is_gone(self, key: int, now: int) -> bool:
        return bool(self.ttl_s) and self.model[key][1] + self.ttl_s < now

    @rule(batch=BATCH)
    def learn(self, batch: list[tuple[int, int]]) -> None:
        times = []
        for _, step in batch:
            self.now += step
            times.append(self.now)
        keys = np.array([key for key, _ in batch], dtype=np.uint64)
        slots = self.table.upsert(keys, times)
        owners: list[list[float] | None] = []
        for (key, _), time in zip(batch, times, strict=True):
            if key in self.model and self.is_gone(key, time):
                self.forget(key)
            if key not in self.model:
                self.sightings[key] = self.sightings.get(key, 0) + 1
                if self.sightings[key] >= self.admit_after:
                    del self.sightings[key]
                    self.model[key] = [0.0, time, 0]
                    self.touched.add(key)
            elif self.ttl_s:
                if time > self.model[key][1]:
                    self.touched.add(key)
                self.model[key][1] = max(self.model[key][1], time)
            owners.append(self.model.get(key))
        assert (slots >= 0).tolist() == [owner is not None for owner in owners]
        self.table.apply_gradients(slots, np.ones((len(slots), 1)))
        self.table.touch(slots, times)
        for (key, _), owner, time in zip(batch, owners, times, strict=True):
            if owner is not None:
                owner[0] -= 1
                owner[1] = max(owner[1], time)
                owner[2] += 1
                if self.model.get(key) is owner:
                    self.touched.add(key)

    @rule(keys=st.lists(KEYS, max_size=5))
    def delete(self, keys: list[int]) -> None:
        present = {key for key in keys if key in self.model}
        assert self.table.delete(np.array(keys, dtype=np.uint64)) == len(present)
        for key in present:
            self.forget(key)

    @rule(budget=st.integers(1, 20))
    def expire(self, budget: int) -> None:
        before = set(self.model)
        self.table.expire(self.now, budget)
        kept = set(self.table.items()[0].tolist())
        for key in before - kept:
            assert self.is_gone(key, self.now)
            self.forget(key)

    def open_snapshot(self) -> TableSnapshot:
        with mock.patch.object(snapshot_module, "PAGE_BYTES", 70):
            return TableSnapshot(self.table, b"t/")

    @rule(whole=st.booleans())
    def save(self, whole: bool) -> None:
        """The delta is what changed; a copy that takes it is the same, bit for bit."""
        with mock.patch.object(snapshot_module, "PAGE_BYTES", 70):
            if whole:
                changes = self.snapshot.save_base(self.entries)
                self.snapshot.save_whole(self.entries)
            else:
                changes = self.snapshot.save(self.entries)
        assert sorted(changes.keys.tolist()) == sorted(self.touched)
        assert sorted(changes.deleted.tolist()) == sorted(self.deleted)
        self.touched, self.deleted = set(), set()
        apply(self.follower, changes.whole("table"))
        assert self.follower.digest(0) == self.table.digest(0)
        assert self.follower.filter.state() == self.table.filter.state()
        self.restorable = copy.deepcopy((self.model, self.sightings, self.now))

    @precondition(lambda self: hasattr(self, "restorable"))
    @rule()
    def crash(self) -> None:
        """What was not saved is gone; the table, its admission filter and its snapshot go on from there."""
        self.table = Table(self.spec)
        self.snapshot = self.open_snapshot()
        with mock.patch.object(snapshot_module, "PAGE_BYTES", 70):
            assert self.snapshot.restore(self.entries)
        self.model, self.sightings, self.now = copy.deepcopy(self.restorable)
        self.touched, self.deleted = set(), set()
        assert self.table.digest(0) == self.follower.digest(0)
        assert self.table.filter.state() == self.follower.filter.state()

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "model"):
            return
        keys, slots = self.table.items()
        assert len(self.table) == len(keys)
        values = zip(
            self.table.vectors(slots)[:, 0].tolist(),
            self.table.last_seen(slots).tolist(),
            self.table.counts(slots).tolist(),
            strict=True,
        )
        assert dict(zip(keys.tolist(), map(list, values), strict=True)) == self.model
        for key in self.model:
            found = self.table.find(np.array([key], dtype=np.uint64), self.now)
            assert (found[0] >= 0) == (not self.is_gone(key, self.now))


TableAgainstDict.TestCase.settings = settings(max_examples=many(24), stateful_step_count=30, deadline=None)
TestTableAgainstDict = pytest.mark.slow(TableAgainstDict.TestCase)

"""Reading beside a thread that trains: every row whole, and of the key that was asked for."""

import threading
import time

import numpy as np
import pytest
from waiting import WAIT_S

from embeddings import Table, TableError, TableSpec
from embeddings.kernels import reading as module

DIM = 1024  # a row takes long to write and to read: a reader without protection meets half of one
KEYS = 32
REWRITES = 16  # of every row in one call: most of the time a row is being written
STEP = 1000  # a row of key k holds k + a multiple of STEP in every cell
EDGES = np.array([0, 2**64 - 1], dtype=np.uint64)


class Trainer:
    """A thread that writes all rows anew, again and again, deletes some, and lets their slots be reused."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rounds = 0
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        keys = np.arange(KEYS, dtype=np.uint64)
        wanted = (np.arange(REWRITES)[:, None] * STEP + np.arange(KEYS)).reshape(-1, 1)
        values = np.repeat(wanted, DIM, axis=1).astype(np.float32)
        gradients = np.full((KEYS, DIM), -STEP, dtype=np.float32)
        try:
            while not self._stop.is_set():
                self.rounds += 1
                self.table.delete((keys + np.uint64(self.rounds))[: KEYS // 4] % np.uint64(KEYS))
                slots = self.table.upsert(np.roll(keys, self.rounds), 0)  # so that slots go to other keys
                slots = np.roll(slots, -self.rounds)
                self.table.set_vectors(np.tile(slots, REWRITES), values)
                self.table.apply_gradients(slots, gradients)
                fresh = np.arange(KEYS, 2 * KEYS, dtype=np.uint64) + np.uint64(KEYS * self.rounds)
                self.table.upsert(fresh, 0)
                self.table.delete(fresh[: KEYS - self.rounds % 2])  # entries come, move and go
        except BaseException as error:
            self.error = error

    def __enter__(self) -> "Trainer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.error is None


def make() -> Table:
    table = Table(
        TableSpec(dim=DIM, optimizer="sgd", learning_rate=1.0, rows_max=100_000, capacity_initial=1),
        track_delta=False,
    )
    keys = np.arange(KEYS, dtype=np.uint64)
    table.set_vectors(table.upsert(keys, 0), keys[:, None] * np.ones((1, DIM)))
    return table


def damaged(keys: np.ndarray, vectors: np.ndarray, found: np.ndarray) -> int:
    """Rows that are torn, or another key's. A row without values yet is all zeros."""
    first = vectors[:, 0]
    torn = (vectors != first[:, None]).any(axis=1)
    foreign = found & (first != 0) & ((first - keys.astype(np.float32)) % STEP != 0)
    return int((torn | foreign).sum())


def test_read_beside_training_gives_whole_rows_of_their_keys():
    table = make()
    keys = np.arange(KEYS, dtype=np.uint64)
    with Trainer(table) as trainer:
        for _ in range(1000):
            vectors, found = table.read(keys)
            assert damaged(keys, vectors, found) == 0
        while trainer.rounds < 20:  # both compile at their first call
            vectors, found = table.read(keys)
            assert damaged(keys, vectors, found) == 0


def test_the_detector_sees_rows_that_are_read_without_protection():
    table = make()
    keys = np.arange(KEYS, dtype=np.uint64)

    def seen() -> int:
        slots = table.find(keys)
        return damaged(keys, table.vectors(slots), slots >= 0)

    with Trainer(table):
        end = time.monotonic() + WAIT_S
        while not (found := seen()) and time.monotonic() < end:
            pass
    assert found


def test_read_equals_find_and_vectors():
    rng = np.random.default_rng(0)
    table = Table(TableSpec(dim=5, ttl_s=50, rows_max=10_000, capacity_initial=1))
    known = rng.integers(0, 2**64, 3000, dtype=np.uint64)
    slots = table.upsert(known, rng.integers(0, 100, len(known)))
    table.set_vectors(slots, rng.normal(size=(len(known), 5)))
    asked = np.concatenate([known, rng.integers(0, 2**64, 500, dtype=np.uint64), EDGES])
    before = table.digest(0)
    for now in (0, 100, 1000):
        at = table.find(asked, now)
        vectors, found = table.read(asked, now)
        np.testing.assert_array_equal(found, at >= 0)
        np.testing.assert_array_equal(vectors, table.vectors(at))
    assert table.digest(0) == before
    empty, none = table.read([])
    assert empty.shape == (0, 5)
    assert none.shape == (0,)


def test_read_tells_when_a_writer_stopped_midway(monkeypatch):
    monkeypatch.setattr(module, "ROUNDS_MAX", 3)
    table = make()
    table.arrays.versions[:] = 1  # as if its thread had been stopped between begin_write and end_write
    with pytest.raises(TableError, match="stopped"):
        table.read([1])

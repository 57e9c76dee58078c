"""What holds for every optimizer, each against its formula in float64; and what only one of them has.

A new optimizer is found by itself; its formula has to be written in `FORMULAS`.
"""

import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from embeddings import Table, TableSpec
from embeddings.kernels.optimizers import STEPS
from embeddings.save.delta import DeltaReader, DeltaWriter
from embeddings.save.folder import SnapshotFolder
from embeddings.spec import Optimizer

DIM = 5
OPTIMIZERS = tuple(STEPS)
EVERY = pytest.mark.parametrize("name", OPTIMIZERS)
SETTINGS = {
    "sgd": {"learning_rate": 0.05},
    "adagrad": {"learning_rate": 0.1, "initial_accumulator": 0.01},
    "rowwise_adagrad": {"learning_rate": 0.1, "initial_accumulator": 0.01},
    "adam": {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.999},
    "ftrl": {"learning_rate": 0.1, "initial_accumulator": 0.1, "l1": 0.02, "l2": 0.05},
}


class Row:
    """One row that learns in float64."""

    def __init__(self, name, w, settings=None):
        self.w = np.array(w, dtype=np.float64)
        self._spec = TableSpec(**{**SETTINGS.get(name, {}), **(settings or {})})
        self.t, self.m, self.v = 0, np.zeros_like(self.w), np.zeros_like(self.w)
        self.a = np.full_like(self.w, self._spec.initial_accumulator)
        self.z = None
        self._formula = FORMULAS[name]

    def step(self, g):
        self._formula(self, self._spec, np.asarray(g, dtype=np.float64))


def sgd(row, spec, g):
    row.w -= spec.learning_rate * g


def adagrad(row, spec, g):
    row.a += g**2
    row.w -= spec.learning_rate * g / (np.sqrt(row.a) + 1e-10)


def rowwise_adagrad(row, spec, g):
    row.a += np.mean(g**2)
    row.w -= spec.learning_rate * g / (np.sqrt(row.a) + 1e-10)


def adam(row, spec, g):
    row.t += 1
    row.m = spec.beta1 * row.m + (1 - spec.beta1) * g
    row.v = spec.beta2 * row.v + (1 - spec.beta2) * g**2
    m, v = row.m / (1 - spec.beta1**row.t), row.v / (1 - spec.beta2**row.t)
    row.w -= spec.learning_rate * m / (np.sqrt(v) + 1e-8)


def ftrl(row, spec, g):
    def curvature():
        return (spec.ftrl_beta + np.sqrt(row.a)) / spec.learning_rate + spec.l2

    if row.z is None:  # the z whose weight is the row's first one
        row.z = -row.w * curvature() - np.sign(row.w) * spec.l1
    row.z += g - (np.sqrt(row.a + g**2) - np.sqrt(row.a)) / spec.learning_rate * row.w
    row.a += g**2
    row.w = -np.sign(row.z) * np.maximum(np.abs(row.z) - spec.l1, 0.0) / curvature()


FORMULAS: dict[str, Callable[..., None]] = {
    "sgd": sgd,
    "adagrad": adagrad,
    "rowwise_adagrad": rowwise_adagrad,
    "adam": adam,
    "ftrl": ftrl,
}


def table_of(name, dim=DIM, **settings):
    own = {"dim": dim, "optimizer": name, "init": "normal", "init_scale": 0.1, "rows_max": 1000, "extra": 2}
    return Table(TableSpec(**{**own, **SETTINGS.get(name, {}), **settings}))


def train(table, first=0, steps=20):
    """Some steps on ids that repeat, in batches of 30."""
    for step in range(first, first + steps):
        rng = np.random.default_rng(step)
        ids = rng.integers(0, 50, 30)
        gradients = rng.normal(size=(30, table.spec.dim)).astype(np.float32)
        table.apply_gradients(table.upsert(ids, 0), gradients)
    return table


def test_names_and_formulas_are_those_of_the_kernels():
    assert set(get_args(Optimizer)) == set(OPTIMIZERS) == set(FORMULAS), "write a new one's formula here"


# Against references


@pytest.mark.slow
@EVERY
def test_optimizer_equals_float64_over_1000_random_steps(name):
    rng = np.random.default_rng(5)
    table = table_of(name)
    rows: dict[int, Row] = {}
    for _ in range(1000):
        ids = rng.integers(0, 12, 8)  # repeats in nearly every batch
        gradients = rng.normal(0.1, 1.0, (8, DIM)).astype(np.float32)
        slots = table.upsert(ids, 0)
        for key, vector in zip(ids.tolist(), table.vectors(slots), strict=True):
            rows.setdefault(key, Row(name, vector))
        sums: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(DIM))
        for key, gradient in zip(ids.tolist(), gradients, strict=True):
            sums[key] += gradient
        for key, gradient in sums.items():
            rows[key].step(gradient)
        table.apply_gradients(slots, gradients)
    learnt = table.vectors(table.find(list(rows)))
    np.testing.assert_allclose(learnt, [row.w for row in rows.values()], rtol=1e-5, atol=1e-5)
    assert (table.extras(table.find(list(rows))) == 0).all()  # state stays within its columns
    assert (table.counts(table.find(list(rows))) == 0).all()


@EVERY
@pytest.mark.parametrize("dim", [1, 3, 8, 16, 17, 40])
def test_vectors_of_any_width_are_whole(name, dim):
    """Kernels step whole SIMD vectors of columns, and the rest of the row."""
    rng = np.random.default_rng(dim)
    table = table_of(name, dim)
    slots = table.upsert(np.arange(4), 0)
    rows = [Row(name, vector) for vector in table.vectors(slots)]
    for _ in range(50):
        gradients = rng.normal(size=(4, dim)).astype(np.float32)
        table.apply_gradients(slots, gradients)
        for row, gradient in zip(rows, gradients, strict=True):
            row.step(gradient)
    np.testing.assert_allclose(table.vectors(slots), [row.w for row in rows], rtol=1e-5, atol=1e-5)
    assert (table.extras(slots) == 0).all() and (table.counts(slots) == 0).all()


# What a step touches


@EVERY
def test_rows_without_a_gradient_keep_every_bit_and_are_in_no_delta(name):
    table = train(table_of(name))
    keys, slots = table.items()
    table.drain_delta()
    before = table.rows[: table.slots_used].copy()
    stepped = slots[::3]
    table.apply_gradients(np.append(stepped, -1), np.ones((len(stepped) + 1, DIM)))
    after = table.rows[: table.slots_used]
    others = np.setdiff1d(np.arange(table.slots_used), stepped)
    assert np.array_equal(before.view(np.uint32)[others], after.view(np.uint32)[others])
    assert (before[stepped, :DIM] != after[stepped, :DIM]).any(axis=1).all()
    assert sorted(table.drain_delta().touched.tolist()) == sorted(keys[::3].tolist())


@EVERY
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_gradient_that_is_not_finite_stays_in_its_row(name, wrong):
    table, clean = train(table_of(name)), train(table_of(name))
    gradients = np.random.default_rng(1).normal(size=(3, DIM))
    gradients[1] = wrong
    table.apply_gradients(table.find([1, 2, 3]), gradients)
    clean.apply_gradients(clean.find([1, 3]), gradients[[0, 2]])
    for one in (table, clean):
        one.delete([2])
    assert table.digest(0) == clean.digest(0)


@EVERY
def test_large_and_tiny_gradients_leave_numbers(name):
    table = table_of(name)
    slots = table.upsert([1, 2], 0)
    for size in (1e-40, 1e15, 1e-20, 1e15):
        table.apply_gradients(slots, np.full((2, DIM), size) * [[1.0], [-1.0]])
    assert np.isfinite(table.weights(slots)).all()


@EVERY
def test_zero_gradient_from_the_start_leaves_the_vector(name):
    table = table_of(name)
    slots = table.upsert([1, 2, 3], 0)
    before = table.vectors(slots)
    for _ in range(3):
        table.apply_gradients(slots, np.zeros((3, DIM)))
    np.testing.assert_allclose(table.vectors(slots), before, rtol=1e-6)


@EVERY
def test_empty_batch_changes_nothing(name):
    table = train(table_of(name))
    before = table.digest(0)
    table.apply_gradients(np.zeros(0, dtype=np.int64), np.zeros((0, DIM)))
    assert table.digest(0) == before


@EVERY
def test_reused_slot_learns_as_a_first_one_does(name):
    table, fresh = table_of(name), table_of(name)
    slots = table.upsert([1], 0)
    for _ in range(5):
        table.apply_gradients(slots, np.ones((1, DIM)))
    table.delete([1])
    again = table.upsert([2], 0)
    assert again.tolist() == slots.tolist()
    for one in (table, fresh):
        one.apply_gradients(one.upsert([2], 0), np.full((1, DIM), 0.3))
    assert table.digest(0) == fresh.digest(0)


@EVERY
def test_step_of_a_table_of_extras_alone_does_nothing(name):
    table = Table(TableSpec(dim=0, extra=2, optimizer=name, rows_max=100))
    slots = table.upsert([1], 0)
    table.apply_gradients(slots, np.empty((1, 0)))
    assert table.rows[slots].tolist() == [[0.0] * table.width]


# The same records give the same bits


@EVERY
def test_repeats_of_an_id_are_summed_exactly_and_stepped_once(name):
    rng = np.random.default_rng(6)
    once, often = table_of(name), table_of(name)
    gradients = rng.integers(-8, 9, (300, DIM)) / 16.0  # sums of these are exact in any order
    ids = rng.integers(0, 7, 300)
    often.apply_gradients(often.upsert(ids, 0), gradients)
    order = np.unique(ids)
    sums = np.stack([gradients[ids == key].sum(axis=0) for key in order])
    once.apply_gradients(once.upsert(order, 0), sums)
    assert once.digest(0) == often.digest(0)


@EVERY
def test_distinct_ids_learn_the_same_in_any_batches_and_any_order(name):
    rng = np.random.default_rng(8)
    whole, cut, turned = (table_of(name) for _ in range(3))
    ids = np.arange(200)
    for _ in range(5):
        gradients = rng.normal(size=(200, DIM)).astype(np.float32)
        whole.apply_gradients(whole.upsert(ids, 0), gradients)
        for part in np.split(ids, [1, 8, 100]):
            cut.apply_gradients(cut.upsert(part, 0), gradients[part])
        order = rng.permutation(200)
        turned.apply_gradients(turned.upsert(order, 0), gradients[order])
    assert whole.digest(0) == cut.digest(0) == turned.digest(0)


@EVERY
def test_tables_that_learn_beside_each_other_learn_as_one_alone(name):
    """Kernels release the GIL, and share nothing."""
    alone = train(table_of(name), steps=100).digest(0)
    tables = [table_of(name) for _ in range(3)]
    threads = [threading.Thread(target=train, args=(table, 0, 100)) for table in tables]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {table.digest(0) for table in tables} == {alone}


@EVERY
def test_saved_or_copied_table_learns_on_bit_for_bit(name, tmp_path: Path):
    table, copy = table_of(name), table_of(name)
    writer, reader = DeltaWriter(table), DeltaReader(copy)
    train(table)
    with SnapshotFolder(tmp_path / "s") as folder:
        folder.save(table)
        restored = folder.restore()
    assert reader.apply(writer.take())
    for one in (table, copy, restored):
        train(one, 20)
    assert table.digest(0) == copy.digest(0) == restored.digest(0)


# What one of them has


def test_adam_corrects_each_row_by_its_own_steps():
    table = table_of("adam")
    early = table.upsert([1], 0)
    for _ in range(2000):
        table.apply_gradients(early, np.ones((1, DIM)))
    late = table.upsert([2], 0)
    before = table.vectors(late)
    table.apply_gradients(late, np.full((1, DIM), 1e-3))
    np.testing.assert_allclose(before - table.vectors(late), 0.01, rtol=1e-4)  # one full first step


def test_adam_beyond_its_tabulated_steps_goes_on():
    table = table_of("adam", beta1=0.5, beta2=0.5)
    reference = Row("adam", np.zeros(DIM), {"beta1": 0.5, "beta2": 0.5})
    slots = table.upsert([1], 0)
    table.set_vectors(slots, np.zeros((1, DIM)))
    rng = np.random.default_rng(7)
    for _ in range(100):  # 0.5**25 is where the table ends
        gradient = rng.normal(size=DIM).astype(np.float32)
        table.apply_gradients(slots, gradient[None])
        reference.step(gradient)
    np.testing.assert_allclose(table.vectors(slots)[0], reference.w, rtol=1e-5, atol=1e-5)


def test_ftrl_leaves_weights_of_little_worth_at_zero():
    table = table_of("ftrl", l1=3.0)
    slots = table.upsert([1], 0)
    table.set_vectors(slots, np.zeros((1, DIM)))
    rng = np.random.default_rng(8)
    for _ in range(200):
        table.apply_gradients(slots, np.append([1.0], rng.choice([-0.1, 0.1], DIM - 1))[None])
    weights = table.vectors(slots)[0]
    assert weights[0] < -0.1
    assert (weights[1:] == 0.0).all()


def test_row_holds_only_what_its_optimizer_needs():
    widths = {name: TableSpec(dim=16, optimizer=name).width - 18 for name in [*OPTIMIZERS, "none"]}
    expected = {"sgd": 0, "adagrad": 16, "rowwise_adagrad": 1, "adam": 33, "ftrl": 32, "none": 0}
    assert widths == expected

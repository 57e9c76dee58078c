"""Each optimizer against itself written plainly in float64, one id at a time."""

from collections import defaultdict

import numpy as np
import pytest

from embeddings import Table, TableSpec

DIM = 5
OPTIMIZERS = ["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"]
SETTINGS = {
    "sgd": {"learning_rate": 0.05},
    "adagrad": {"learning_rate": 0.1, "initial_accumulator": 0.01},
    "rowwise_adagrad": {"learning_rate": 0.1, "initial_accumulator": 0.01},
    "adam": {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.999},
    "ftrl": {"learning_rate": 0.1, "initial_accumulator": 0.1, "l1": 0.02, "l2": 0.05},
}


class Reference:
    """One row that learns in float64."""

    def __init__(self, name, w, settings):
        self.name, self.w, self.s = name, np.array(w, dtype=np.float64), settings
        self.a = np.full(DIM, settings.get("initial_accumulator", 0.0))
        self.m, self.v, self.t = np.zeros(DIM), np.zeros(DIM), 0
        self.z = -self.w * self._curvature(self.a) - np.sign(self.w) * settings.get("l1", 0.0)

    def _curvature(self, n):
        return (1.0 + np.sqrt(n)) / self.s["learning_rate"] + self.s.get("l2", 0.0)

    def step(self, g):
        rate = self.s["learning_rate"]
        if self.name == "sgd":
            self.w -= rate * g
        elif self.name == "adagrad":
            self.a += g**2
            self.w -= rate * g / (np.sqrt(self.a) + 1e-10)
        elif self.name == "rowwise_adagrad":
            self.a += np.mean(g**2)
            self.w -= rate * g / (np.sqrt(self.a) + 1e-10)
        elif self.name == "adam":
            self.t += 1
            self.m = self.s["beta1"] * self.m + (1 - self.s["beta1"]) * g
            self.v = self.s["beta2"] * self.v + (1 - self.s["beta2"]) * g**2
            m, v = self.m / (1 - self.s["beta1"] ** self.t), self.v / (1 - self.s["beta2"] ** self.t)
            self.w -= rate * m / (np.sqrt(v) + 1e-8)
        else:
            self.z += g - (np.sqrt(self.a + g**2) - np.sqrt(self.a)) / rate * self.w
            self.a += g**2
            shrunk = np.sign(self.z) * np.maximum(np.abs(self.z) - self.s["l1"], 0.0)
            self.w = -shrunk / self._curvature(self.a)


def table_of(name, **settings):
    return Table(
        TableSpec(
            dim=DIM,
            optimizer=name,
            init="normal",
            init_scale=0.1,
            rows_max=1000,
            extra=2,
            **{**SETTINGS.get(name, {}), **settings},
        )
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_equals_float64_over_1000_random_steps(name):
    rng = np.random.default_rng(5)
    table = table_of(name)
    rows: dict[int, Reference] = {}
    for _ in range(1000):
        ids = rng.integers(0, 12, 8)  # repeats in nearly every batch
        gradients = rng.normal(0.1, 1.0, (8, DIM)).astype(np.float32)
        slots = table.upsert(ids, 0)
        for key, vector in zip(ids.tolist(), table.vectors(slots), strict=True):
            rows.setdefault(key, Reference(name, vector, SETTINGS[name]))
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


@pytest.mark.parametrize("name", OPTIMIZERS)
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


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zero_gradient_from_the_start_leaves_the_vector(name):
    table = table_of(name)
    slots = table.upsert([1, 2, 3], 0)
    before = table.vectors(slots)
    for _ in range(3):
        table.apply_gradients(slots, np.zeros((3, DIM)))
    np.testing.assert_allclose(table.vectors(slots), before, rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
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
    reference = Reference("adam", np.zeros(DIM), {"learning_rate": 0.01, "beta1": 0.5, "beta2": 0.5})
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


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_of_a_table_of_extras_alone_does_nothing(name):
    table = Table(TableSpec(dim=0, extra=2, optimizer=name, rows_max=100))
    slots = table.upsert([1], 0)
    table.apply_gradients(slots, np.empty((1, 0)))
    assert table.rows[slots].tolist() == [[0.0] * table.width]


def test_row_holds_only_what_its_optimizer_needs():
    widths = {name: TableSpec(dim=16, optimizer=name).width - 18 for name in [*OPTIMIZERS, "none"]}
    expected = {"sgd": 0, "adagrad": 16, "rowwise_adagrad": 1, "adam": 33, "ftrl": 32, "none": 0}
    assert widths == expected

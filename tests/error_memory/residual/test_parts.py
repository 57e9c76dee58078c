"""Each part of the error memory does what its docstring says: entities, neighbourhood, gate, decay."""

import numpy as np
import pytest

from error_memory import MemorySettings
from error_memory.baselines.neighbours import NeighbourMemory
from error_memory.residual import cells
from error_memory.residual.gate import IDLE, LEVELS, gain_at
from error_memory.residual.generations import make_generations, oldest_epoch
from error_memory.residual.levels import SCALES, SQUARES
from error_memory.residual.memory import ResidualMemory
from error_memory.saved import unpack
from ground.rows import rows_from_keys

OPEN = {"gate_bias": -20.0}  # a gate of 1, so that a correction can be seen whole


def keys_of(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.uint64).reshape(-1, 1)


def logit(p: float) -> float:
    return float(np.log(p / (1.0 - p)))


def sigmoid(z: float) -> float:
    return float(1.0 / (1.0 + np.exp(-z)))


# Entities: μ = b / (1/τ + L), one step of the filter


@pytest.mark.slow
def test_entity_after_one_label_is_one_step_of_the_filter() -> None:
    tau, p, y, x = 0.3, 0.2, 1.0, 1.0
    memory = ResidualMemory(MemorySettings(tau0=(tau,), **OPEN), 1)
    memory.observe(keys_of(7), [p], [y], 0)
    # By hand, in means and variances instead of natural parameters.
    damping = 1.0 / (1.0 + p * (1.0 - p) * tau * x * x)
    mean = tau * x * (y - p) * damping
    assert memory.correct(keys_of(7), [p])[0] == pytest.approx(sigmoid(logit(p) + mean), rel=1e-6)


def test_entity_that_the_base_knows_well_moves_less() -> None:
    def moved(x: float) -> float:
        memory = ResidualMemory(MemorySettings(**OPEN), 1)
        rows = rows_from_keys(keys_of(7))._replace(x=np.array([x], dtype=np.float32))
        for position in range(5):
            memory.observe(rows, [0.2], [1], position)
        return float(memory.correct(rows, [0.2])[0]) - 0.2

    assert moved(0.0) == 0.0
    assert 0.0 < moved(0.2) < 0.3 * moved(1.0)


def test_entities_of_a_row_share_what_it_says_by_their_variances() -> None:
    memory = ResidualMemory(MemorySettings(tau0=(0.4, 0.1), **OPEN), 2)
    memory.observe(np.array([[1, 1]], dtype=np.uint64), [0.5], [1], 0)
    alone = memory.correct(np.array([[1, 9], [9, 1]], dtype=np.uint64), [0.5, 0.5])
    strong, weak = (logit(float(p)) for p in alone)
    assert strong == pytest.approx(4.0 * weak, rel=0.02)


def poison(columns: int) -> tuple[float, float]:
    """(how far the mean prediction of any other item moved, the poisoned item's own prediction)."""
    rng = np.random.default_rng(0)
    taste = rng.normal(0.0, 0.5, 200)
    memory = ResidualMemory(MemorySettings(), columns)

    def rows(n: int, item: int | None = None) -> np.ndarray:
        items = rng.integers(0, 200, n) if item is None else np.full(n, item)
        keys = [rng.integers(0, 1000, n), items, rng.integers(0, 3, n)]
        return np.stack(keys[:columns], axis=1).astype(np.uint64)

    def show(keys: np.ndarray, y: np.ndarray, first: int) -> None:
        positions, requests = first + np.arange(len(y)), np.arange(len(y) + 1)
        memory.observe(keys, np.full(len(y), 0.1), y.astype(float), positions, requests)

    honest = rows(20_000)
    show(honest, rng.random(20_000) < 1 / (1 + np.exp(2.2 - taste[honest[:, 1].astype(int)])), 0)
    probe = rows(20_000)
    others = probe[probe[:, 1] != 7]
    base = np.full(len(others), 0.1)
    before = memory.correct(others, base)
    show(rows(10_000, item=7), np.ones(10_000), 20_000)
    moved = memory.correct(others, base) - before
    by_item = np.bincount(others[:, 1].astype(int), moved) / np.maximum(
        np.bincount(others[:, 1].astype(int)), 1
    )
    return float(np.abs(by_item).max()), float(memory.correct(rows(1, item=7), [0.1])[0])


@pytest.mark.parametrize("columns", [2, 3])
def test_poisoned_item_moves_no_other_item(columns: int) -> None:
    """10,000 false labels for one item, by a thousand people, on top of 20,000 honest ones."""
    moved, own = poison(columns)
    print(f"{columns} columns: the item most moved {moved:.4f}, the poisoned one to {own:.3f}")
    assert own > 0.9
    assert moved < 0.01


# One factor of all prior variances, θ ← clip(θ + 0.3 g/√G, -4, 0)


def test_variances_shrink_where_nothing_is_left_to_learn() -> None:
    def factor(taste: float) -> float:
        rng = np.random.default_rng(3)
        memory = ResidualMemory(MemorySettings(**OPEN), 2)
        keys = rng.integers(0, 300, (10_000, 2)).astype(np.uint64)
        logits = rng.normal(0.0, taste, 300)[keys[:, 0].astype(int)]
        y = (rng.random(10_000) < 1 / (1 + np.exp(1.0 - logits))).astype(float)
        memory.observe(keys, np.full(10_000, sigmoid(-1.0)), y, np.arange(10_000), np.arange(10_001))
        saved = unpack(memory.save(), memory.settings, memory.columns)
        return float(np.exp(np.nanmin(saved["small"][SCALES:SQUARES])))

    assert factor(0.0) < 0.5
    assert factor(1.5) > 0.8


# The table: as large as what it holds


def test_table_grows_without_losing_a_key_and_is_small_again_when_empty() -> None:
    rng = np.random.default_rng(4)
    gens = make_generations(2)
    gens.epoch[0], gens.weight[0] = 1, 1.0
    table = cells.make_cells(1 << 16, 2)
    small = int(table.size[0])
    held = {}
    for tag in rng.integers(1, 2**64, 3000, dtype=np.uint64):
        row, evicted = cells.claim(table, gens, tag, 0, np.uint32(oldest_epoch(gens)))
        assert evicted == 0
        held[tag] = float(np.float32(rng.normal())), float(np.float32(rng.random()))
        cells.settle(table, gens, row, 0, 0.0, 0.0, *held[tag], 1.0)
    assert table.size[0] > 4 * small
    for tag, (b, L) in held.items():
        assert cells.total(table, gens, cells.find(table, tag)) == (b, L, True)
    assert len(cells.live_rows(table, gens)) == len(held)
    gens.epoch[0] = 0
    cells.shrink(table)
    assert table.size[0] == small
    assert len(cells.live_rows(table, gens)) == 0


# Neighbourhood: softmax over cosine similarity


def test_neighbourhood_is_a_softmax_over_similarity() -> None:
    settings = MemorySettings(kind="neighbours", newest=64, nearest=8, lam=1.0, temperature=0.1)
    memory = NeighbourMemory(settings, 2)
    keys = np.array([[1, 1], [1, 2], [5, 6]], dtype=np.uint64)
    memory.observe(keys, [0.5, 0.5, 0.5], [1, 0, 0], 0)
    hashed = unpack(memory.save(), settings, 2)["h"]
    alike = hashed[:3] @ hashed[0]
    assert alike[0] == pytest.approx(1.0) and 0.3 < alike[1] < 0.8 and alike[2] < 0.3
    weight = np.exp((alike[:2].astype(float) - 1.0) / 0.1)
    assert memory.correct(keys[:1], [0.5])[0] == pytest.approx(weight[0] / weight.sum(), rel=1e-5)


def test_rows_that_share_nothing_are_no_neighbours() -> None:
    memory = NeighbourMemory(MemorySettings(kind="neighbours"), 1)
    memory.observe(keys_of(*range(50)), np.full(50, 0.5), np.ones(50), 0)
    strangers = memory.correct(keys_of(*range(1000, 1100)), np.full(100, 0.5))
    assert (strangers == 0.5).mean() > 0.5  # 64 signs of 50 others: a few look alike by chance
    assert (memory.correct(keys_of(*range(50)), np.full(50, 0.5)) > 0.6).all()


# Gate: D ← decay D + (1 - toll) logloss(z) - logloss(z + f), g = σ(D - bias)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_gate_falls_to_zero_on_noise_within_ten_thousand_examples(rate: float) -> None:
    rng = np.random.default_rng(1)
    memory = ResidualMemory(MemorySettings(), 3)
    keys = rng.integers(0, 2000, (10_000, 3)).astype(np.uint64)
    y = (rng.random(10_000) < rate).astype(float)
    memory.observe(keys, np.full(10_000, rate), y, np.arange(10_000), np.arange(10_001))
    print(f"click rate {rate}: gate {memory.gate:.4f}")
    assert memory.gate < 0.05


def test_gate_that_is_shut_leaves_the_base_nearly_alone() -> None:
    rng = np.random.default_rng(2)
    memory = ResidualMemory(MemorySettings(), 3)
    keys = rng.integers(0, 2000, (30_000, 3)).astype(np.uint64)
    y = (rng.random(30_000) < 0.2).astype(float)
    p = np.full(30_000, 0.2)
    out = memory.observe(keys, p, y, np.arange(30_000), np.arange(30_001))

    def logloss(q: np.ndarray) -> float:
        return float(-np.mean(y * np.log(q) + (1 - y) * np.log(1 - q)))

    assert abs(logloss(out) - logloss(p)) < 2e-4


def test_gate_opened_by_a_young_base_is_not_open_when_an_old_one_comes_to_stand_still() -> None:
    """A base that knows nothing, then knows all and follows, then stands still: it needs no correction."""
    rng = np.random.default_rng(5)
    memory = ResidualMemory(MemorySettings(), 1)
    logits = rng.normal(-1.5, 1.0, 50)
    position = 0

    def show(n: int, knows: bool) -> None:
        nonlocal position
        items = rng.integers(0, 50, n)
        y = (rng.random(n) < 1 / (1 + np.exp(-logits[items]))).astype(float)
        p = 1 / (1 + np.exp(-logits[items])) if knows else np.full(n, y.mean())
        memory.observe(keys_of(*items), p, y, position + np.arange(n), np.arange(n + 1))
        position += n

    for _ in range(4):
        show(1_000, knows=False)
        young = memory.gate
        memory.advance(position - 1)
    for _ in range(1_000):
        show(20, knows=True)
        memory.advance(position - 1)
    show(520, knows=True)
    assert young > 0.95
    assert memory.gate < 0.2


def test_gain_counts_for_less_the_longer_ago_it_was() -> None:
    gains, moved_at = np.full(LEVELS, np.nan), np.full(LEVELS, np.nan)
    assert gain_at(gains, moved_at, 0.0, 9) == 0.0
    gains[[7, 9]] = 2.0, 8.0
    moved_at[[7, 9]] = 1_000.0, 1_000.0
    assert gain_at(gains, moved_at, 1_000.0, 9) == 8.0
    assert gain_at(gains, moved_at, 1_000.0, 8) == 2.0  # never met: as the level below
    w = np.exp(-1.0)
    now = 1_000.0 + IDLE
    assert gain_at(gains, moved_at, now, 9) == pytest.approx(w * 8.0 + (1.0 - w) * w * 2.0)
    moved_at[7] = now
    assert gain_at(gains, moved_at, now, 9) == pytest.approx(w * 8.0 + (1.0 - w) * 2.0)


# Decay: w = 2^-(age / half life), by event time


def test_decay_halves_evidence_in_a_half_life() -> None:
    tau = 0.3
    memory = ResidualMemory(MemorySettings(tau0=(tau,), half_life_s=100.0, span=1, **OPEN), 2)
    seen, other = np.array([[1, 1]], dtype=np.uint64), np.array([[2, 2]], dtype=np.uint64)
    memory.observe(seen[:, :2], [0.5], [1], 0, times=0.0)
    fresh = logit(float(memory.correct(seen, [0.5])[0]))
    memory.observe(other, [0.5], [1], 1, times=100.0)
    faded = logit(float(memory.correct(seen, [0.5])[0]))
    # μ = b / (1/τ + L), each key's b and L halved. Two keys of variance τ: s² = 2 τ.
    damping = 1.0 / (1.0 + 0.25 * 2 * tau)
    mean, variance = tau * 0.5 * damping, tau - tau * tau * 0.25 * damping
    b, L = mean / variance, 1.0 / variance - 1.0 / tau
    assert fresh == pytest.approx(2 * mean, rel=1e-5)
    assert faded == pytest.approx(2 * (b / 2) / (1.0 / tau + L / 2), rel=1e-5)

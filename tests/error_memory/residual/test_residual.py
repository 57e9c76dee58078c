"""The residual memory: generations, gate, priors, decay, bounds."""

import doctest

import numpy as np
import pytest

import error_memory
from error_memory import MemoryInputError, MemorySettings
from error_memory.residual.kernels import correct_rows, observe_rows
from error_memory.residual.memory import ResidualMemory
from ground.rows import rows_from_keys


def keys_of(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.uint64).reshape(-1, 1)


def memory_of(**settings: object) -> ResidualMemory:
    return ResidualMemory(MemorySettings(**{"capacity": 4096, "span": 4, **settings}), 1)  # type: ignore[arg-type]


def test_package_example_runs():
    assert doctest.testmod(error_memory).failed == 0


def test_kernels_are_compiled_for_one_signature_whatever_is_passed():
    memory = memory_of()
    frozen = keys_of(1, 2)
    frozen.flags.writeable = False
    memory.observe(frozen, np.float32([0.5, 0.5]), [True, False], np.int32(0))
    memory.observe(keys_of(1, 2)[::-1], [0.5, 0.5], np.array([1, 0], np.int8), 1, times=3)
    memory.observe(rows_from_keys(frozen)._replace(x=np.ones(2)), (0.5, 0.5), [1.0, 0.0], [2], [0, 2], [3.0])
    memory.correct(frozen, [0.5, 0.5])
    memory.correct(np.array([[1], [2]], dtype=np.int32), np.float32([0.5, 0.5]))
    assert len(correct_rows.signatures) == len(observe_rows.signatures) == 1


def test_advance_drops_what_is_learnt_and_keeps_the_rest():
    memory = memory_of()
    for position in range(32):
        memory.observe(keys_of(1 if position < 16 else 2), [0.5], [1], position)
    memory.advance(15)
    old, new = memory.correct(keys_of(1, 2), [0.5, 0.5])
    assert old == 0.5
    assert new > 0.5
    assert memory.evidence == 16
    memory.advance(3)  # a late, lower watermark takes nothing back
    assert memory.evidence == 16


def test_live_base_a_few_requests_behind_leaves_only_those():
    memory = memory_of(span=64)
    for position in range(1000):
        memory.observe(keys_of(position % 7), [0.5], [1], position)
        if position % 5 == 4:
            memory.advance(position - 5)
            assert memory.evidence <= 15


def test_span_doubles_when_generations_run_out_and_evidence_is_kept():
    memory = memory_of()
    for position in range(4 * 8 * 16):
        memory.observe(keys_of(1), [0.5], [1], position)
    assert memory.counters["merges"] == 4
    assert memory.evidence == 4 * 8 * 16
    one = memory_of(span=1 << 30)
    for position in range(4 * 8 * 16):
        one.observe(keys_of(1), [0.5], [1], position)
    assert memory.correct(keys_of(1), [0.5])[0] == pytest.approx(one.correct(keys_of(1), [0.5])[0], abs=1e-4)


@pytest.mark.slow
def test_gate_closes_on_noise_and_opens_on_worth():
    rng = np.random.default_rng(0)
    noise, worth = memory_of(tau0=(1.0,)), memory_of()
    for position in range(4000):
        key = keys_of(int(rng.integers(500)))
        noise.observe(key, [0.2], [float(rng.random() < 0.2)], position)
        worth.observe(key, [0.2], [float(int(key[0, 0]) % 2)], position)
    assert noise.gate < 0.12 < 0.9 < worth.gate


def test_table_full_of_evidence_forgets_the_least():
    memory = memory_of(capacity=8)
    for position in range(300):
        memory.observe(keys_of(1), [0.5], [1], position)
    for position in range(300, 400):
        memory.observe(keys_of(position), [0.5], [0], position)
    assert memory.counters["evicted"] > 0
    assert memory.correct(keys_of(1), [0.5])[0] > 0.9


def test_row_wider_than_a_bucket_does_not_corrupt_it():
    memory = ResidualMemory(MemorySettings(capacity=8), 20)
    keys = np.arange(20, dtype=np.uint64).reshape(1, 20)
    for position in range(100):
        out = memory.observe(keys, [0.5], [1], position)
    assert 0.5 < out[0] <= 1.0


def test_inherited_priors_bound_the_correction():
    strict, free = memory_of(), memory_of()
    strict.set_priors([1e-4])
    free.set_priors([4.0])
    for memory in (strict, free):
        memory.observe(keys_of(1), [0.5], [1], 0)
    assert strict.correct(keys_of(1), [0.5])[0] < free.correct(keys_of(1), [0.5])[0]
    with pytest.raises(MemoryInputError, match="columns"):
        strict.set_priors([1.0, 1.0])
    with pytest.raises(MemoryInputError, match="above 0"):
        strict.set_priors([0.0])


def test_keys_forget_at_their_columns_pace():
    """After the world has turned, the column that keeps nine tenths at each sighting has turned with it."""
    said = []
    for keep in (1.0, 0.9):
        memory = memory_of()
        memory.set_priors([0.3], [keep])
        for position in range(400):
            memory.observe(keys_of(1), [0.5], [position < 300], position)
        said.append(memory.explain(keys_of(1), [0.5]).part[0])
    assert said[0] > 0.3 and said[1] < -0.5
    with pytest.raises(MemoryInputError, match="keep has shape"):
        memory_of().set_priors([0.3], [1.0, 1.0])
    with pytest.raises(MemoryInputError, match="at most 1"):
        memory_of().set_priors([0.3], [1.1])


def test_evidence_decays_in_event_time():
    memory = memory_of(half_life_s=100.0)
    for position in range(40):
        memory.observe(keys_of(1), [0.5], [1], position, times=float(position))
    fresh = memory.correct(keys_of(1), [0.5])[0]
    memory.observe(keys_of(2), [0.5], [1], 40, times=1000.0)
    faded = memory.correct(keys_of(1), [0.5])[0]
    memory.observe(keys_of(2), [0.5], [1], 41, times=100_000.0)
    assert 0.5 < faded < fresh
    assert memory.correct(keys_of(1), [0.5])[0] == 0.5
    with pytest.raises(MemoryInputError, match="times"):
        memory.observe(keys_of(1), [0.5], [1], 42)


def test_rare_clicks_are_not_pushed_down_by_unknown_keys():
    rng = np.random.default_rng(1)
    memory = ResidualMemory(MemorySettings(), 4)
    keys = rng.integers(0, 3000, (20_000, 4)).astype(np.uint64)
    y = (rng.random(20_000) < 0.03).astype(float)
    out = memory.observe(keys, np.full(20_000, 0.03), y, np.arange(20_000), np.arange(20_001))
    assert out.mean() == pytest.approx(y.mean(), rel=0.1)


def test_drifted_stream_is_followed_over_a_frozen_base():
    rng = np.random.default_rng(2)
    taste = rng.normal(0, 1, 200)
    item = rng.integers(0, 200, 20_000)
    y = (rng.random(20_000) < 1 / (1 + np.exp(-taste[item]))).astype(float)
    p = np.full(20_000, 0.5)
    out = ResidualMemory(MemorySettings(), 1).observe(
        item.reshape(-1, 1).astype(np.uint64), p, y, np.arange(20_000), np.arange(20_001)
    )
    half = slice(10_000, None)
    best = 1 / (1 + np.exp(-taste[item[half]]))

    def logloss(q: np.ndarray) -> float:
        return float(-np.mean(y[half] * np.log(q) + (1 - y[half]) * np.log(1 - q)))

    gained = logloss(p[half]) - logloss(out[half])
    assert gained > 0.9 * (logloss(p[half]) - logloss(best))

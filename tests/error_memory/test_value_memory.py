"""The error memory of numbers meets the mean of residuals, ages, fades and forgets."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from error_memory import ErrorMemory, MemoryInputError, MemorySettings, keys_of, make_memory

Floats = npt.NDArray[np.float64]
OPEN = MemorySettings(gate_bias=-20.0)  # the correction is applied whole
TEA = keys_of(["tea"])


def memory_of(settings: MemorySettings = OPEN, columns: int = 1) -> ErrorMemory:
    return make_memory(settings, columns, value=True)


def shown(memory: ErrorMemory, residuals: Floats, base: float = 1.5, noise: float = 1.0) -> Floats:
    """Observe one key, each row a request of its own; the corrections from before each."""
    n = len(residuals)
    each = np.arange(n + 1)
    keys = np.repeat(TEA, n, axis=0)
    p, weight = np.full(n, base), np.full(n, 1.0 / noise)
    return memory.observe(keys, p, base + residuals, each[1:], each, weight=weight) - base


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: 0.4 + rng.normal(0.0, 0.7, n),
        lambda rng, n: rng.gamma(0.5, 1.4, n) - 1.0,  # skewed, and of mean -0.3
        lambda rng, n: np.where(rng.random(n) < 0.1, 5.0, 0.0),
        lambda rng, n: np.full(n, -2.5),
    ],
    ids=["normal", "skewed", "rare", "far"],
)
def test_correction_is_the_mean_of_the_residuals(draw: Callable[..., Floats]) -> None:
    residuals = draw(np.random.default_rng(1), 3_000)
    memory = memory_of()
    shown(memory, residuals, noise=float(residuals.var()) or 1.0)
    moved = memory.correct(TEA, [-7.25])[0] + 7.25
    assert moved == pytest.approx(residuals.mean(), abs=0.02)
    assert memory.correct(keys_of(["milk"]), [0.1]).tolist() == [0.1]


def test_it_is_a_linear_model_with_normal_noise() -> None:
    """Beside the same filter written out: μ' = μ + x e P / (s² + r) for every key of a row."""
    rng = np.random.default_rng(2)
    tau, noise, n = 0.2, 0.6, 1_500
    truth = rng.normal(0.0, 0.4, (2, 6))
    ids = rng.integers(0, 6, (n, 2))
    y = truth[0][ids[:, 0]] + truth[1][ids[:, 1]] + rng.normal(0.0, noise**0.5, n)
    mean, variance = np.zeros((2, 6)), np.full((2, 6), tau)
    by_hand = np.empty(n)
    for i, (a, b) in enumerate(ids):
        at = (np.arange(2), np.array([a, b]))
        by_hand[i] = mean[at].sum()
        P = variance[at]
        gain = P / (P.sum() + noise)
        mean[at] += gain * (y[i] - by_hand[i])
        variance[at] -= gain * P
    memory = memory_of(MemorySettings(gate_bias=-20.0, tau0=(tau,)), 2)
    each = np.arange(n + 1)
    found = memory.observe(
        keys_of(ids[:, 0], ids[:, 1]), np.zeros(n), y, each[1:], each, weight=np.full(n, 1.0 / noise)
    )
    assert np.abs(found - by_hand)[100:].mean() < 0.02
    wrong = y - truth[0][ids[:, 0]] - truth[1][ids[:, 1]]
    assert ((y - found)[500:] ** 2).mean() < 1.02 * (wrong[500:] ** 2).mean()


def test_what_the_base_has_learned_is_dropped() -> None:
    memory = memory_of()
    shown(memory, np.full(500, 1.0))
    assert memory.evidence == 500
    memory.advance(250)
    assert 0 < memory.evidence < 500 and memory.correct(TEA, [0.0])[0] > 0.5
    memory.advance(500)
    assert memory.evidence == 0 and memory.correct(TEA, [3.3]).tolist() == [3.3]


def test_evidence_halves_in_event_time() -> None:
    memory = memory_of(MemorySettings(gate_bias=-20.0, half_life_s=100.0))
    for position in range(1, 401):
        memory.observe(TEA, [0.0], [1.0 if position <= 200 else -1.0], position, times=float(position))
    now = memory.correct(TEA, [0.0])[0]
    evenly = memory_of()
    shown(evenly, np.repeat([1.0, -1.0], 200))
    assert now < -0.4 and abs(evenly.correct(TEA, [0.0])[0]) < 0.1


@pytest.mark.parametrize("noise", [0.05, 1.0])
def test_gate_closes_on_noise_and_opens_where_the_base_is_off(noise: float) -> None:
    rng = np.random.default_rng(3)
    settings = MemorySettings()
    closed, opened = memory_of(settings), memory_of(settings)
    spread = rng.normal(0.0, noise**0.5, 6_000)
    shown(closed, spread, noise=noise)
    shown(opened, spread + 0.5, noise=noise)
    assert closed.gate < 0.15 and opened.gate > 0.95


def test_a_label_that_comes_late_ends_where_it_would_have_begun() -> None:
    at_once, later = memory_of(), memory_of()
    shown(at_once, np.full(400, 1.2))
    shown(later, np.zeros(400))
    n, each = 400, np.arange(401)
    corrected = later.observe(
        np.repeat(TEA, n, axis=0), np.zeros(n), np.full(n, 1.2), 400 + each[1:], each, before=np.zeros(n)
    )
    assert corrected[0] == pytest.approx(0.0, abs=0.01)
    assert later.correct(TEA, [0.0])[0] == pytest.approx(at_once.correct(TEA, [0.0])[0], abs=0.02)


def test_precision_decides_how_far_a_label_moves_and_none_moves_nothing() -> None:
    moved = []
    for weight in (0.0, 0.1, 1.0, 100.0):
        memory = memory_of()
        memory.observe(TEA, [0.0], [1.0], 1, weight=[weight])
        moved.append(float(memory.correct(TEA, [0.0])[0]))
    assert moved[0] == 0.0 and moved == sorted(moved) and moved[1] < 0.1 < moved[2] < 0.5 < moved[3] <= 1.0


def test_a_request_is_corrected_whole_before_it_is_learned() -> None:
    memory = memory_of()
    keys = keys_of(["tea"] * 3)
    assert memory.observe(keys, [0.0] * 3, [2.0] * 3, 1).tolist() == [0.0] * 3
    assert (memory.observe(keys, [0.0] * 3, [2.0] * 3, 2) > 0.3).all()


@pytest.mark.parametrize("kind", ["residual", "sketch", "neighbours", "none"])
def test_every_kind_explains_saves_and_forgets_numbers(kind: str) -> None:
    settings = MemorySettings(kind=kind, bits=4, newest=64, capacity=1024)  # type: ignore[arg-type]
    memory, other = memory_of(settings, 2), memory_of(settings, 2)
    keys = keys_of(["tea", "milk"], ["ann", "ann"])
    for position in range(1, 60):
        memory.observe(keys, [2.0, 0.5], [3.0, 0.2], position)
    corrected = memory.correct(keys, [2.0, 0.5])
    assert kind == "none" or (corrected[0] > 2.05 and abs(corrected[0] - 3.0) < 1.0)
    told = memory.explain(keys, [2.0, 0.5])
    assert told.z.tolist() == [2.0, 0.5] and told.p == pytest.approx(corrected, abs=1e-12)
    if kind == "residual":
        assert told.z + told.gate * told.part.reshape(2, 2).sum(axis=1) == pytest.approx(corrected)
        assert told.evidence[0] == pytest.approx(59.0, rel=0.5)
    other.load(memory.save())
    assert other.correct(keys, [2.0, 0.5]).tolist() == corrected.tolist()
    memory.forget([0, 1], [int(keys[0, 0]), int(keys[0, 1])])
    assert memory.correct(keys[:1], [2.0]).tolist() == [2.0] or kind == "none"
    assert memory.nbytes == other.nbytes and "ValueMemory around" in repr(memory)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"p": [np.nan]}, "p must be finite"),
        ({"y": [np.inf]}, "y must be finite"),
        ({"y": [1.0, 2.0]}, r"y has shape \(2,\), the rows need \(1,\)"),
        ({"weight": [-1.0]}, "weight must be finite and not negative"),
        ({"weight": [np.inf]}, "weight must be finite and not negative"),
        ({"weight": [1.0, 1.0]}, r"weight has shape \(2,\)"),
        ({"before": [0.0, 0.0]}, r"before has shape \(2,\)"),
    ],
)
def test_bad_numbers_are_refused_and_nothing_is_learned(wrong: dict[str, object], message: str) -> None:
    memory = memory_of()
    given: dict[str, object] = {"p": [0.0], "y": [1.0], "position": 1, **wrong}
    with pytest.raises(MemoryInputError, match=message):
        memory.observe(TEA, **given)  # type: ignore[arg-type]
    assert memory.evidence == 0

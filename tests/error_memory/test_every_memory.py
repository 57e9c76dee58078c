"""What holds for every kind of error memory."""

from itertools import pairwise

import numpy as np
import pytest

from error_memory import (
    ErrorMemory,
    MemoryInputError,
    MemorySettings,
    MemorySettingsError,
    MemoryStateError,
    make_memory,
)
from ground.rows import Rows, rows_from_keys

KINDS = ("residual", "sketch", "neighbours", "none")
HOLDING = ("residual", "sketch", "neighbours")


def memory_of(kind: str, **settings: object) -> ErrorMemory:
    small = {"capacity": 1024, "span": 8, "arrays": 8, "bits": 6, "newest": 128, "nearest": 16}
    return make_memory(MemorySettings(kind=kind, **{**small, **settings}), columns=3)  # type: ignore[arg-type]


def stream(requests: int = 200, seed: int = 0):
    """(keys (n, 3), p, y, offsets): slates of 1 to 4 candidates, clicks that depend on the item alone."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 5, requests))])
    n = int(offsets[-1])
    item = rng.integers(0, 20, n)
    keys = np.stack([rng.integers(0, 50, n), item, item % 5], axis=1).astype(np.uint64)
    y = (rng.random(n) < np.where(item % 2, 0.8, 0.1)).astype(float)
    return keys, rng.uniform(0.2, 0.6, n), y, offsets


def feed(memory: ErrorMemory, first: int = 0, seed: int = 0) -> np.ndarray:
    keys, p, y, offsets = stream(seed=seed)
    return memory.observe(keys, p, y, first + np.arange(len(offsets) - 1), offsets)


@pytest.mark.parametrize("kind", KINDS)
def test_correct_changes_nothing(kind):
    memory, keys = memory_of(kind), stream()[0]
    feed(memory)
    before = memory.save()
    p = np.full(len(keys), 0.3)
    first = memory.correct(keys, p)
    assert (first == memory.correct(keys, p)).all()
    assert memory.save() == before
    assert (p == 0.3).all()


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_memory_returns_base_bit_for_bit(kind):
    keys, p, _, _ = stream()
    assert (memory_of(kind).correct(keys, p) == p).all()


@pytest.mark.parametrize("kind", HOLDING)
def test_correction_lowers_log_loss_of_what_it_saw(kind):
    memory = memory_of(kind)
    for seed in range(5):
        feed(memory, 200 * seed, seed)
    keys, p, y, _ = stream(seed=9)
    corrected = memory.correct(keys, p)

    def logloss(q: np.ndarray) -> float:
        q = q.clip(1e-9, 1 - 1e-9)
        return float(-np.mean(y * np.log(q) + (1 - y) * np.log(1 - q)))

    assert logloss(corrected) < logloss(p) - 0.01
    assert ((corrected >= 0) & (corrected <= 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_batch_equals_one_by_one(kind):
    keys, p, y, offsets = stream()
    batch, single = memory_of(kind), memory_of(kind)
    together = batch.observe(keys, p, y, np.arange(len(offsets) - 1), offsets)
    apart = [single.observe(keys[a:b], p[a:b], y[a:b], r) for r, (a, b) in enumerate(pairwise(offsets))]
    assert (together == np.concatenate(apart)).all()
    assert batch.save() == single.save()


@pytest.mark.parametrize("kind", KINDS)
def test_request_is_corrected_whole_before_it_is_learnt(kind):
    keys = np.array([[1, 2, 3], [1, 2, 3]], dtype=np.uint64)
    memory = memory_of(kind)
    assert (memory.observe(keys, [0.3, 0.3], [1, 1], 0) == 0.3).all()


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_round_trip(kind):
    memory, other = memory_of(kind), memory_of(kind)
    feed(memory)
    memory.advance(90)
    other.load(memory.save())
    assert other.save() == memory.save()
    assert (feed(memory, 200, 1) == feed(other, 200, 1)).all()
    assert other.save() == memory.save()


@pytest.mark.parametrize("kind", KINDS)
def test_load_refuses_damage_and_other_settings(kind):
    memory = memory_of(kind)
    feed(memory)
    saved = memory.save()
    flipped = bytearray(saved)
    flipped[len(saved) // 2] ^= 1
    for bad in (b"", b"nonsense", bytes(flipped), saved[:-1]):
        with pytest.raises(MemoryStateError):
            memory.load(bad)
    with pytest.raises(MemoryStateError, match="span"):
        memory_of(kind, span=9).load(saved)
    assert memory.save() == saved


@pytest.mark.parametrize("kind", KINDS)
def test_same_stream_gives_same_state(kind):
    one, two = memory_of(kind), memory_of(kind)
    assert (feed(one) == feed(two)).all()
    assert one.save() == two.save()


@pytest.mark.parametrize("kind", HOLDING)
def test_advance_past_everything_empties(kind):
    memory = memory_of(kind)
    feed(memory)
    assert memory.evidence > 0
    memory.advance(199)
    assert memory.evidence == 0
    keys, p, _, _ = stream()
    assert (memory.correct(keys, p) == p).all()


@pytest.mark.parametrize("kind", KINDS)
def test_request_that_the_base_knows_is_not_learnt(kind):
    memory = memory_of(kind)
    memory.advance(10**6)
    feed(memory)
    assert memory.evidence == 0
    keys, p, _, _ = stream()
    assert (memory.correct(keys, p) == p).all()


@pytest.mark.parametrize("kind", KINDS)
def test_forgotten_key_corrects_like_one_never_seen(kind):
    memory, keys = memory_of(kind), stream()[0]
    feed(memory)
    gone = keys[0, 1]
    rows, never = keys[keys[:, 1] == gone].copy(), keys[keys[:, 1] == gone].copy()
    never[:, 1] = 999_999
    others = keys[keys[:, 1] != gone]
    base = np.full(len(keys), 0.3)
    before = memory.correct(others, base[: len(others)])
    assert kind != "residual" or gone in memory.candidates(1)
    memory.forget(1, [gone, 12345])
    assert gone not in memory.candidates(1)
    assert (memory.correct(rows, base[: len(rows)]) == memory.correct(never, base[: len(rows)])).all()
    after = memory.correct(others, base[: len(others)])
    assert (after == (base[: len(others)] if kind in ("sketch", "neighbours") else before)).all()
    feed(memory, first=1000)  # and it is learnt anew
    assert kind == "none" or (memory.correct(rows, base[: len(rows)]) != base[: len(rows)]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_bounded(kind):
    memory = memory_of(kind)
    before = memory.nbytes
    rng = np.random.default_rng(1)
    for r in range(30):
        keys = rng.integers(0, 2**63, (200, 3)).astype(np.uint64)
        memory.observe(keys, np.full(200, 0.4), rng.integers(0, 2, 200), r)
    assert memory.nbytes == before
    assert len(memory.save()) < before + 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_keys_and_probabilities_stay_finite(kind):
    memory = memory_of(kind)
    keys = np.array([[0, 2**64 - 1, 1], [2**64 - 1, 0, 0]], dtype=np.uint64)
    for r in range(50):
        out = memory.observe(keys, [0.0, 1.0], [1, 0], r)
        assert ((out >= 0) & (out <= 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_and_empty_rows_are_fine(kind):
    memory = memory_of(kind)
    assert len(memory.correct(np.zeros((0, 3), dtype=np.uint64), [])) == 0
    assert len(memory.observe(np.zeros((0, 3), dtype=np.uint64), [], [], 0)) == 0
    bare = Rows(np.zeros(3, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint64), np.zeros(0, np.float32))
    assert memory.observe(bare, [0.2, 0.3], [0, 1], 1).tolist() == [0.2, 0.3]


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused_and_nothing_is_learnt(kind):
    memory = memory_of(kind)
    feed(memory)
    before = memory.save()
    good = np.array([[1, 2, 3]], dtype=np.uint64)
    rows = rows_from_keys(good)
    for keys, p, y in (
        (good, [1.1], [1]),
        (good, [float("nan")], [1]),
        (good, [0.1, 0.2], [1]),
        (good, [0.1], [2]),
        (good, [0.1], [1, 0]),
        (good.astype(float), [0.1], [1]),
        (np.zeros((1, 4), dtype=np.uint64), [0.1], [1]),
        (rows._replace(column=np.array([0, 1, -1], dtype=np.int32)), [0.1], [1]),
        (rows._replace(start=np.array([0, 9])), [0.1], [1]),
        (rows._replace(x=rows.x[:1]), [0.1], [1]),
    ):
        with pytest.raises(MemoryInputError):
            memory.observe(keys, p, y, 300)
    with pytest.raises(MemoryInputError, match="requests"):
        memory.observe(good, [0.1], [1], 300, requests=[0, 2])
    with pytest.raises(MemoryInputError, match="position"):
        memory.observe(good, [0.1], [1], [300, 301])
    assert memory.save() == before


@pytest.mark.parametrize(
    "wrong",
    [{"capacity": 0}, {"generations": 1}, {"keep": (0.0,)}, {"tau0": ()}, {"lam": 2.0}, {"nearest": 10**6}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(MemorySettingsError, match=next(iter(wrong))):
        MemorySettings(**wrong)


def test_unknown_kind_is_refused():
    with pytest.raises(MemorySettingsError, match="residual"):
        make_memory(MemorySettings(kind="magic"), columns=1)  # type: ignore[arg-type]

"""Ids chosen to hurt: the table refuses none of them, and they take at most three times as long."""

import time

import numpy as np
import pytest
from costs import least_ratio

from embeddings import Table, TableSpec
from embeddings.core.positions import State

N = 100_000
_U = np.uint64
_INVERSE = [pow(m, -1, 2**64) for m in (0xC4CEB9FE1A85EC53, 0xFF51AFD7ED558CCD)]


def unmix(h: np.ndarray) -> np.ndarray:
    """The key of each hash: `ground.kernels.mixing.mix` backwards."""
    h = h ^ (h >> _U(33))
    for factor in _INVERSE:
        h = h * _U(factor)
        h = h ^ (h >> _U(33))
    return h


def same_bucket(salt: int) -> np.ndarray:
    """Ids whose hash under a salt agrees in the bits that choose the first bucket of up to 2¹⁵."""
    tags = (np.arange(N, dtype=np.uint64) << _U(15) | _U(0x2A55)) & _U(0xFFFFFFFF)
    low = np.random.default_rng(1).integers(0, 2**32, N, dtype=np.uint64)
    return unmix(tags << _U(32) | low) ^ _U(salt)


def seconds(keys: np.ndarray, salt: int | None = None) -> float:
    """Processor time for taking ids in, finding them and taking them out again."""
    table = Table(TableSpec(dim=4, rows_max=2 * N))
    if salt is not None:
        table.arrays.state[State.SALT] = salt
    began = time.thread_time()  # other processes' work does not count
    for part in np.array_split(keys, 50):
        slots = table.upsert(part, 0)
        assert (slots >= 0).all()
    assert (table.find(keys) >= 0).all()
    assert table.delete(keys) == len(keys)
    return time.thread_time() - began


def test_unmix_is_the_hash_backwards():
    from ground.kernels.mixing import mix

    keys = np.random.default_rng(2).integers(0, 2**64, 1000, dtype=np.uint64)
    assert unmix(np.array([mix(key) for key in keys], dtype=np.uint64)).tolist() == keys.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sequential", "negative", "powers", "high bits", "one bucket unsalted"])
def test_chosen_ids_take_at_most_three_times_as_long_as_random_ones(kind):
    n = np.arange(N, dtype=np.uint64)
    keys = {
        "sequential": n,
        "negative": ~n,
        "powers": n << _U(40),
        "high bits": n << _U(47),  # all that 64 bits hold of so many
        "one bucket unsalted": same_bucket(0),
    }[kind]
    random = np.random.default_rng(3).integers(0, 2**64, N, dtype=np.uint64)
    seconds(random[:1000])  # loads the kernels
    ratio = least_ratio(lambda: seconds(keys), lambda: seconds(random))
    print(f"{kind}: {ratio:.2f} times as long as random ids")
    assert len(np.unique(keys)) == N
    assert ratio < 3.0


def test_even_who_knows_the_salt_does_not_break_the_table():
    keys = same_bucket(12345)[:2000]
    random = np.random.default_rng(4).integers(0, 2**64, len(keys), dtype=np.uint64)
    ratio = least_ratio(lambda: seconds(keys, salt=12345), lambda: seconds(random, salt=12345))
    print(f"2,000 ids of one bucket, salt known: {ratio:.1f} times as long")

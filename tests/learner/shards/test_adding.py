"""Adding up what shards have learned: one maker's bits, the limits of the formula, and the order of ranks."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import TableSpec
from embeddings.spec import Optimizer
from learner.errors import ShardError
from learner.shards.adding import Learned, RowParts, add_changes, add_rows, decayed, mean
from learner.shards.dense import add_network
from learner.shards.messages import Unpacking, packed
from learner.shards.owners import BUCKETS, Owners

KEEPS = (1.0, 0.99, 0.9)


def parts_of(optimizer: Optimizer) -> RowParts:
    """Rows of three weights with as many speeds."""
    spec = TableSpec(dim=3, optimizer=optimizer, extra=6)
    return RowParts(spec, np.repeat(np.log(KEEPS), 2), np.zeros(6, dtype=np.int64))


def rows_of(
    rng: np.random.Generator, spec: TableSpec, n: int, count_from: int = 100
) -> npt.NDArray[np.float32]:
    """n rows; the last two columns are whole numbers."""
    rows = rng.normal(1.0, 0.2, (n, spec.width)).astype(np.float32)
    rows[:, spec.seen_column :].view(np.uint32)[:] = rng.integers(count_from, count_from + 90, (n, 2))
    return rows


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shards=st.integers(1, 5),
    optimizer=st.sampled_from(["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"]),
)
def test_a_row_that_one_shard_has_learned_is_as_that_shard_made_it(
    seed: int, shards: int, optimizer: Optimizer
) -> None:
    rng, parts = np.random.default_rng(seed), parts_of(optimizer)
    old = rows_of(rng, parts.spec, 30, count_from=0)
    learned = []
    for _ in range(shards):
        place = rng.permutation(30)[: rng.integers(0, 20)]
        sightings = rng.integers(0, 400, (len(place), 1)).astype(np.uint32)
        learned.append(Learned(place, rows_of(rng, parts.spec, len(place)), sightings))
    new, changed = add_rows(parts, old, learned)
    assert np.array_equal(changed, (new.view(np.uint32) != old.view(np.uint32)).any(axis=1))
    makers = np.bincount(np.concatenate([one.place for one in learned]), minlength=30)
    assert np.array_equal(new[makers == 0].view(np.uint32), old[makers == 0].view(np.uint32))
    for one in learned:
        alone = makers[one.place] == 1
        assert np.array_equal(new[one.place[alone]].view(np.uint32), one.rows[alone].view(np.uint32))
    assert np.isfinite(new[:, : parts.spec.seen_column]).all()
    assert np.array_equal(new.view(np.uint32), add_rows(parts, old, learned)[0].view(np.uint32))
    for number in np.flatnonzero(makers > 1)[:3]:
        at = [(one, int(np.flatnonzero(one.place == number)[0])) for one in learned if number in one.place]
        whole = new[:, parts.spec.seen_column :].view(np.uint32)[number].tolist()
        theirs = [one.rows[i, parts.spec.seen_column :].view(np.uint32).tolist() for one, i in at]
        first = old[number, parts.spec.seen_column :].view(np.uint32).tolist()
        assert whole[0] == max(first[0], *(seen for seen, _ in theirs))
        assert whole[1] == first[1] + sum(count - first[1] for _, count in theirs)
        moved = sum(one.rows[i, 0].astype(float) - old[number, 0] for one, i in at)
        assert new[number, 0] == pytest.approx(old[number, 0] + moved, rel=1e-5, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    keep=st.floats(0.5, 1.0), counts=st.lists(st.integers(0, 3000), min_size=1, max_size=6),
    old=st.floats(0.0, 50.0), gain=st.floats(0.01, 2.0),
)  # fmt: skip
def test_equal_gains_add_up_to_what_one_learner_has(
    keep: float, counts: list[int], old: float, gain: float
) -> None:
    def learned(n: int) -> float:
        kept = keep**n
        return kept * old + (gain * n if keep == 1.0 else gain * (1.0 - kept) / (1.0 - keep))

    logs = [n * np.log(keep) for n in counts]
    gains = [learned(n) - np.exp(log) * old for n, log in zip(counts, logs, strict=True)]
    arrays = (np.array([x]) for x in (old, sum(gains), sum(logs), sum(-np.expm1(log) for log in logs)))
    assert decayed(*arrays)[0] == pytest.approx(learned(sum(counts)), rel=1e-6, abs=1e-9)


def test_changes_and_means_keep_the_bits_of_a_single_maker() -> None:
    rng = np.random.default_rng(1)
    old, a, b = rng.normal(size=(3, 50))
    a[10:] = old[10:]
    b[:10] = old[:10]
    assert np.array_equal(add_changes(old, [a, b]), np.where(np.arange(50) < 10, a, b))
    one, two = rng.normal(size=(2, 50)).astype(np.float32)
    assert mean(one, [one, two], [0, 3]) is two
    assert np.allclose(mean(one, [one, two], [1, 3]), 0.25 * one + 0.75 * two)


@pytest.mark.parametrize(
    ("steps", "share"), [([8, 8], 2.0), ([20, 20], 1.6), ([0, 5, 3], 2.0), ([90, 70], 1.0)]
)
def test_a_network_moves_by_the_sum_of_few_steps_and_by_the_mean_of_many(
    steps: list[int], share: float
) -> None:
    rng = np.random.default_rng(3)
    old, *news = rng.normal(size=(1 + len(steps), 3, 20)).astype(np.float32)
    new = add_network(old, news, steps)
    average = np.average(news, axis=0, weights=steps)
    assert np.allclose(new[1:], average[1:], atol=1e-6)
    assert np.allclose(new[0], old[0] + share * (average[0] - old[0]), atol=1e-5)
    assert add_network(old, news, [0] * (len(steps) - 1) + [4]) is news[-1]


def test_buckets_are_shared_equally_and_neighbours_stay_together() -> None:
    keys = np.random.default_rng(2).integers(0, 1 << 63, 40_000).astype(np.uint64)
    for shards in (1, 2, 3, 7, 256):
        owners = Owners(shards)
        per_bucket = np.bincount(owners.of_bucket, minlength=shards)
        assert per_bucket.max() - per_bucket.min() <= 1 and per_bucket.sum() == BUCKETS
        assert (np.diff(owners.of_bucket) >= 0).all()
        order, bounds = owners.sort(keys)
        for rank in range(shards):
            mine = keys[order[bounds[rank] : bounds[rank + 1]]]
            assert (owners.of(mine) == rank).all()
        share = np.diff(bounds) * shards / len(keys)
        assert share.min() > 0.5 and share.max() < 1.6
    # the hash is fixed at birth: a state of today must be found tomorrow
    assert Owners(256).of(np.arange(6, dtype=np.uint64)).tolist() == FIXED


FIXED = [194, 189, 53, 216, 79, 31]


@pytest.mark.parametrize("shards", [0, -1, 257])
def test_a_number_of_shards_out_of_range_is_refused(shards: int) -> None:
    with pytest.raises(ShardError, match=f"1 to 256 shards, not {shards}"):
        Owners(shards)


def test_a_message_that_is_cut_off_or_too_long_is_refused() -> None:
    message = packed([np.arange(3, dtype=np.uint32), np.arange(2.0)])
    whole = Unpacking(message, 1)
    assert whole.take(np.uint32, 3).tolist() == [0, 1, 2]
    assert whole.take(np.float64, 2).tolist() == [0.0, 1.0]
    whole.end()
    for damaged in (message[:-8], message[:8], message[:0]):
        reading = Unpacking(damaged, 1)
        with pytest.raises(ShardError, match="message of shard 1 is cut off or damaged"):
            reading.take(np.uint32, 3)
            reading.take(np.float64, 2)
    longer = Unpacking(np.concatenate([message, message]), 2)
    longer.take(np.uint32, 3)
    with pytest.raises(ShardError, match="message of shard 2 is damaged: it has 64 bytes"):
        longer.end()

"""Admission against exact counts on a zipf stream: how many ids come in too early, or never."""

import numpy as np
import pytest

from embeddings import Table, TableError, TableSpec

pytestmark = pytest.mark.slow

IDS, SIGHTINGS = 200_000, 400_000


def zipf_stream(seed: int) -> np.ndarray:
    """Sightings of ids by a power law of exponent 1.05; each id is a random 64-bit number."""
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(np.arange(1, IDS + 1) ** -1.05)
    ranks = np.searchsorted(cumulative, rng.random(SIGHTINGS) * cumulative[-1])
    return rng.integers(0, 2**64, IDS, dtype=np.uint64)[ranks]


def make(**settings) -> Table:
    return Table(TableSpec(dim=1, rows_max=IDS, **settings))


def admitted_at(table: Table, keys: np.ndarray, times: np.ndarray) -> dict[int, int]:
    """Which sighting made each id's row."""
    made: dict[int, int] = {}
    for part in np.array_split(np.arange(len(keys)), 100):
        slots = table.upsert(keys[part], times[part])
        for i, slot in zip(part.tolist(), slots.tolist(), strict=True):
            if slot >= 0:
                made.setdefault(int(keys[i]), i)
    return made


def due_at(keys: np.ndarray, times: np.ndarray, admit_after: int, age_s: int) -> dict[int, int]:
    """The same by exact counts."""
    counts: dict[int, tuple[int, int]] = {}
    due: dict[int, int] = {}
    for i, (key, time) in enumerate(zip(keys.tolist(), times.tolist(), strict=True)):
        if key in due:
            continue
        count, seen = counts.get(key, (0, 0))
        count = count + 1 if count and (not age_s or seen + age_s >= time) else 1
        counts[key] = (count, time)
        if count >= admit_after:
            due[key] = i
    return due


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capacity", "age_s", "early_max", "refused_max"),
    [
        (1 << 17, 0, 1e-4, 0.001),  # room for every id that waits
        (1 << 17, 2000, 1e-4, 0.001),
        (1 << 14, 0, 1e-4, 0.4),  # room for one in three: what is long unseen is forgotten
        (1 << 14, 2000, 1e-4, 0.4),
    ],
)
def test_min_count_against_exact_counts(capacity, age_s, early_max, refused_max, record_property):
    keys = zipf_stream(1)
    times = np.arange(SIGHTINGS) // 40
    due = due_at(keys, times, 3, age_s)
    made = admitted_at(make(admit_after=3, admit_age_s=age_s, admission_capacity=capacity), keys, times)
    early = sum(1 for key, at in made.items() if at < due.get(key, SIGHTINGS)) / len(made)
    refused = sum(1 for key in due if key not in made) / len(due)
    record_property("wrongly_admitted", early)
    record_property("wrongly_refused", refused)
    waiting = len(np.unique(keys)) - len(due)
    print(
        f"capacity {capacity}, {waiting} ids that never get there, age {age_s} s: "
        f"admitted too early {early:.2e}, refused to the end {refused:.4f} of {len(due)}"
    )
    assert early <= early_max
    assert refused <= refused_max


def test_filter_takes_memory_by_its_capacity_alone():
    small, large = (make(admit_after=2, admission_capacity=c) for c in (1 << 10, 1 << 14))
    keys = zipf_stream(2)
    for table in (small, large):
        table.upsert(keys, 0)
    assert len(small.filter.state()) == (1 << 10) * 8
    assert len(large.filter.state()) == (1 << 14) * 8


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_chance_admits_each_sighting_with_its_probability(share, record_property):
    keys = zipf_stream(3)
    made = admitted_at(make(admit_share=share), keys, np.zeros(SIGHTINGS, dtype=np.int64))
    ids, counts = np.unique(keys, return_counts=True)
    admitted = np.array([int(key) in made for key in ids])
    expected = 1.0 - (1.0 - share) ** counts
    for low, high in ((1, 1), (2, 2), (3, 5), (6, 20)):
        among = (counts >= low) & (counts <= high)
        sigma = np.sqrt((expected * (1 - expected))[among].sum())
        assert abs(admitted[among].sum() - expected[among].sum()) < 4 * sigma
    print(f"share {share}: {admitted.mean():.4f} of the ids admitted, {expected.mean():.4f} expected")
    record_property("admitted", float(admitted.mean()))


def test_chance_does_not_depend_on_batches_and_is_restored():
    keys = zipf_stream(4)[:20_000]
    whole = make(admit_share=0.3)
    expected = whole.upsert(keys, 0) >= 0
    cut, blocks = make(admit_share=0.3), make(admit_share=0.3)
    found, fetched = [], []
    for part in np.array_split(keys, 37):
        found.append(cut.upsert(part, 0) >= 0)
        block = blocks.block(part, 0)
        fetched.append(block.slots[block.inverse] >= 0)
        copy = make(admit_share=0.3)
        copy.load(*_everything(cut))
        copy.filter.restore(cut.filter.state())
        cut = copy
    assert (np.concatenate(found) == expected).all()
    assert (np.concatenate(fetched) == expected).all()
    assert cut.digest(0) == blocks.digest(0) == whole.digest(0)


def _everything(table: Table) -> tuple[np.ndarray, np.ndarray]:
    keys, _ = table.items()
    return keys, table.export(keys)[0]


def test_two_ways_to_admit_are_refused():
    with pytest.raises(TableError, match="choose one"):
        make(admit_after=2, admit_share=0.5)


@pytest.mark.parametrize("settings", [{"admit_after": 3}, {"admit_share": 1e-6}, {"ttl_s": 50}])
def test_forget_leaves_nothing_of_an_id(settings):
    table = make(**settings)
    table.upsert([1, 1, 2, 2, 2], 5)
    table.drain_delta()
    before = table.filter.state()
    table.forget([1, 2, 99])
    assert table.find([1, 2, 99]).tolist() == [-1, -1, -1]
    _, deleted, lines = table.take_changes()
    assert deleted.tolist() == [1, 2, 99]  # copies may know ids that are gone here
    fresh = make(**settings)
    if settings.get("admit_after"):
        assert table.filter.state() == fresh.filter.state() != before
        assert len(lines) == 1
        assert (table.upsert([1, 1, 2, 2], 6) == -1).all()  # the counting, too, starts anew

"""Exposure equals what counting by hand gives, however the requests are cut."""

from collections import Counter

import numpy as np
import pytest

from learner.exposure import ItemExposure, RecentExposure


@pytest.mark.parametrize("seed", range(4))
def test_exposure_is_what_counting_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, 200)
    request = np.repeat(np.arange(200), sizes)
    time = np.repeat(np.sort(rng.uniform(0.0, 5 * 86_400.0, 200)), sizes)
    items = (rng.zipf(1.5, len(request)) % 40 + np.floor(time / 86_400.0) * 3).astype(np.uint64)
    p = rng.integers(0, 4, len(request)) / 4.0  # with ties
    exposure = ItemExposure(top=2)
    for cut in np.split(np.arange(len(request)), np.searchsorted(request, [30, 31, 120])):
        exposure.add(items[cut], request[cut], time[cut], p[cut])

    first: dict[int, float] = {}
    counts: Counter[int] = Counter(dict.fromkeys(items.tolist(), 0))
    young = aged = 0
    for r in range(200):
        rows = np.flatnonzero(request == r).tolist()
        for row in rows:
            first.setdefault(int(items[row]), time[row])
        for row in sorted(rows, key=lambda row: -p[row])[:2]:
            counts[int(items[row])] += 1
            if time[row] >= time[0] + 86_400.0:
                aged += 1
                young += time[row] - first[int(items[row])] < 86_400.0
    shown = np.array(list(counts.values()))
    apart = np.abs(shown[:, None] - shown[None]).mean()
    assert exposure.summary() == pytest.approx(
        {"coverage": (shown > 0).mean(), "gini": apart / (2 * shown.mean()), "young": young / aged}
    )


def test_order_as_shown_and_nothing_at_all() -> None:
    empty = ItemExposure(top=3)
    assert empty.summary() == {"coverage": None, "gini": None, "young": None}
    shown = ItemExposure(top=1)
    shown.add(np.array([5, 6], np.uint64), np.array([0, 0]), np.zeros(2), None)
    assert shown.summary() == {"coverage": 0.5, "gini": 0.5, "young": None}


@pytest.mark.parametrize("seed", range(4))
def test_recent_exposure_is_what_counting_gives(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.exposure.NEW_MAX", 7)
    rng = np.random.default_rng(seed)
    n, kept = 900, 250
    time = np.sort(rng.uniform(0.0, 5 * 86_400.0, n))
    items = (1 + rng.zipf(1.5, n) % 40 + np.floor(time / 86_400.0) * 3).astype(np.uint64)
    items[rng.random(n) < 0.1] = 0  # candidates without one
    weight = np.where(rng.random(n) < 0.5, 1.0, 4.0)
    exposure = RecentExposure(shown_max=kept)
    for cut in np.split(np.arange(n), [30, 31, 120, 500]):
        exposure.add(items[cut], time[cut], weight[cut])
    forgotten = items[items > 0][-1]
    exposure.forget(np.array([forgotten], dtype=np.uint64))

    first: dict[int, float] = {}
    rows = []
    for item, at, w in zip(items.tolist(), time.tolist(), weight.tolist(), strict=True):
        if item:
            first.setdefault(item, at)
            rows.append((item, w, at - first[item] < 86_400.0))
    rows = [row for row in rows[-kept:] if row[0] != forgotten]
    counts: Counter[int] = Counter()
    for item, w, _ in rows:
        counts[item] += w
    shown = np.array(list(counts.values()))
    apart = np.abs(shown[:, None] - shown[None]).mean()
    found = exposure.summary()
    assert (found.candidates, found.items) == (len(rows), len(counts))
    assert found.gini == pytest.approx(apart / (2 * shown.mean()))
    assert found.young == pytest.approx(
        sum(w for _, w, y in rows if y) / sum(w for _, w, _ in rows), abs=1e-6
    )


def test_nobody_knows_who_is_young_with_more_items_than_are_kept() -> None:
    exposure = RecentExposure(shown_max=50, items_max=100)
    for day in range(8):
        exposure.add(np.arange(1, 31, dtype=np.uint64) + day * 20, np.full(30, day * 86_400.0), np.ones(30))
        exposure.forget(np.zeros(0, dtype=np.uint64))  # counts the items
    summary = exposure.summary()
    assert (summary.candidates, summary.young) == (50, None)
    assert exposure.items_known == 100

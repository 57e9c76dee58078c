"""Exposure equals what counting by hand gives, however the requests are cut."""

from collections import Counter

import numpy as np
import pytest

from learner.exposure import ItemExposure


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

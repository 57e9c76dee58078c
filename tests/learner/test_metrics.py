"""Metrics against definitions written out plainly."""

import numpy as np
import pytest

from learner.metrics import Metrics, auc, gauc, summarize


def brute_auc(p: np.ndarray, y: np.ndarray) -> float:
    """The share of (positive, negative) pairs in the right order, ties half."""
    pos, neg = p[y == 1], p[y == 0]
    return float(np.mean((pos[:, None] > neg[None]) + 0.5 * (pos[:, None] == neg[None])))


def make(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions with ties, labels that follow them, users."""
    rng = np.random.default_rng(seed)
    p = np.round(rng.beta(1, 4, n), 2).clip(0.01, 0.99)
    y = (rng.random(n) < p).astype(float)
    return p, y, rng.integers(0, 20, n).astype(np.uint64)


def test_auc_is_the_share_of_ordered_pairs() -> None:
    p, y, _ = make(500)
    assert auc(p, y) == pytest.approx(brute_auc(p, y), abs=1e-12)


def test_gauc_is_the_users_auc_weighted_by_examples() -> None:
    p, y, group = make(800, seed=1)
    values, weights = [], []
    for g in np.unique(group):
        mine = group == g
        if 0 < y[mine].sum() < mine.sum():
            values.append(brute_auc(p[mine], y[mine]))
            weights.append(mine.sum())
    assert gauc(p, y, group) == pytest.approx(np.average(values, weights=weights), abs=1e-12)


def test_summary_of_one_class_has_no_auc() -> None:
    one = summarize(np.full(5, 0.3), np.zeros(5), np.zeros(5, dtype=np.uint64))
    assert one["auc"] is None and one["gauc"] is None and one["calibration"] is None
    assert one["logloss"] == pytest.approx(-np.log(0.7))
    assert summarize(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.uint64))["logloss"] is None


def test_calibrated_predictions_have_calibration_one_and_little_ece() -> None:
    p, y, group = make(200_000, seed=2)
    found = summarize(p, y, group)
    assert found["calibration"] == pytest.approx(1.0, abs=0.02)
    assert found["ece"] is not None and found["ece"] < 0.005
    assert found["normalized_entropy"] is not None and found["normalized_entropy"] < 1.0


@pytest.mark.parametrize("piece", [1, 7, 100, 5000])
def test_progressive_metrics_agree_with_exact_ones(piece: int) -> None:
    p, y, group = make(2500, seed=3)
    metrics = Metrics(window=1000)
    for at in range(0, len(p), piece):
        metrics.add(p[at : at + piece], y[at : at + piece], group[at : at + piece])
    whole, exact = metrics.summary(), summarize(p, y, group)
    assert whole["auc"] == pytest.approx(exact["auc"], abs=2e-4)
    for name in ("examples", "positives", "logloss", "calibration", "ece", "brier"):
        assert whole[name] == pytest.approx(exact[name]), name  # type: ignore[literal-required]
    recent = metrics.recent()
    last = summarize(p[-1000:], y[-1000:], group[-1000:])
    assert recent["auc"] == pytest.approx(last["auc"]) and recent["gauc"] == pytest.approx(last["gauc"])


def test_metrics_saved_and_loaded_go_on_as_before() -> None:
    p, y, group = make(1500, seed=4)
    whole, first = Metrics(window=400), Metrics(window=400)
    whole.add(p, y, group)
    first.add(p[:700], y[:700], group[:700])
    second = Metrics(window=400)
    second.load(first.state())
    second.add(p[700:], y[700:], group[700:])
    assert second.summary() == pytest.approx(whole.summary())
    assert second.recent() == pytest.approx(whole.recent())


@pytest.mark.parametrize("window", [100, 300, 1000])
@pytest.mark.parametrize("seen", [250, 700])
def test_recent_figures_are_of_examples_seen_when_the_window_has_changed(seen: int, window: int) -> None:
    p, y, group = make(seen + 40, seed=5)
    before, after, again = Metrics(window=300), Metrics(window=window), Metrics(window=window)
    before.add(p[:seen], y[:seen], group[:seen])
    after.load(before.state())
    held = min(seen, 300, window)
    assert after.recent() == pytest.approx(
        summarize(p[seen - held : seen], y[seen - held : seen], group[seen - held : seen])
    )
    after.add(p[seen:], y[seen:], group[seen:])
    again.load(after.state())
    first = max(seen - held, seen + 40 - window)
    assert again.recent() == pytest.approx(summarize(p[first:], y[first:], group[first:]))
    assert again.summary() == after.summary()

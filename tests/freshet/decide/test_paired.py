"""The paired bootstrap: its intervals hold the truth as often as they say, and pairing pays."""

import numpy as np
import pytest

from freshet.decide.paired import WeightedAuc, differences, resamples, slice_differences
from learner.metrics import auc, losses, summarize

LOGIT_SD = 1.0


def draw(rng: np.random.Generator, requests: int, slate: int) -> tuple[np.ndarray, ...]:
    """Requests of which some are harder, labels of their true odds, and two models that are off."""
    request = np.repeat(np.arange(requests), slate)
    hard = np.repeat(rng.normal(-1.0, LOGIT_SD, requests), slate)
    truth = hard + rng.normal(0.0, 0.5, len(request))
    y = (rng.random(len(request)) < 1.0 / (1.0 + np.exp(-truth))).astype(np.float64)
    first, other = (1.0 / (1.0 + np.exp(-(truth + rng.normal(0.0, sd, len(request))))) for sd in (0.5, 0.45))
    return request, y, first, other


@pytest.mark.slow
def test_intervals_hold_the_true_difference_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    _, y, p, q = draw(rng, 200_000, 3)
    true_loss = float((losses(q, y) - losses(p, y)).mean())
    true_auc = (auc(q, y) or 0.0) - (auc(p, y) or 0.0)
    hits = np.zeros(2)
    for run in range(120):
        request, y, p, q = draw(rng, 200, 3)
        told = differences(request, y, p, q, 150, run)
        assert told.auc is not None
        hits += [
            told.logloss.low <= true_loss <= told.logloss.high,
            told.auc.low <= true_auc <= told.auc.high,
        ]
    # 95 % of 120 runs are 114; with three standard deviations 107 to 120
    assert hits.min() >= 106, hits


def test_pairing_tells_apart_what_each_run_alone_could_not() -> None:
    request, y, p, q = draw(np.random.default_rng(2), 3000, 3)
    paired = differences(request, y, p, q, 200).logloss
    alone = [
        np.std([weight[request] @ losses(r, y) / weight[request].sum() for weight in resamples(3000, 200, 0)])
        for r in (p, q)
    ]
    assert (paired.high - paired.low) / 4.0 < 0.5 * float(np.hypot(*alone))


def test_same_predictions_differ_by_nothing_and_same_seed_gives_same_interval() -> None:
    request, y, p, q = draw(np.random.default_rng(3), 300, 2)
    same = differences(request, y, p, p, 50)
    assert same.logloss == (0.0, 0.0, 0.0)
    assert same.auc == (0.0, 0.0, 0.0)
    assert not same.logloss.decided
    assert differences(request, y, p, q, 50, 7) == differences(request, y, p, q, 50, 7)
    assert differences(request, y, p, q, 50, 7) != differences(request, y, p, q, 50, 8)


def test_difference_is_that_of_the_metrics_and_one_label_has_no_auc() -> None:
    request, y, p, q = draw(np.random.default_rng(4), 300, 2)
    told = differences(request, y, p, q, 20)
    a, b = (summarize(r, y, np.zeros(len(y), np.uint64)) for r in (p, q))
    assert (
        a["logloss"] is not None
        and b["logloss"] is not None
        and a["auc"] is not None
        and b["auc"] is not None
    )
    assert told.logloss.value == pytest.approx(b["logloss"] - a["logloss"], abs=1e-12)
    assert told.logloss_share.value == pytest.approx(b["logloss"] / a["logloss"] - 1.0, abs=1e-12)
    assert told.auc is not None and told.auc.value == pytest.approx(b["auc"] - a["auc"], abs=1e-12)
    assert differences(request, np.zeros(len(y)), p, q, 20).auc is None


def test_weighted_auc_is_that_of_rows_repeated() -> None:
    rng = np.random.default_rng(5)
    p, y = np.round(rng.random(200), 1), (rng.random(200) < 0.3).astype(np.float64)  # with ties
    weight = rng.integers(0, 4, 200)
    repeated = auc(np.repeat(p, weight), np.repeat(y, weight))
    assert WeightedAuc(p, y)(weight.astype(np.float64)) == pytest.approx(repeated, abs=1e-12)


def test_weights_are_poisson() -> None:
    weights = np.concatenate(list(resamples(5000, 20, 0)))
    assert weights.mean() == pytest.approx(1.0, abs=0.01)
    assert weights.var() == pytest.approx(1.0, abs=0.02)


def test_slice_in_which_the_other_is_better_is_found_and_no_other() -> None:
    rng = np.random.default_rng(6)
    request, y, p, _ = draw(rng, 4000, 3)
    where = rng.integers(-1, 3, len(y))
    q = np.where(where == 1, 0.5 * p + 0.5 * y, p * rng.uniform(0.98, 1.02, len(p)))
    told = slice_differences(request, y, p, q, where, 3, 100, 200)
    assert [part.sure for part in told] == [False, True, False]
    assert told[1].share.high < 0.0
    for s, part in enumerate(told):
        rows = where == s
        a, b = losses(p, y)[rows].mean(), losses(q, y)[rows].mean()
        assert part.examples == rows.sum()
        assert part.logloss == pytest.approx((a, b))
        assert part.share.value == pytest.approx(b / a - 1.0)

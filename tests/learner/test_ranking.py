"""Metrics of order: equal to scikit-learn's where it has them, and to the mean over the orders of ties."""

import itertools
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.metrics import summarize
from learner.ranking import rank_requests


@pytest.fixture(scope="module")
def metrics() -> ModuleType:
    """scikit-learn's. Imported when a test runs, for the collection would cost each process a second."""
    return import_module("sklearn.metrics")


@pytest.mark.slow
@settings(max_examples=many(100), deadline=None)
@given(seed=st.integers(0, 10**6), digits=st.sampled_from([0, 1, 9]), top=st.integers(1, 12))
def test_ndcg_is_that_of_scikit_learn_ties_included(
    metrics: ModuleType, seed: int, digits: int, top: int
) -> None:
    draw = np.random.default_rng(seed)
    request = draw.integers(0, 6, 40)
    p, y = draw.random(40).round(digits), (draw.random(40) < 0.3).astype(float)
    found = rank_requests(p, y, request, top)
    expected = {}
    for number in np.unique(request):
        mine = request == number
        if 0 < y[mine].sum() < mine.sum():
            expected[int(number)] = metrics.ndcg_score([y[mine]], [p[mine]], k=top)
    assert found.request.tolist() == list(expected)
    assert found.ndcg == pytest.approx(list(expected.values()), abs=1e-12)


@pytest.mark.slow
@settings(max_examples=many(50), deadline=None)
@given(seed=st.integers(0, 10**6), top=st.integers(1, 5))
def test_one_click_and_no_ties_are_scikit_learns_other_metrics(
    metrics: ModuleType, seed: int, top: int
) -> None:
    draw = np.random.default_rng(seed)
    p = draw.random((8, 6))
    clicked = draw.integers(0, 6, 8)
    y = np.eye(6)[clicked]
    found = rank_requests(p.ravel(), y.ravel(), np.repeat(np.arange(8), 6), top)
    assert found.reciprocal_rank.mean() == pytest.approx(metrics.label_ranking_average_precision_score(y, p))
    assert found.recall.mean() == pytest.approx(
        metrics.top_k_accuracy_score(clicked, p, k=top, labels=range(6))
    )


@settings(max_examples=many(50), deadline=None)
@given(
    y=st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=6),
    p=st.lists(st.sampled_from([0.1, 0.2]), min_size=6, max_size=6),
    top=st.integers(1, 6),
)
def test_ties_count_as_the_mean_over_their_orders(y: list[float], p: list[float], top: int) -> None:
    if not 0 < sum(y) < len(y):
        return
    p = p[: len(y)]
    found = rank_requests(np.array(p), np.array(y), np.zeros(len(y), np.int64), top)
    ranks, recalls = [], []
    for order in itertools.permutations(range(len(y))):
        ranked = [y[i] for i in sorted(order, key=lambda i: -p[i])]
        ranks.append(1.0 / (ranked.index(1.0) + 1))
        recalls.append(sum(ranked[:top]) / sum(y))
    assert found.reciprocal_rank[0] == pytest.approx(np.mean(ranks))
    assert found.recall[0] == pytest.approx(np.mean(recalls))


def test_requests_without_both_labels_say_nothing() -> None:
    p, y = np.array([0.5, 0.6, 0.7, 0.8]), np.array([1.0, 1.0, 0.0, 1.0])
    assert len(rank_requests(p, y, np.array([0, 0, 1, 2])).ndcg) == 0
    found = summarize(p, y, np.zeros(4, np.uint64), np.arange(4, dtype=np.uint64))
    assert (found["ndcg"], found["mrr"], found["recall"]) == (None, None, None)
    assert "ndcg" not in summarize(p, y, np.zeros(4, np.uint64))


def test_summary_has_the_means_over_requests() -> None:
    p = np.array([0.9, 0.1, 0.2, 0.3, 0.5])
    y = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
    request = np.array([7, 7, 9, 9, 9], dtype=np.uint64)
    found = summarize(p, y, np.zeros(5, np.uint64), request, top=2)
    assert found["mrr"] == pytest.approx((1.0 + 1.0 / 3.0) / 2.0)
    assert found["recall"] == pytest.approx(0.5) and found["ndcg"] == pytest.approx(0.5)

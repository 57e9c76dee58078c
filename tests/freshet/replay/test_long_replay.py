"""A long replay's predictions go to temporary files: the same numbers, in bounded memory."""

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from freshet.errors import ReplayError
from freshet.replay.baselines import Baselines
from freshet.replay.growing import WRITTEN_ROWS, Growing, partition, scratch
from freshet.replay.scored import Candidates, ScoredCandidates, Summaries
from learner.features.encoder import FeatureSpec
from learner.features.labelled import Labelled
from learner.model.model import Model
from learner.settings import LearnerSettings
from stream.records.types import Example

EXACT = "gauc", "request_auc", "ndcg", "mrr", "recall", "logloss", "brier", "ece", "calibration"


def candidates(rng: np.random.Generator, requests: int, first: int, users: int) -> Candidates:
    """Some requests of 1 to 5 candidates."""
    request = np.repeat(np.arange(first, first + requests, dtype=np.uint64), rng.integers(1, 6, requests))
    p = rng.beta(2.0, 5.0, len(request)).round(3)  # ties, too
    y = (rng.random(len(p)) < p).astype(np.float64)
    user = (request * np.uint64(2_654_435_761)) % np.uint64(users)
    return Candidates(p, np.sqrt(p), y, user, request.astype(np.float64), request, np.ones(len(p)))


@pytest.mark.parametrize("users", [1, 40, 3_000])
def test_metrics_of_many_candidates_are_those_of_few(users: int) -> None:
    rng = np.random.default_rng(users)
    short, long = ScoredCandidates(), ScoredCandidates(rows_max=700)
    for n in range(30):
        part = candidates(rng, 100, 100 * n, users)
        short.add(part)
        long.add(part)
    assert all(np.array_equal(a, b) for a, b in zip(short.arrays(), long.arrays(), strict=True))
    expected = Summaries(short.arrays(), top=2).report(window=1_000)
    found = Summaries(long.arrays(), top=2, rows_max=700).report(window=1_000)
    for name in ("base", "corrected"):
        for part_of in ("overall", "last_half"):
            one, other = expected[name][part_of], found[name][part_of]
            assert one["examples"] == other["examples"] and one["positives"] == other["positives"]
            # a single user's is the mean over parts of the stream
            exact = EXACT[1:] if users == 1 else EXACT
            assert [other[key] for key in exact] == pytest.approx([one[key] for key in exact], rel=1e-9)
            assert other["gauc"] == pytest.approx(one["gauc"], abs=0.01)
            assert other["auc"] == pytest.approx(one["auc"], abs=1e-4)
    for one, other in zip(expected["windows"], found["windows"], strict=True):
        assert (one["from_time"], one["to_time"]) == (other["from_time"], other["to_time"])


def test_baselines_of_many_candidates_are_those_of_few() -> None:
    features = {"user": FeatureSpec(kind="id"), "item": FeatureSpec(kind="id")}
    model = Model(features, LearnerSettings(deep="none"))
    rng = np.random.default_rng(3)
    short, long = Baselines(model), Baselines(model, rows_max=90)
    for n in range(12):
        examples = [
            Example(
                f"{n}-{k}", 100.0, 100.0, [{"item": int(item)} for item in rng.integers(0, 9, 3)],
                rng.integers(0, 2, 3).astype(float).tolist(), {"user": int(rng.integers(0, 5))}, late=k == 7,
            )
            for k in range(20)
        ]  # fmt: skip
        labelled = Labelled.of(model.encoder, examples)
        short.add(labelled)
        long.add(labelled)
    expected, found = short.predictions(), long.predictions()
    assert list(expected) == list(found) == ["rate", "rate of user", "rate of item"]
    for name, p in expected.items():
        assert len(p) == 12 * 19 * 3 and np.array_equal(p, found[name])


def test_memory_does_not_grow_with_the_stream() -> None:
    column = Growing(np.float64, rows_max=100_000)
    tracemalloc.start()
    for n in range(400):
        column.add(np.full(5_000, float(n)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * 8 * 100_000 + 4 * 8 * WRITTEN_ROWS < column.rows * 8
    assert column.array()[::5_000].tolist() == list(map(float, range(400)))
    column.add(np.full(1, -1.0))  # it goes on after it was read
    assert column.array()[-2:].tolist() == [399.0, -1.0]


def test_each_key_is_in_one_part() -> None:
    keys = np.random.default_rng(1).integers(0, 50, 100_000).astype(np.uint64)
    parts = partition(keys, 7)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(keys)))
    assert all((np.diff(rows) > 0).all() for rows in parts)
    assert sum(len(np.unique(keys[rows])) for rows in parts) == 50


def test_folder_that_takes_no_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    column = Growing(np.float64, rows_max=10)
    with pytest.raises(ReplayError, match=r"gone: No such file or directory.*TMPDIR"):
        column.add(np.zeros(11))
    with pytest.raises(ReplayError, match="TMPDIR"):
        scratch(np.float64, 10)

"""A replay that is too good to be true says so, and names the feature."""

import random
from pathlib import Path

import numpy as np
import pytest
import starting

from freshet.cli.main import main
from learner.metrics import auc, gauc, summarize


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = "[features.user]\n[features.item]\n[features.nonclk]\n[learner]\ndeep = 'none'\n"
    Path("freshet.toml").write_text(settings)


def write(leak: bool, n: int = 2000) -> None:
    chance = random.Random(1)
    lines = ["time,user,item,nonclk,label"]
    for i in range(n):
        label = int(chance.random() < 0.3)
        lines.append(f"{i},{i % 50},{i % 7},{1 - label if leak else i % 2},{label}")
    Path("c.csv").write_text("\n".join(lines))


def test_stream_that_gives_its_labels_away_is_told_with_the_feature(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(leak=True)
    assert main(["replay", "c.csv", "--report", "r.json"]) == 0
    told = capsys.readouterr().err
    assert "too good to be true" in told and "nonclk (AUC 1.0000 by itself)" in told
    assert "user (AUC" not in told and "item (AUC" not in told
    assert "too good to be true" in Path("r.json").read_text()


def test_honest_stream_is_not_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    write(leak=False)
    assert main(["replay", "c.csv", "--report", "r.json"]) == 0
    told = capsys.readouterr().err  # its labels are chance, and that is said
    assert told.count("warning") == 1 and "has lost to the running rate" in told
    assert main(["replay", "c.csv", "--report", "r.json", "--shuffle-labels", "1"]) == 0
    assert "warning" not in capsys.readouterr().err


def progressive(users: int, each: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One candidate a request; each user clicks always or never, but for noise; a model that learns it."""
    rng = np.random.default_rng(seed)
    rate = rng.choice([0.1, 0.9], users)
    clicks, seen = np.full(users, 0.5), np.ones(users)
    p, y, user = [], [], rng.permutation(np.repeat(np.arange(users), each))
    for u in user:
        p.append(clicks[u] / seen[u])
        y.append(float(rng.random() < rate[u]))
        clicks[u] += y[-1]
        seen[u] += 1.0
    return np.array(p), np.array(y), user.astype(np.uint64)


def test_auc_per_user_punishes_who_learns_users_and_auc_within_requests_does_not() -> None:
    p, y, user = progressive(400, 20, 3)
    assert auc(p, y) > 0.85
    assert gauc(p, y, user) < 0.35, "the bias that docs/replay.md tells of"
    assert gauc(np.full(len(y), 0.3), y, user) == 0.5
    # two candidates a request, of which the same model knows nothing but the user: exactly chance
    twice, request = np.repeat(p, 2), np.repeat(np.arange(len(p), dtype=np.uint64), 2)
    labels = np.stack([y, 1.0 - y], axis=1).ravel()
    found = summarize(twice, labels, np.repeat(user, 2), request)
    assert found["request_auc"] == 0.5


@pytest.mark.process
def test_sweep_by_auc_per_user_says_that_it_is_biased() -> None:
    write(leak=False, n=600)
    line = ["sweep", "c.csv", "--grid", "learner.group=8", "--by", "gauc", "--jobs", "1"]
    done = starting.run(*line, cwd=Path.cwd())
    assert done.returncode == 0 and "Prefer --by request_auc" in done.stderr

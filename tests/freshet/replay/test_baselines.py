"""The trivial baselines of a replay are progressive, whole requests at a time, over what the model scores."""

import csv
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freshet.cli.main import main
from freshet.replay.baselines import PRIOR, rate_by_key, running_rate

CONFIG = """
[data]
request = "request"
label = "clicked"
context = ["user"]
[features.user]
[features.item]
[features.price]
kind = "number"
[learner]
deep = "none"
"""


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0]), st.booleans()), min_size=1, max_size=30
    )
)
def test_rates_are_those_of_the_requests_before(rows: list[tuple[int, float, bool]]) -> None:
    request = np.cumsum([new for _, _, new in rows]).astype(np.int64)
    keys = np.array([key for key, _, _ in rows], dtype=np.uint64)
    y = np.array([label for _, label, _ in rows])
    weight = np.ones(len(rows))
    rate = running_rate(y, request, weight)
    by_key = rate_by_key(keys, y, request, rate, weight)
    for i in range(len(rows)):
        before = request < request[i]
        assert rate[i] == pytest.approx((y[before].sum() + 0.5) / (before.sum() + 1.0))
        mine = before & (keys == keys[i])
        assert by_key[i] == pytest.approx((y[mine].sum() + PRIOR * rate[i]) / (mine.sum() + PRIOR))


def replayed(folder: Path, clicks: Any, *options: str) -> dict[str, Any]:
    """The report of a replay of 700 requests of three candidates."""
    rng = random.Random(5)
    with (folder / "clicks.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["time", "request", "user", "item", "price", "clicked"])
        for i in range(700):
            user = rng.randrange(12)
            for item in rng.sample(range(9), 3):
                price = round(rng.random(), 3)
                table.writerow(
                    [1767225600 + i, f"r{i}", f"u{user}", item, price, int(clicks(rng, user, item))]
                )
    (folder / "c.toml").write_text(CONFIG)
    report = folder / "r.json"
    command = ["replay", "--config", str(folder / "c.toml"), "--data", str(folder / "clicks.csv")]
    assert main([*command, "--report", str(report), *options]) == 0
    found: dict[str, Any] = msgspec.json.decode(report.read_bytes())
    return found


def test_report_has_the_baselines_of_the_same_requests(tmp_path: Path) -> None:
    report = replayed(tmp_path, lambda rng, user, item: rng.random() < (item + 1) / 12, "--top", "1")
    found = report["baselines"]
    assert list(found) == ["rate", "rate of user", "rate of item"]
    for part in found.values():
        assert part["overall"]["examples"] == report["candidates"] == 2_100
        assert part["overall"]["positives"] == report["base"]["overall"]["positives"]
    assert found["rate"]["overall"]["request_auc"] == 0.5  # a constant orders nothing
    assert found["rate of item"]["last_half"]["auc"] > 0.7 > found["rate of user"]["last_half"]["auc"]
    model, item = report["base"]["last_half"], found["rate of item"]["last_half"]
    assert model["ndcg"] == pytest.approx(item["ndcg"], abs=0.05) and report["played"]["top"] == 1
    assert 0.0 < model["recall"] < model["mrr"] <= 1.0
    assert report["warnings"] == []
    exposed = report["exposure"][
        "item"
    ]  # one of three is shown: the best of nine items more often than others
    assert exposed["shown"]["coverage"] == 1.0 and exposed["shown"]["young"] is None
    assert exposed["base"]["gini"] > 0.4 > 0.2 > exposed["shown"]["gini"] > 0.0


def test_model_that_a_constant_beats_is_told_of(tmp_path: Path) -> None:
    report = replayed(tmp_path, lambda rng, user, item: rng.random() < 0.5)
    constant = report["baselines"]["rate"]["last_half"]["logloss"]
    mine = report["corrected"]["last_half"]["logloss"]
    (warning,) = report["warnings"]
    assert warning.startswith("the model of click has lost to the running rate") and "10%" in warning
    report = replayed(tmp_path, lambda rng, user, item: rng.random() < 0.5, "--set", "learner.trust_margin=0")
    assert max(constant, mine) < report["corrected"]["last_half"]["logloss"]
    (warning,) = report["warnings"]
    assert warning.startswith(f"the rate of clicks alone has a log loss of {constant:.4f} over the last half")


def test_shuffled_labels_are_judged_by_their_auc_alone(tmp_path: Path) -> None:
    report = replayed(tmp_path, lambda rng, user, item: rng.random() < 0.5, "--shuffle-labels", "3")
    assert not any("alone has" in warning for warning in report["warnings"])

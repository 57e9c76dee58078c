"""Off-policy value: obp's numbers on obp's data, the simulator's truth within the intervals."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freshet.cli.main import main
from freshet.decide.evaluate import read_logged
from freshet.decide.offpolicy import (
    Logged,
    difference,
    doubly_robust,
    effective_requests,
    greedy_places,
    greedy_weight,
    guesses,
    ips,
    on_policy,
    snips,
)
from freshet.errors import CompareError
from stream.files.record_columns import PREDICTION_COLUMNS, Survey
from stream.files.record_files import RecordWriter
from stream.records.types import Example
from stream.world.simulator import World, WorldSettings

pytestmark = pytest.mark.slow

OBP = json.loads((Path(__file__).parent / "data" / "obp.json").read_text())
SLATE = 4
ORDERS = np.array(list(itertools.permutations(range(SLATE))))  # (24, 4): who is at each place
LOOKED = 1.0 / np.log2(np.arange(2, SLATE + 2))  # as the simulator has it


def test_one_action_a_request_is_what_obp_says() -> None:
    told = OBP["one_action"]
    action, policy, q = (np.array(told[name]) for name in ("action", "policy", "q"))
    rounds = np.arange(len(action))
    logged = Logged(rounds, np.zeros_like(rounds), np.array(told["pscore"]), np.array(told["reward"]) * 1.0)
    weight = policy[rounds, action] / logged.propensity
    assert ips(logged, weight).value.value == pytest.approx(told["ips"], abs=1e-12)
    assert snips(logged, weight).value.value == pytest.approx(told["snips"], abs=1e-12)
    expected = (policy * q).sum(axis=1)
    found = doubly_robust(logged, weight, q[rounds, action], expected)
    assert found.value.value == pytest.approx(told["dr"], abs=1e-12)


def test_slates_are_what_obp_says() -> None:
    told = OBP["slates"]
    slate, place = np.array(told["slate_id"]), np.array(told["position"])
    propensity = np.array(told["pscore_item_position"])
    logged = Logged(slate, place, propensity, np.array(told["reward"]) * 1.0)
    weight = np.array(told["evaluation_policy_pscore_item_position"]) / propensity
    assert ips(logged, weight).value.value == pytest.approx(told["ips"], abs=1e-12)
    assert snips(logged, weight).value.value == pytest.approx(told["snips"], abs=1e-12)


class Shown:
    """Requests of the simulated world, an order that is drawn for each, and a policy of another mind."""

    def __init__(self, requests: int) -> None:
        world = World(WorldSettings(seed=11, slate=SLATE, click_rate=0.25, shift_every_s=0))
        rng = np.random.default_rng(12)
        self.truth = np.array([world.truth(world.request()) for _ in range(requests)])  # (R, 4)
        logit = np.log(self.truth / (1.0 - self.truth))
        self.p = 1.0 / (1.0 + np.exp(-(logit + rng.normal(0.0, 0.7, logit.shape))))  # the policy's model
        drawn_by = logit + rng.normal(0.0, 1.0, logit.shape)
        # Plackett and Luce: places are filled from the top, in proportion to what is left
        strength = np.exp(0.7 * drawn_by)[:, ORDERS]  # (R, 24, 4)
        self.chance = np.prod(strength / np.cumsum(strength[:, :, ::-1], axis=2)[:, :, ::-1], axis=2)
        at = np.argsort(ORDERS, axis=1)  # (24, 4): each candidate's place
        self.marginal = np.stack(
            [self.chance @ (at == k) for k in range(SLATE)], axis=2
        )  # (R, candidate, place)
        self.at = at
        best = np.argsort(np.argsort(-self.p, axis=1, kind="stable"), axis=1)
        self.value = float((self.truth * LOOKED[best]).sum(axis=1).mean())

    def draw(self, rng: np.random.Generator, requests: int) -> tuple[Logged, np.ndarray]:
        """A log of so many requests, and the policy's predictions."""
        r = rng.integers(0, len(self.truth), requests)
        order = (np.cumsum(self.chance[r], axis=1) < rng.random((requests, 1))).sum(axis=1)
        place = self.at[np.minimum(order, len(ORDERS) - 1)]  # (requests, 4)
        propensity = np.take_along_axis(self.marginal[r], place[:, :, None], axis=2)[:, :, 0]
        y = rng.random(place.shape) < self.truth[r] * LOOKED[place]
        number = np.repeat(np.arange(requests), SLATE)
        logged = Logged(number, place.ravel(), propensity.ravel(), y.ravel().astype(np.float64))
        return logged, self.p[r].ravel()


@pytest.fixture(scope="module")
def shown() -> Shown:
    return Shown(4000)


@pytest.mark.slow
def test_intervals_hold_the_simulators_truth_in_at_least_nine_of_ten_runs(shown: Shown) -> None:
    rng = np.random.default_rng(13)
    hits = {"ips": 0, "snips": 0, "dr": 0}
    width = dict.fromkeys(hits, 0.0)
    for _ in range(200):
        logged, p = shown.draw(rng, 800)
        target = greedy_places(logged, p)
        weight = greedy_weight(logged, target)
        found = {
            "ips": ips(logged, weight),
            "snips": snips(logged, weight),
            "dr": doubly_robust(logged, weight, *guesses(logged, p, target)),
        }
        for name, estimate in found.items():
            hits[name] += estimate.value.low <= shown.value <= estimate.value.high
            width[name] += (estimate.value.high - estimate.value.low) / 200
    assert min(hits.values()) >= 180, hits
    # what the others are there for
    assert max(width["dr"], width["snips"]) < 0.9 * width["ips"], width


def test_policy_that_is_better_is_found_better(shown: Shown) -> None:
    logged, p = shown.draw(np.random.default_rng(14), 40_000)
    rng = np.random.default_rng(15)
    estimates = []
    for score in (rng.random(len(p)), p):
        target = greedy_places(logged, score)
        estimates.append(doubly_robust(logged, greedy_weight(logged, target), *guesses(logged, p, target)))
    assert difference(estimates[0], estimates[1]).low > 0.0
    assert difference(on_policy(logged), estimates[1]).low > 0.0


def test_greedy_order_fills_the_places_that_were_shown() -> None:
    logged = Logged(np.array([0, 0, 0, 1, 1]), np.array([7, 0, 3, 1, 0]), np.full(5, 0.5), np.zeros(5))
    target = greedy_places(logged, np.array([0.1, 0.9, 0.5, 0.4, 0.4]))
    assert target.tolist() == [7, 0, 3, 0, 1]
    assert greedy_weight(logged, target).tolist() == [2.0, 2.0, 2.0, 0.0, 0.0]
    assert effective_requests(logged, greedy_weight(logged, target)) == 1.0


def write_run(folder: Path, name: str, examples: list[Example], p: np.ndarray) -> Path:
    """A report and predictions as a replay writes them."""
    survey = Survey("examples")
    for example in examples:
        survey.add(example)
    predictions = folder / f"{name}.predictions.parquet"
    with RecordWriter(predictions, survey.layout(), PREDICTION_COLUMNS) as writer:
        at = 0
        for example in examples:
            part = p[at : at + len(example.labels)].tolist()
            writer.add(example, dict.fromkeys(PREDICTION_COLUMNS, part))
            at += len(part)
    report: dict[str, Any] = {"data_hash": "d", "config_hash": "c", "base": {}, "events": len(examples)}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**report, "predictions": predictions.name}))
    return path


def test_command_says_what_each_order_would_have_earned(
    shown: Shown, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logged, p = shown.draw(np.random.default_rng(16), 4500)
    examples = []
    for r in range(4500):
        part = slice(SLATE * r, SLATE * (r + 1))
        candidates: list[Any] = [{"item": i} for i in range(SLATE)]
        place, propensity = logged.place[part].tolist(), logged.propensity[part].tolist()
        known = {"place": place, "propensity": propensity} if r % 3 else {}
        examples.append(
            Example(f"r{r}", 1e9 + r, 1e9 + r, candidates, logged.y[part].tolist(), **known)  # type: ignore[arg-type]
        )
    runs = [write_run(tmp_path, "worst", examples, 1.0 - p), write_run(tmp_path, "good", examples, p)]
    told = tmp_path / "value.json"
    assert main(["evaluate", *map(str, runs), "--report", str(told)]) == 0
    out = capsys.readouterr().out
    assert "over 3,000 requests with a sampled order" in out
    assert "good would have earned more than worst" in out
    values = json.loads(told.read_text())["values"]
    good = values[1]["dr"]
    assert (
        abs(good["value"] - shown.value) < good["high"] - good["low"]
    )  # twice what one run in twenty exceeds
    assert main(["evaluate", str(runs[1]), "--top", "1"]) == 0
    assert "at the first 1 places" in capsys.readouterr().out


def test_what_cannot_be_weighed_is_refused(tmp_path: Path) -> None:
    plain = Example("r", 1e9, 1e9, [{"item": 1}], [1.0])
    write_run(tmp_path, "plain", [plain], np.array([0.5]))
    with pytest.raises(CompareError, match="no request has propensities"):
        read_logged(tmp_path / "plain.predictions.parquet")
    thinned = Example("r", 1e9, 1e9, [{"item": 1}], [1.0], log_odds=-1.0, propensity=[0.5])
    write_run(tmp_path, "thinned", [thinned], np.array([0.5]))
    with pytest.raises(CompareError, match="thinned"):
        read_logged(tmp_path / "thinned.predictions.parquet")

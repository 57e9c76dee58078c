"""A replica of several targets: joint answers, order by rank.by, a memory and metrics for each."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec, Request
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from serving.errors import RankError
from serving.replica.ranking import Ranking
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from serving.watch.telemetry import Telemetry
from stream.log.base import DEAD_LETTERS, EXAMPLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.testing import MemoryLog
from stream.records.targets import Target, Targets
from stream.records.types import Example, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

FEATURES = {
    "user": FeatureSpec(dim=4),
    "item": FeatureSpec(dim=4),
    "price": FeatureSpec(kind="number", dim=4),
}
SETTINGS = LearnerSettings(deep="none", window=500)
TARGETS = Targets(
    {"click": Target(), "buy": Target(of="click"), "minutes": Target(kind="value", of="click", scale="log1p")}
)
ASKED = Request(1e9, {"user": "u1"}, [{"item": item, "price": 1.0 + item} for item in range(10)])


def examples_of(n: int, seed: int = 0, *, bought: int = 0) -> list[Example]:
    """Odd items are clicked; of those the ones divisible by 3 (plus `bought`) are bought and watched long."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        items, at, who = rng.integers(0, 10, 2).tolist(), 1e9 + i, {"user": f"u{rng.integers(0, 5)}"}
        clicked = [float(rng.random() < 0.15 + 0.7 * (item % 2)) for item in items]
        candidates = [{"item": item, "price": 1.0 + item} for item in items]
        found.append(Example(f"r{i}", at, at, candidates, clicked, who))
        mine = [j for j in range(2) if clicked[j]]
        if mine:
            likes = [(items[j] + bought) % 3 == 0 for j in mine]
            some = [candidates[j] for j in mine]
            buys = [float(rng.random() < 0.1 + 0.7 * like) for like in likes]
            minutes = [float(rng.gamma(4.0) * (1.0 + 4.0 * like)) for like in likes]
            found.append(Example(f"r{i}", at, at, some, buys, who, target="buy"))
            found.append(Example(f"r{i}", at, at, some, minutes, who, target="minutes"))
    return found


class World:
    """A log, a learner moved by hand, and a replica behind it."""

    def __init__(self, folder: Path, state: RoleState) -> None:
        self.log = MemoryLog()
        for topic in (EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS):
            self.log.create_topic(topic, 1)
        self.sent = 0
        self.learner = Learner(FEATURES, SETTINGS, state, TARGETS)
        running = RunnerSettings(commit_every_s=0.0, wait_s=0.0)
        self.runner = Runner(self.log, state, self.learner, Subscription(EXAMPLES, "learn"), running).open()
        self.replica = Replica(self.log, FEATURES, SETTINGS, MemorySettings(), ServerSettings(), TARGETS)

    def send(self, examples: list[Example]) -> None:
        out = [Outgoing(b"k", encode(e), 0, "j", self.sent + i) for i, e in enumerate(examples)]
        self.sent += len(out)
        self.log.append(EXAMPLES, out)

    def learn(self) -> None:
        while self.runner.step():
            pass

    def follow(self) -> None:
        while self.replica.step():
            pass


class Idle:
    """A writer that has written nothing."""

    records = batches = failures = waiting = 0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    fingerprint = Learner.fingerprint(FEATURES, SETTINGS, TARGETS)
    with RoleState(tmp_path, "learner", fingerprint, sync=False) as state:
        made = World(tmp_path, state)
        made.send(examples_of(400))
        made.learn()
        made.follow()
        yield made


def test_answer_has_joint_predictions_and_the_log_conditional_ones(world: World) -> None:
    (answer,) = world.replica.score([ASKED])
    assert answer.targets is not None and answer.further is not None
    model, batch = world.learner.model, world.learner.model.encoder.encode([ASKED])
    click, buy, minutes = (model.score(batch, t).p for t in range(3))
    assert answer.base == answer.targets["click"].base == pytest.approx(click.tolist())
    assert answer.targets["buy"].base == pytest.approx((click * buy).tolist())
    assert answer.targets["minutes"].corrected == pytest.approx((click * minutes).tolist())
    assert set(answer.further) == {"buy", "minutes"}
    assert answer.further["buy"].base == pytest.approx(buy.tolist())
    assert answer.order == np.argsort(-click, kind="stable").tolist()


def test_order_follows_rank_by_drawn_or_not(world: World) -> None:
    ranking = Ranking("click * (0.1 + 30 * buy) / price + 0 * minutes", TARGETS.names, ["price"])
    (answer,) = world.replica.score([ASKED], ranking)
    assert answer.targets is not None
    click, buy = (np.array(answer.targets[name].corrected) for name in ("click", "buy"))
    price = np.array([c["price"] for c in ASKED.candidates], dtype=float)
    assert answer.order == np.argsort(-(click * (0.1 + 30 * buy) / price), kind="stable").tolist()
    drawn = [world.replica.explore(ASKED, seed, 50, ranking) for seed in range(20)]
    assert len({tuple(one.order) for one in drawn}) > 1
    assert world.replica.explore(ASKED, 3, 50, ranking).order == drawn[3].order
    first = [one.order[0] for one in drawn]
    assert max(set(first), key=first.count) in answer.order[:3]
    assert all(one.propensity is not None and min(one.propensity) > 0.0 for one in drawn)
    with pytest.raises(RankError, match="candidate 0 has none"):
        world.replica.score([Request(1e9, {}, [{"item": 1}])], ranking)


@pytest.mark.slow
def test_each_target_has_a_memory_metrics_and_an_explanation(world: World) -> None:
    """The learner stands still while what is bought changes: only the memory of `buy` moves far."""
    (before,) = world.replica.score([ASKED])
    world.send(examples_of(400, seed=1, bought=1))
    world.follow()
    (after,) = world.replica.score([ASKED])
    assert before.further is not None and after.further is not None
    assert after.further["buy"].base == before.further["buy"].base
    moved = np.abs(np.array(after.further["buy"].corrected) - np.array(after.further["buy"].base))
    clicks = np.abs(np.array(after.corrected) - np.array(after.base))
    assert moved.max() > 0.2 > clicks.max()
    assert after.further["minutes"].base == before.further["minutes"].base
    status = world.replica.status()
    assert status.targets and [part.of for part in status.targets.values()] == ["", "click", "click"]  # type: ignore[union-attr]
    buy, minutes = status.targets["buy"], status.targets["minutes"]  # type: ignore[index]
    assert buy.corrected.recent["logloss"] < buy.base.recent["logloss"]  # type: ignore[operator]
    assert minutes.corrected.recent["mae"] < 0.9 * minutes.base.recent["mae"]  # type: ignore[operator]
    assert minutes.base.recent["auc"] is None
    explained = world.replica.explain(ASKED, 1)
    assert [one.corrected for one in explained.candidates] == pytest.approx(after.further["buy"].corrected)
    one = explained.candidates[3]
    total = (explained.bias + sum(one.weights.values())) * one.share + one.deep
    assert total == pytest.approx(one.base_logit, abs=1e-4)
    world.learn()
    world.follow()
    (caught_up,) = world.replica.score([ASKED])
    assert caught_up.further is not None
    for name in ("buy", "minutes"):
        assert caught_up.further[name].corrected == caught_up.further[name].base


@pytest.mark.slow
def test_a_value_is_corrected_towards_what_is_watched_now_and_explained(world: World) -> None:
    """Of clicked items those divisible by 3 were watched for 20 minutes, others for 4; now it is others."""
    world.send(examples_of(600, seed=1, bought=1))
    world.follow()
    (after,) = world.replica.score([ASKED])
    assert after.further is not None
    base, corrected = (np.array(getattr(after.further["minutes"], name)) for name in ("base", "corrected"))
    for item in (3, 9, 5):  # clicked often
        truth = 4.0 * (1.0 + 4.0 * ((item + 1) % 3 == 0))
        assert abs(corrected[item] - truth) < 0.6 * abs(base[item] - truth), item
    told = world.replica.explain(ASKED, 2)
    assert [one.corrected for one in told.candidates] == pytest.approx(corrected.tolist())
    assert [one.base for one in told.candidates] == pytest.approx(base.tolist())
    assert told.order == np.argsort(-corrected, kind="stable").tolist() and told.evidence > 300
    one, units = told.candidates[3], told.units
    assert units and units.scale == "log1p" and 0.0 < units.noise < 1.5
    assert one.share == 1.0
    assert told.bias + sum(one.weights.values()) + one.deep == pytest.approx(one.base_logit, abs=1e-4)
    assert one.parts and one.base_logit + told.gate * sum(p.logit for p in one.parts) == one.logit
    mean = units.centre + units.unit * one.logit
    assert np.expm1(mean) < one.corrected < np.expm1(mean + units.unit**2) * 1.3
    assert world.replica.explain(ASKED, 1).units is msgspec.UNSET


def test_a_value_is_explored_by_its_own_uncertainty(world: World) -> None:
    """Items that were seen are ordered alike each time; of one that was not, nobody knows."""
    items = [3, 5, 777]
    request = Request(1e9, {"user": "u1"}, [{"item": item, "price": 1.0} for item in items])
    (said,) = world.replica.score([request])
    assert said.further is not None
    ranking = Ranking("minutes / click", TARGETS.names, [])  # what is watched once it is clicked
    drawn = [world.replica.explore(request, seed, 60, ranking).order for seed in range(60)]
    known = [order.index(0) < order.index(1) for order in drawn]
    assert all(known)  # 3 is watched for five times as long as 5
    place = [order.index(2) for order in drawn]
    assert len(set(place)) > 1
    assert world.replica.explore(request, 5, 60, ranking).order == drawn[5]


@pytest.mark.slow
def test_prometheus_names_further_targets_in_a_metric_of_their_own(world: World) -> None:
    world.send(examples_of(400, seed=1))
    world.follow()
    status = world.replica.status()
    registry = Telemetry(world.replica, Idle()).registry

    def read(metric: str, span: str, **labels: str) -> float | None:
        name = "freshet_target_quality" if labels else "freshet_quality"
        return registry.get_sample_value(
            name, {"metric": metric, "prediction": "corrected", "span": span, **labels}
        )

    assert list(status.further) == ["buy", "minutes"]
    for name, target in status.further.items():
        for span, summary in (("overall", target.corrected.overall), ("recent", target.corrected.recent)):
            for metric in ("auc", "logloss", "calibration", "mae", "examples"):
                assert read(metric, span, target=name) == summary.get(metric)
    assert read("auc", "recent", target="buy") is not None is not read("mae", "recent", target="minutes")
    assert read("auc", "recent") == status.corrected.recent["auc"] is not None
    assert read("auc", "recent", target="click") is None  # the first one is in freshet_quality
    first = next(f for f in registry.collect() if f.name == "freshet_quality")
    assert {tuple(sorted(s.labels)) for s in first.samples} == {("metric", "prediction", "span")}

"""Several targets in one model: events within each other, and values."""

from pathlib import Path
from statistics import NormalDist
from typing import Literal

import numpy as np
import pytest

from learner.errors import FeatureError
from learner.features.encoder import FeatureSpec, Request
from learner.features.labelled import lessons_of
from learner.metrics import auc
from learner.model.model import Model
from learner.model.scales import Scales
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.train.trainer import Learnt
from learner.updates.follower import Follower
from stream.errors import StateError
from stream.log.base import DEAD_LETTERS, EXAMPLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.testing import MemoryLog
from stream.records.targets import Target, Targets
from stream.records.types import Example, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

FEATURES = {"user": FeatureSpec(dim=4), "item": FeatureSpec(dim=4)}
SETTINGS = LearnerSettings(window=500)
FAST = LearnerSettings(deep="none", window=500)
CLICK, BUY = Target(), Target(of="click")
MINUTES = Target(kind="value", of="click", scale="log1p")
THREE = Targets({"click": CLICK, "buy": BUY, "minutes": MINUTES})


def p_click(item: int) -> float:
    return 0.2 + 0.6 * (item % 2)


def p_buy(item: int) -> float:
    return 0.15 + 0.5 * (item % 3 == 0)


def mean_minutes(item: int) -> float:
    return 2.0 + 10.0 * (item % 5 == 0)


def examples_of(n: int, seed: int = 0) -> list[Example]:
    """n requests of two candidates; what was clicked comes again as an example of each further target."""
    rng = np.random.default_rng(seed)
    found: list[Example] = []
    for i in range(n):
        items = rng.integers(0, 30, 2).tolist()
        at, who = 1e9 + i, {"user": f"u{rng.integers(0, 5)}"}
        clicked = [float(rng.random() < p_click(item)) for item in items]
        found.append(Example(f"r{i}", at, at, [{"item": item} for item in items], clicked, who))
        mine = [item for item, label in zip(items, clicked, strict=True) if label]
        if mine:
            bought = [float(rng.random() < p_buy(item)) for item in mine]
            minutes = [float(rng.gamma(4.0, mean_minutes(item) / 4.0)) for item in mine]
            candidates = [{"item": item} for item in mine]
            found.append(Example(f"r{i}", at, at, candidates, bought, who, target="buy"))
            found.append(Example(f"r{i}", at, at, candidates, minutes, who, target="minutes"))
    return found


def only(done: list[Learnt], target: int) -> Learnt:
    """All requests of one target, of the groups that hold any."""
    mine = [group.of(target) for group in done if (group.target == target).any()]
    return mine[0]._replace(
        **{
            name: np.concatenate([getattr(group, name) for group in mine])
            for name in ("p", "y", "z", "target")
        }
    )


@pytest.mark.parametrize("deep", ["none", "dcn", pytest.param("logistic", marks=pytest.mark.slow)])
def test_every_target_is_learned_on_its_own_sample_space(deep: str) -> None:
    learner = Learner(FEATURES, LearnerSettings(deep=deep), None, THREE)  # type: ignore[arg-type]
    done = learner.learn(examples_of(1_500)) + learner.finish()
    requests = [Request(1e9, {"user": "u1"}, [{"item": item} for item in range(30)])]
    batch = learner.model.encoder.encode(requests)
    for t, truth in enumerate((p_click, p_buy, mean_minutes)):
        p = learner.model.score(batch, t).p
        expected = np.array([truth(item) for item in range(30)])
        assert np.corrcoef(p, expected)[0, 1] > 0.8, THREE.names[t]
        last = only(done, t)
        half = len(last.y) // 2
        assert last.p[half:].sum() / last.y[half:].sum() == pytest.approx(1.0, abs=0.08)
    assert auc(only(done, 1).p[-400:], only(done, 1).y[-400:]) > 0.65  # type: ignore[operator]
    by_name = learner.saved_metrics.by_name
    assert {name: metrics.examples for name, metrics in by_name.items()} == {
        "click": 3_000, "buy": len(only(done, 1).y), "minutes": len(only(done, 2).y)
    }  # fmt: skip
    minutes = by_name["minutes"].summary()
    assert minutes["auc"] is None and 0.0 < (minutes["mae"] or 0.0) < (minutes["rmse"] or 0.0)


def test_one_declared_event_is_as_none_declared() -> None:
    examples = [example for example in examples_of(300) if not example.target]
    digests = set()
    for targets in (Targets(), Targets({"like": Target()})):
        learner = Learner(FEATURES, SETTINGS, None, targets)
        learner.learn(examples)
        digests.add(learner.digest())
        assert Learner.fingerprint(FEATURES, SETTINGS, targets) == Learner.fingerprint(FEATURES, SETTINGS)
    assert len(digests) == 1


def test_first_target_is_not_disturbed_by_the_others_where_nothing_is_shared() -> None:
    """The fast part shares rows, not weights; only counts of sightings are common, which are off here."""
    features = {name: FeatureSpec(counts=False) for name in FEATURES}
    alone, together = Learner(features, FAST), Learner(features, FAST, None, THREE)
    examples = examples_of(200)
    alone.learn([example for example in examples if not example.target])
    together.learn(examples)
    request = [Request(1e9, {"user": "u1"}, [{"item": item} for item in range(30)])]
    assert together.model.score_requests(request).p.tolist() == alone.model.score_requests(request).p.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("deep", ["none", "dcn"])
def test_any_cut_of_a_mixed_stream_gives_the_same_state(deep: str) -> None:
    examples = examples_of(200)
    digests = set()
    for size in (1, 13, 1_000):
        learner = Learner(FEATURES, LearnerSettings(deep=deep), None, THREE)  # type: ignore[arg-type]
        for first in range(0, len(examples), size):
            learner.learn(examples[first : first + size])
        digests.add(learner.digest())
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("late", [0.5, 1.0])
def test_late_values_are_taken_as_the_difference_of_two_losses(late: float) -> None:
    """Minutes that are 0 when the window closes, and come later."""
    rng = np.random.default_rng(3)
    learner = Learner(
        {"item": FeatureSpec(counts=False)}, FAST, None, Targets({"minutes": Target(kind="value")})
    )
    values = rng.gamma(4.0, 2.0, 6_000)
    held = rng.random(6_000) < late
    examples = []
    for i in range(6_000):
        said = 0.0 if held[i] else float(values[i])
        examples.append(Example(str(i), 1e9 + i, 1e9 + i, [{"item": 1}], [said]))
        j = i - 50
        if j >= 0 and held[j]:
            now = 1e9 + i
            came = [float(values[j])]
            examples.append(Example(str(j), now, now, [{"item": 1}], came, late=True, before=[0.0]))
    done = learner.learn(examples) + learner.finish()
    p = np.concatenate([group.p[group.measured] for group in done])
    assert p[3_000:].mean() == pytest.approx(values[3_000:].mean(), rel=0.03)


@pytest.mark.parametrize("scale", ["linear", "log1p"])
def test_expectation_of_a_value_is_calibrated_on_the_original_scale(scale: str) -> None:
    """A lognormal value: the mean of the logarithms alone would be too low by exp(-v / 2)."""
    rng = np.random.default_rng(4)
    targets = Targets({"price": Target(kind="value", scale=scale)})  # type: ignore[arg-type]
    learner = Learner({"item": FeatureSpec(dim=4)}, SETTINGS, None, targets)
    items = rng.integers(0, 8, 4_000)
    values = np.expm1(np.abs(rng.normal(3.0 + 0.3 * items, 0.7)))
    examples = [
        Example(str(i), 1e9 + i, 1e9 + i, [{"item": int(items[i])}], [float(values[i])]) for i in range(4_000)
    ]
    done = learner.learn(examples) + learner.finish()
    p = np.concatenate([group.p for group in done])
    assert p[2_000:].sum() / values[2_000:].sum() == pytest.approx(1.0, abs=0.06)
    truth = np.array([values[items == item].mean() for item in range(8)])[items]
    assert np.corrcoef(p[2_000:], truth[2_000:])[0, 1] > 0.95
    assert learner.metrics.summary()["calibration"] == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["linear", "log1p"])
def test_log_likelihood_is_the_log_of_a_density(scale: Literal["linear", "log1p"]) -> None:
    scales = Scales(Targets({"click": CLICK, "minutes": Target(kind="value", of="click", scale=scale)}))
    y = np.concatenate([np.linspace(-1.0 + 1e-9, 0.0, 20_001), np.linspace(1e-4, 2_000.0, 2_000_001)])
    spread = np.tile([2.0, 1.5, 0.4], (len(y), 1))
    z, s2 = np.full(len(y), 0.7), np.full(len(y), 0.2)
    density = np.exp(scales.log_likelihoods(z, s2, spread, y, 1))
    whole = float(np.trapezoid(density, y))
    below = 0.0 if scale == "log1p" else NormalDist(2.0 + 1.5 * 0.7, 1.5 * 0.6**0.5).cdf(-1.0)
    assert whole == pytest.approx(1.0 - below, abs=1e-3)


def test_replica_predicts_every_target_as_its_learner_does(tmp_path: Path) -> None:
    log = MemoryLog()
    for topic in (EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS):
        log.create_topic(topic, 1)
    examples = examples_of(300)
    log.append(EXAMPLES, [Outgoing(b"k", encode(e), 0, "j", i) for i, e in enumerate(examples)])
    with RoleState(tmp_path, "learner", Learner.fingerprint(FEATURES, SETTINGS, THREE), sync=False) as state:
        learner = Learner(FEATURES, SETTINGS, state, THREE)
        runner = Runner(
            log,
            state,
            learner,
            Subscription(EXAMPLES, "learn"),
            RunnerSettings(commit_every_s=0.0, wait_s=0.0),
        ).open()
        while runner.step():
            pass
        follower = Follower(Model(FEATURES, SETTINGS, THREE))
        follower.start(log)
        while follower.poll(log):
            pass
        batch = learner.model.encoder.encode([Request(1e9, {"user": "u1"}, [{"item": i} for i in range(9)])])
        for t in range(3):
            expected = learner.model.score(batch, t).p
            assert follower.model.score(batch, t).p == pytest.approx(expected, rel=1e-6)
        digest = learner.digest()
    with RoleState(tmp_path, "learner", Learner.fingerprint(FEATURES, SETTINGS, THREE)) as state:
        again = Learner(FEATURES, SETTINGS, state, THREE)
        assert again.digest() == digest
        assert (
            again.saved_metrics.by_name["minutes"].summary()
            == learner.saved_metrics.by_name["minutes"].summary()
        )


@pytest.mark.parametrize("evict", ["least_recent", "least_frequent", "none"])
def test_target_may_be_added_at_the_end_and_begins_from_its_prior(tmp_path: Path, evict: str) -> None:
    features = {"user": FeatureSpec(dim=4, evict=evict), "item": FeatureSpec(dim=4, evict=evict)}  # type: ignore[arg-type]
    examples = examples_of(300)
    request = [Request(1e9, {"user": "u1"}, [{"item": item} for item in range(30)])]
    said = []
    for step, targets in enumerate((Targets(), Targets({"click": CLICK, "buy": BUY}), THREE, THREE)):
        fingerprint = Learner.fingerprint(features, SETTINGS, targets)
        with RoleState(tmp_path, "learner", fingerprint, sync=False) as state:
            learner = Learner(features, SETTINGS, state, targets)
            if said:
                assert learner.model.score_requests(request).p.tolist() == said[-1]
            if 0 < step < 3:  # nothing is known of the new target
                new = learner.model.score(learner.model.encoder.encode(request), step)
                assert len(set(new.p.round(6).tolist())) == 1
            learner.learn([e for e in examples if (e.target or "click") in targets.names or not e.target])
            said.append(learner.model.score_requests(request).p.tolist())
            commit = state.begin()
            learner.flush(commit)
            state.commit(commit)
            digest = learner.digest()
    with RoleState(tmp_path, "learner", fingerprint) as state:
        assert Learner(features, SETTINGS, state, THREE).digest() == digest


@pytest.mark.parametrize(
    "targets",
    [
        Targets(),
        Targets({"click": CLICK, "minutes": MINUTES, "buy": BUY}),
        Targets({"click": CLICK, "buy": BUY}),
        Targets({"click": CLICK, "buy": Target(), "minutes": MINUTES}),
        Targets({"click": CLICK, "buy": BUY, "minutes": Target(kind="value", of="click")}),
    ],
    ids=["none", "reordered", "fewer", "of another", "scale"],
)
def test_state_of_other_targets_is_refused_in_a_sentence(tmp_path: Path, targets: Targets) -> None:
    RoleState(tmp_path, "learner", Learner.fingerprint(FEATURES, SETTINGS, THREE), sync=False).close()
    with pytest.raises(StateError, match=r"was made with targets = .*put targets back, or begin anew"):
        RoleState(tmp_path, "learner", Learner.fingerprint(FEATURES, SETTINGS, targets))


@pytest.mark.parametrize(
    ("target", "label", "message"),
    [
        ("share", 1.0, "'share' is not declared; declared: click, buy, minutes"),
        ("buy", 0.5, "target buy is an event"),
        ("", 3.0, "target click is an event"),
    ],
)
def test_example_that_does_not_fit_its_target_is_refused(target: str, label: float, message: str) -> None:
    example = Example("r", 1e9, 1e9, [{"item": 1}], [label], target=target)
    with pytest.raises(FeatureError, match=message):
        lessons_of([example], THREE)

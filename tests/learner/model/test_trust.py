"""How far the model is trusted: never much worse than the running rate, and itself where it wins."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from learner.features.encoder import FeatureSpec
from learner.metrics import auc, losses
from learner.model.explain import explain, read
from learner.model.explore import thompson
from learner.model.model import Model
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.updates.follower import Follower
from stream.log.base import DEAD_LETTERS, EXAMPLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.records.targets import UNDECLARED, Target, Targets
from stream.records.types import Example, encode
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

pytestmark = pytest.mark.slow

FEATURES = {name: FeatureSpec(dim=4) for name in ("user", "item", "shelf")}
PLAIN = LearnerSettings()
ALWAYS = LearnerSettings(trust_margin=0.0)


def stream(n: int, signal: float, *, rate: float = 0.1, kept: float = 1.0, seed: int = 0) -> list[Example]:
    """n requests of 4 candidates, whose clicks depend on the item as far as `signal` says. Of the negatives
    the share `kept` is in the examples."""
    rng = np.random.default_rng(seed)
    worth = rng.normal(0.0, 1.0, 200)
    found = []
    for i in range(n):
        items = rng.integers(0, 200, 4)
        z = np.log(rate / (1.0 - rate)) + signal * worth[items]
        y = rng.random(4) < 1.0 / (1.0 + np.exp(-z))
        stay = np.flatnonzero(y | (rng.random(4) < kept))
        found.append(
            Example(
                str(i), 1e9 + i, 1e9 + i,
                [{"item": int(items[k]), "shelf": int(rng.integers(0, 9))} for k in stay],
                [float(y[k]) for k in stay], {"user": int(rng.integers(0, 300))},
                log_odds=float(np.log(kept)),
            )
        )  # fmt: skip
    return [one for one in found if one.labels]


class Played(NamedTuple):
    """A learner after a stream, and what it predicted."""

    learner: Learner
    p: np.ndarray
    y: np.ndarray


def play(examples: list[Example], settings: LearnerSettings = PLAIN, targets: Targets = UNDECLARED) -> Played:
    """Learn a stream, in chunks as a replay does."""
    learner = Learner(FEATURES, settings, None, targets)
    done = []
    for first in range(0, len(examples), 256):
        done += learner.learn(examples[first : first + 256])
    done += learner.finish()
    return Played(
        learner, np.concatenate([group.p for group in done]), np.concatenate([group.y for group in done])
    )


def running_rate(y: np.ndarray) -> np.ndarray:
    """The share of clicks before each candidate."""
    return (np.r_[0.0, np.cumsum(y)[:-1]] + 0.5) / (np.arange(len(y)) + 1.0)


@pytest.fixture(scope="module")
def noise() -> list[Example]:
    """Clicks that depend on nothing."""
    return stream(4_000, 0.0)


@pytest.fixture(scope="module")
def beaten(noise: list[Example]) -> Played:
    """A learner that has lost to the running rate."""
    return play(noise)


@pytest.mark.slow
def test_model_that_predicts_nothing_is_no_worse_than_the_running_rate(
    noise: list[Example], beaten: Played
) -> None:
    constant = losses(running_rate(beaten.y), beaten.y)
    half = len(beaten.y) // 2
    alone = play(noise, ALWAYS)
    assert (losses(alone.p, alone.y) - constant).sum() > 15.0  # nats that there are to be saved
    mine = losses(beaten.p, beaten.y) - constant
    assert mine.sum() < PLAIN.trust_margin + 3.0
    assert mine[half:].mean() < 1e-4
    assert beaten.learner.model.trust.shares[0] == pytest.approx(0.1)


@pytest.mark.slow
def test_order_within_requests_is_the_models(noise: list[Example], beaten: Played) -> None:
    alone = play(noise, ALWAYS)
    one, other = (
        played.learner.model.score_requests(noise[-50:]).p.reshape(-1, 4) for played in (beaten, alone)
    )
    assert np.ptp(one) < np.ptp(other) / 4
    assert (one.argsort(axis=1) == other.argsort(axis=1)).all()
    drawn = [thompson(played.learner.model, noise[-1:], 7).argsort().tolist() for played in (beaten, alone)]
    assert drawn[0] == drawn[1]


def test_model_that_wins_is_as_without() -> None:
    examples = stream(1_500, 1.0)
    one, other = play(examples), play(examples, ALWAYS)
    assert one.learner.digest() == other.learner.digest()
    late = slice(len(one.p) // 2, None)
    assert (one.p[late] == other.p[late]).all() and (auc(one.p[late], one.y[late]) or 0.0) > 0.65


@pytest.mark.slow
def test_model_that_begins_to_win_is_trusted_again(noise: list[Example]) -> None:
    played = play(noise[:2_500] + stream(2_500, 1.5, seed=1))
    assert (played.learner.model.trust.shares == 1.0).all()


@pytest.mark.slow
def test_thinned_negatives_leave_the_served_rate_right() -> None:
    learner = play(stream(9_000, 0.0, rate=0.05, kept=0.2)).learner
    assert learner.model.trust.closed
    served = learner.model.score_requests(stream(100, 0.0, seed=2)).p
    assert served.mean() == pytest.approx(0.05, rel=0.1)


def test_explanation_adds_up_where_the_running_rate_has_a_part(noise: list[Example], beaten: Played) -> None:
    model = beaten.learner.model
    request = noise[-1]
    batch = model.encoder.encode([request])
    told = explain(model, request, batch, read(model, batch))
    assert told.rate != 0.0
    parts = [(told.bias + sum(mine.values())) for mine in told.weights]
    assert told.scores.z == pytest.approx(np.array(parts) * told.share + told.deep + told.rate, abs=1e-5)


def test_value_that_nothing_predicts_is_no_worse_than_its_mean() -> None:
    rng = np.random.default_rng(3)
    examples = [
        Example(
            str(i), 1e9 + i, 1e9 + i, [{"item": int(rng.integers(0, 200))}], [float(rng.exponential(9.0))],
            {"user": int(rng.integers(0, 300))},
        )
        for i in range(6_000)
    ]  # fmt: skip
    value = Targets({"minutes": Target(kind="value")})
    one, alone = play(examples, PLAIN, value), play(examples, ALWAYS, value)
    half = slice(len(one.y) // 2, None)
    errors = [((played.p - played.y)[half] ** 2).mean() for played in (one, alone)]
    mean = np.cumsum(one.y) / np.arange(1, len(one.y) + 1)
    assert errors[0] < errors[1]
    assert errors[0] < ((mean[:-1] - one.y[1:]) ** 2)[half].mean() * 1.005


@pytest.mark.slow
def test_servers_and_restarted_learners_know_how_far_it_is_trusted(
    tmp_path: Path, noise: list[Example], beaten: Played
) -> None:
    log = SqliteLog(tmp_path / "log.db", LogSettings(sync=False))
    for topic in (EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS):
        log.create_topic(topic, 1)
    model = beaten.learner.model
    follower = Follower(Model(model.features, model.settings))
    follower.start(log)
    closed = []
    again = stream(2_000, 2.0, seed=1)
    for part in (noise[:1_000], noise[1_000:], again):  # restarted for each
        log.append(EXAMPLES, [Outgoing(b"", encode(one)) for one in part])
        with RoleState(tmp_path / "state", "learner", Learner.fingerprint(FEATURES, PLAIN)) as state:
            learner = Learner(FEATURES, PLAIN, state)
            runner = Runner(log, state, learner, Subscription(EXAMPLES, "learn")).open()
            while runner.step():
                pass
            runner.commit()
            while follower.poll(log):
                pass
            one, other = (each.score_requests(noise[:20]).z for each in (follower.model, learner.model))
            assert (one == other).all()
            closed.append((follower.model.trust.closed, learner.model.trust.closed))
            digest = learner.digest()
    log.close()
    assert closed[1:] == [(True, True), (False, False)]
    whole = Learner(FEATURES, PLAIN)
    whole.learn(noise + again)
    assert whole.digest() == digest

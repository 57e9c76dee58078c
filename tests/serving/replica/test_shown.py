"""What was shown lately, as a replica sees it in the examples: in its status, its metrics and on the page."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from serving.replica.replica import Replica
from serving.replica.status import ShownStatus
from serving.settings import ServerSettings
from serving.watch.telemetry import Telemetry
from stream.log.base import DEAD_LETTERS, EXAMPLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.testing import MemoryLog
from stream.records.types import Example, Features, Forget, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

FEATURES = {"user": FeatureSpec(dim=4), "item": FeatureSpec(dim=4)}
SETTINGS = LearnerSettings(deep="none")


class Idle:
    """A writer that has written nothing."""

    records = batches = failures = waiting = 0


def example(i: int, items: list[int], log_odds: float = 0.0) -> Example:
    labels = [1.0, *[0.0] * (len(items) - 1)]
    candidates: list[Features] = [{"item": item} for item in items]
    return Example(f"r{i}", 1e9 + i, 1e9 + i, candidates, labels, {"user": "u"}, log_odds=log_odds)


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.replica.observer.SHOWN_EVERY_S", 0.0)


@pytest.fixture
def log() -> MemoryLog:
    made = MemoryLog()
    for topic in (EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS):
        made.create_topic(topic, 1)
    return made


@pytest.fixture
def replica(log: MemoryLog, tmp_path: Path) -> Iterator[Replica]:
    """Behind a model that has rows of the items 1 to 8."""
    with replica_of(FEATURES, log, tmp_path) as made:
        yield made


@contextmanager
def replica_of(features: dict[str, FeatureSpec], log: MemoryLog, folder: Path) -> Iterator[Replica]:
    fingerprint = Learner.fingerprint(features, SETTINGS)
    with RoleState(folder, "learner", fingerprint, sync=False) as state:
        learner = Learner(features, SETTINGS, state)
        running = RunnerSettings(commit_every_s=0.0, wait_s=0.0)
        runner = Runner(log, state, learner, Subscription(EXAMPLES, "learn"), running).open()
        send(log, [example(0, list(range(1, 9)))])
        while runner.step():
            pass
        yield Replica(log, features, SETTINGS, MemorySettings(), ServerSettings())


def send(log: MemoryLog, examples: list[Example | Forget]) -> None:
    first = log.ends(EXAMPLES)[0][1]
    log.append(EXAMPLES, [Outgoing(b"k", encode(e), 0, "j", first + i) for i, e in enumerate(examples)])


def shown(replica: Replica) -> ShownStatus | msgspec.UnsetType:
    while replica.step():
        pass
    return replica.status().shown


def test_items_may_be_the_first_feature(log: MemoryLog, tmp_path: Path) -> None:
    with replica_of(dict(reversed(FEATURES.items())), log, tmp_path) as replica:
        send(log, [example(1, [1, 2])])
        found = shown(replica)
        assert isinstance(found, ShownStatus) and (found.of, found.candidates) == ("item", 2)


def test_status_and_metrics_say_what_was_shown(log: MemoryLog, replica: Replica) -> None:
    assert shown(replica) is msgspec.UNSET
    assert b"freshet_shown" not in Telemetry(replica, Idle()).render()
    send(log, [example(1, [3])])
    assert shown(replica) is msgspec.UNSET, "one candidate is no choice among items"
    send(log, [example(2, [1, 2]), example(3, [1, 3]), example(4, [1, 4])])
    found = shown(replica)
    assert isinstance(found, ShownStatus)
    assert (found.of, found.candidates, found.items, found.coverage) == ("item", 6, 4, 0.5)
    counts = np.array([1.0, 1.0, 1.0, 3.0])
    assert found.gini == pytest.approx(np.abs(counts[:, None] - counts[None]).mean() / (2 * counts.mean()))
    assert found.young is None
    text = Telemetry(replica, Idle()).render().decode()
    assert "freshet_shown_coverage_ratio 0.5" in text and "freshet_shown_young_ratio NaN" in text


def test_a_negative_counts_for_those_that_were_left_out(log: MemoryLog, replica: Replica) -> None:
    send(log, [example(1, [1, 2], log_odds=float(np.log(0.25)))])
    found = shown(replica)
    assert isinstance(found, ShownStatus)
    assert found.gini == pytest.approx(0.3)  # of 1 and 4


def test_a_forgotten_item_was_never_shown(log: MemoryLog, replica: Replica) -> None:
    send(log, [example(1, [1, 2]), example(2, [1, 3])])
    assert isinstance(found := shown(replica), ShownStatus) and found.items == 3
    send(log, [Forget("f", 1e9 + 3, {"item": [1]})])
    assert isinstance(found := shown(replica), ShownStatus)
    assert (found.candidates, found.items) == (2, 2)

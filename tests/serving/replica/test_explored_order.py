"""Orders that are drawn follow what is predicted, errors that the memory knows of included."""

from pathlib import Path

import numpy as np

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec, Request
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.log.base import DEAD_LETTERS, EXAMPLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.testing import MemoryLog
from stream.records.types import Example, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

FEATURES = {"user": FeatureSpec(dim=4), "item": FeatureSpec(dim=4)}
SETTINGS = LearnerSettings(deep="none")
ASKED = Request(1e9 + 1_000.0, {"user": "u"}, [{"item": 1}, {"item": 2}])


def test_item_that_the_memory_raises_is_drawn_first_more_often(tmp_path: Path) -> None:
    log = MemoryLog()
    for topic in (EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS):
        log.create_topic(topic, 1)

    def send(first: int, end: int, labels: list[float]) -> None:
        examples = [
            Example(f"r{i}", 1e9 + i, 1e9 + i, [{"item": 1}, {"item": 2}], labels, {"user": f"u{i}"})
            for i in range(first, end)
        ]
        log.append(EXAMPLES, [Outgoing(b"k", encode(e), 0, "j", first + i) for i, e in enumerate(examples)])

    fingerprint = Learner.fingerprint(FEATURES, SETTINGS)
    with RoleState(tmp_path, "learner", fingerprint, sync=False) as state:
        learner = Learner(FEATURES, SETTINGS, state)
        running = RunnerSettings(commit_every_s=0.0, wait_s=0.0)
        runner = Runner(log, state, learner, Subscription(EXAMPLES, "learn"), running).open()
        send(0, 60, [1.0, 0.0])
        while runner.step():
            pass
        replica = Replica(log, FEATURES, SETTINGS, MemorySettings(), ServerSettings())
        while replica.step():
            pass

        def firsts() -> float:
            """How often the second item is drawn first."""
            drawn = [replica.live.explore(ASKED, seed, 31).order[0] for seed in range(40)]
            return float(np.mean(np.array(drawn) == 1))

        assert firsts() < 0.1, "the model has learned of clicks on the first item only"
        send(60, 200, [0.0, 1.0])
        while replica.step():
            pass
        (told,) = replica.live.score([ASKED])
        assert told.base[0] > told.base[1] and told.corrected[0] < told.corrected[1]
        assert firsts() > 0.5

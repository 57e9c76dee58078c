"""Two models on one log in memory, each with its own learner, and a server that holds both."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from serving.models.held import HeldModels
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES, Log, Outgoing
from stream.log.testing import MemoryLog
from stream.orders.names import MAIN, OWN_TOPICS, own_name
from stream.orders.orders import MODELS
from stream.orders.view import log_of
from stream.records.types import Example, Impression, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

CHALLENGER = "challenger"
FEATURES = {"user": FeatureSpec(dim=4), "item": FeatureSpec(dim=4)}
SETTINGS = {
    MAIN: LearnerSettings(deep="none", window=500, score="own"),
    CHALLENGER: LearnerSettings(deep="none", window=500, score="own", speeds=(1.0,), speed_tau=(0.3,)),
}
TOPICS = (EVENTS, EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES, MODELS)


def new_log() -> MemoryLog:
    log = MemoryLog()
    for topic in (*TOPICS, *(own_name(topic, CHALLENGER) for topic in OWN_TOPICS)):
        log.create_topic(topic, 1)
    return log


def examples_of(n: int, seed: int = 0, *, flipped: bool = False) -> list[Example]:
    """Odd items are clicked, whoever sees them."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        items, at = rng.integers(0, 10, 2).tolist(), 1e9 + i
        clicked = [float((rng.random() < 0.1 + 0.8 * (item % 2)) != flipped) for item in items]
        found.append(
            Example(f"{seed}-{i}", at, at, [{"item": item} for item in items], clicked, {"user": f"u{i % 7}"})
        )
    return found


def asked(user: object = "u1", number: int = 0) -> Impression:
    return Impression(f"q{number}", 1e9, [{"item": item} for item in range(4)], {"user": user})


def add(log: Log, examples: Sequence[Example]) -> None:
    log.append(EXAMPLES, [Outgoing(e.request_id.encode(), encode(e), 0) for e in examples])


class OneLearner:
    """The learner of one model, moved by hand."""

    def __init__(self, log: Log, model: str, folder: Path) -> None:
        settings = SETTINGS[model]
        self.state = RoleState(folder, "learner", Learner.fingerprint(FEATURES, settings), sync=False)
        self.learner = Learner(FEATURES, settings, self.state)
        self.runner = Runner(
            log_of(log, model), self.state, self.learner, Subscription(EXAMPLES, "learn"),
            RunnerSettings(wait_s=0.0),
        ).open()  # fmt: skip

    def learn(self) -> None:
        while self.runner.step():
            pass
        self.runner.end()


def held(log: Log, shares: Mapping[str, float], settings: ServerSettings | None = None) -> HeldModels:
    server = settings or ServerSettings(port=0, stop_s=1.0)
    replicas = {
        name: Replica(log_of(log, name), FEATURES, one, MemorySettings(), server)
        for name, one in SETTINGS.items()
    }
    return HeldModels(log, replicas, shares, "user")


def catch_up(models: HeldModels) -> None:
    for replica in models.replicas.values():
        while replica.step():
            pass
    models.look()

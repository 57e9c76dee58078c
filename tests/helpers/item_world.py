"""A learner, a replica and its index of items over one log, moved by hand."""

from pathlib import Path

import numpy as np

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec, Request
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from serving.nearest.index import Nearest
from serving.nearest.settings import NearestSettings
from serving.replica.ranking import Ranking
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.log.base import EXAMPLES, Log, Outgoing
from stream.records.types import Example, Features, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

T = 1e9
FEATURES = {
    "user": FeatureSpec(dim=4),
    "item": FeatureSpec(dim=4, ttl_s=5_000.0),
    "kind": FeatureSpec(dim=4),
    "tags": FeatureSpec(kind="ids", dim=4),
    "price": FeatureSpec(kind="number", dim=4),
    "hour": FeatureSpec(kind="hour", dim=4),
}
SETTINGS = LearnerSettings(window=200)
FAST = RunnerSettings(commit_every_s=0.0, read_max=200, wait_s=0.0)


def item(i: int) -> Features:
    return {"item": f"i{i}", "kind": i % 7, "tags": [i % 5, 10 + i % 3], "price": float(i % 11)}


class ItemWorld:
    """People like one kind of items, and a few items are liked by all."""

    def __init__(self, log: Log, folder: Path, rows: str = "float32", score: int = 64, most: int = 9_000):
        self.log = log
        self.rng = np.random.default_rng(3)
        self.sent = 0
        self.state = RoleState(folder, "learner", Learner.fingerprint(FEATURES, SETTINGS), sync=False)
        learner = Learner(FEATURES, SETTINGS, self.state)
        self.learn = Runner(log, self.state, learner, Subscription(EXAMPLES, "learn"), FAST).open()
        self.settings = ServerSettings(
            port=0,
            rows=rows,
            nearest=NearestSettings(of="item", score=score, items_max=most),  # type: ignore[arg-type]
        )
        self.replica = Replica(log, FEATURES, SETTINGS, MemorySettings(), self.settings)
        self.index = Nearest(log, self.replica.live, self.settings.nearest, lambda: self.replica.loaded)
        self.replica.attach(self.index)

    def show(self, items: list[int], user: int = 0, at_s: float = 0.0) -> None:
        i = self.sent
        self.sent += 1
        chance = [0.05 + 0.5 * (n % 7 == user % 7) + 0.3 * (n % 13 == 0) for n in items]
        labels = (self.rng.random(len(items)) < chance).astype(float).tolist()
        time = T + (at_s or 0.01 * i)
        example = Example(f"r{i}", time, time, [item(n) for n in items], labels, {"user": user})
        self.log.append(EXAMPLES, [Outgoing(example.request_id.encode(), encode(example))])

    def turn(self) -> None:
        for step in (self.learn.step, self.replica.step, self.index.step):
            while step():
                pass
        while self.index.step():
            pass

    def best(self, user: int, among: list[int], k: int, ranking: Ranking | None = None) -> list[str]:
        """By scoring everything."""
        request = Request(T + 50.0, {"user": user}, [item(n) for n in among])
        values = self.replica.live.rank_values(request, ranking)
        return [f"i{among[n]}" for n in np.argsort(-values, kind="stable")[:k]]

    def find(self, user: int, k: int, **more: object) -> list[int | str]:
        return self.index.find(Request(T + 50.0, {"user": user}, []), k, **more).items  # type: ignore[arg-type]

"""A learner whose rows rest, and a server's model that follows it, each of which may be killed.

python tests/helpers/resting_parts.py write FOLDER    learns and publishes until it is killed
python tests/helpers/resting_parts.py read FOLDER     loads the newest snapshot, again and again
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from embeddings.types import Floats, Keys
from learner.features.encoder import FeatureSpec
from learner.model.model import Model
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.updates.follower import Follower
from stream.log.base import SNAPSHOTS, UPDATES, Log
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.records.types import Example
from stream.state.role_state import RoleState

MEMORY_ROWS = 3_000
FEATURES = {
    "user": FeatureSpec(dim=2, pairs=False),
    "item": FeatureSpec(dim=16, pairs=False, evict="none", memory_rows=MEMORY_ROWS),
    "tag": FeatureSpec(dim=2, pairs=False, rows_max=40_000, evict="least_recent", memory_rows=MEMORY_ROWS),
}
SETTINGS = LearnerSettings(deep="none", snapshot_bytes_min=5 << 20)
AT_ONCE = 2_000  # rows of a commit: fewer than rest


def commit(learner: Learner, state: RoleState) -> int:
    """Commit what was learned; returns the bytes that wait to be sent."""
    changes = state.begin()
    learner.flush(changes)
    state.commit(changes)
    return sum(len(record.value) for block in state.unsent() for record in block.records)


def send(state: RoleState, log: Log) -> None:
    """Send what waits."""
    for block in state.unsent():
        log.append(block.topic, block.records)
        state.mark_sent(block.number)


def grow(learner: Learner, step: int) -> None:
    """Rows of ids that were not there, and examples of ids that were."""
    first = AT_ONCE * step
    for table in learner.model.tables[1:]:
        keys = np.arange(first, first + AT_ONCE, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        table.upsert(keys, int(1e9) + step)
    rng = np.random.default_rng(step)
    ids = rng.integers(0, first + 1, 20).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    learner.learn(
        [
            Example("", 1e9 + step, 1e9 + step, [{"item": item, "tag": item}], [float(i % 2)], {"user": i})
            for i, item in enumerate(ids.view(np.int64).tolist())
        ]
    )


def rows_of(model: Model, now: int) -> list[tuple[Keys, Floats]]:
    """The rows of each table as servers have them, by key."""
    found = []
    for table in model.tables:
        pages = [(keys, table.served(rows)) for keys, rows in table.pages(now)]
        keys = np.concatenate([keys for keys, _ in pages])
        rows = np.concatenate([rows for _, rows in pages])
        order = np.argsort(keys)
        found.append((keys[order], rows[order]))
    return found


def opened(folder: Path) -> RoleState:
    """The learner's state."""
    fingerprint = Learner.fingerprint(FEATURES, SETTINGS)
    return RoleState(folder / "learn", "learner", fingerprint, sync=False, rows=True)


def log_in(folder: Path) -> Log:
    """The log."""
    log = SqliteLog(folder / "log.db", LogSettings(sync=False))
    for topic in (UPDATES, SNAPSHOTS):
        log.create_topic(topic, 1)
    return log


def follower_in(folder: Path) -> Follower:
    """A follower whose rows rest in a folder."""
    features = {name: msgspec.structs.replace(spec) for name, spec in FEATURES.items()}
    return Follower(Model(features, SETTINGS, rest_in=folder / "rest"))


def _main(what: str, folder: Path) -> None:
    log = log_in(folder)
    if what == "read":
        while True:
            follower = follower_in(folder)
            follower.start(log)
            follower.model.resting.close()
    with opened(folder) as state:
        learner = Learner(FEATURES, SETTINGS, state)
        send(state, log)
        while True:
            grow(learner, learner.meta.seq)
            commit(learner, state)
            send(state, log)


if __name__ == "__main__":
    arguments: Sequence[str] = sys.argv[1:]
    _main(arguments[0], Path(arguments[1]))

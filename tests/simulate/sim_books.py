"""The end of a schedule: log, learners and servers against the ledger and a plain replay."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ledger import Ledger
from sim_roles import FEATURES, LEARN, RUNNER

from learner.model.model import Model
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.updates.follower import Follower
from serving.replica.replica import Replica
from stream.log.base import EXAMPLES, Log
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.journal import read_journal
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk


def close_books(
    log: Log,
    disk: MemoryDisk,
    ledger: Ledger,
    learners: Sequence[str],
    replicas: Sequence[Replica],
    settings: LearnerSettings = LEARN,
) -> dict[str, Any]:
    """Compare everything with everything; each number must be 0."""
    fingerprint = Learner.fingerprint(FEATURES, settings)
    follower = Follower(Model(FEATURES, settings))
    follower.start(log)
    while follower.poll(log):
        pass
    books: dict[str, Any] = {}
    digests: list[str] = []
    for name in learners:
        with RoleState(Path(name), "learner", fingerprint, disk=disk.connect()) as state:
            learner = Learner(FEATURES, settings, state)
            if learner.meta.seq != follower.seq:
                continue  # it stood by, and was stopped before it had followed to the end
            digests.append(learner.digest())
            if books:
                continue
            books["follower_rows_off"] = differences(follower.model, learner.model)
            for replica in replicas:
                books["server_rows_off"] = books.get("server_rows_off", 0) + differences(
                    replica.model, learner.model
                )
            journal = list(read_journal(state))
            books |= ledger.balance(log, learner)
    if not books:
        return {"no_learner_is_where_the_updates_end": 1}
    with RoleState(Path("again"), "learner", fingerprint, disk=MemoryDisk()) as state:
        again = Learner(FEATURES, settings, state)
        again.leads = False
        subscription = Subscription(EXAMPLES, "again", commits_offsets=False)
        Runner(log, state, again, subscription, RUNNER).open().follow(journal)
        books["replay_off"] = sum(digest != again.digest() for digest in digests)
    return books


def differences(mine: Model, theirs: Model) -> int:
    """Rows and arrays in which a copy that serves differs from the model that it follows."""
    wrong = 0
    for copy, table in zip(mine.tables, theirs.tables, strict=True):
        keys, _ = table.items()
        expected, _ = table.export_serving(keys)
        found, there = copy.export(keys)
        wrong += int((~((found == expected).all(axis=1) & there)).sum()) + abs(len(copy) - len(table))
    for name, array in theirs.arrays().items():
        wrong += int(np.sum(mine.arrays()[name] != array))
    return wrong

"""The end of a run of chaos: what learners, log and followers hold, against the ledger."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ledger import Ledger

from freshet.config import Config
from learner.errors import UpdateGapError
from learner.model.model import Model
from learner.role.learner import Learner
from learner.updates.chain import Chain, UpdatePosition
from learner.updates.follower import Follower
from learner.updates.format import decode_update
from stream.log.base import EXAMPLES, UPDATES, Log
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.journal import JournalStretch, read_journal
from stream.state.role_state import RoleState


class Published(NamedTuple):
    """What learners have published, as far as it counts."""

    examples: int
    terms: set[int]
    fenced: int  # records that do not count


def close_books(config: Config, log: Log, ledger: Ledger) -> dict[str, Any]:
    """Compare everything with the ledger; each number under `books` must be 0."""
    fingerprint = Learner.fingerprint(config.features, config.learner)
    follower = Follower(Model(config.features, config.learner))
    follower.start(log)
    while follower.poll(log, 1.0):
        pass
    digests: list[str] = []
    journal: list[list[JournalStretch]] = []
    books: dict[str, int] = {}
    learnt = requests = 0
    for folder in sorted(Path(config.state).glob("learn-*")):
        with RoleState(folder, "learner", fingerprint) as state:
            learner = Learner(config.features, config.learner, state)
            if learner.meta.seq != follower.seq or books:
                digests += [learner.digest()] if learner.meta.seq == follower.seq else []
                continue
            digests.append(learner.digest())
            replica_off = _compare(follower, learner)
            journal = list(read_journal(state))
            learnt, requests = learner.meta.examples, learner.meta.requests
            books = {**ledger.balance(log, learner), **replica_off}
    assert books, "no learner is where the updates end"
    told = published(log)
    with tempfile.TemporaryDirectory() as folder, RoleState(folder, "learner", fingerprint) as state:
        again = Learner(config.features, config.learner, state)
        again.leads = False
        Runner(
            log, state, again, Subscription(EXAMPLES, "again", commits_offsets=False), config.stream.runner
        ).open().follow(journal)
        books["one_life_off"] = sum(digest != again.digest() for digest in digests)
    return {
        "balanced": not any(books.values()),
        "books": books,
        "requests_learnt": requests,
        "rows_learnt": learnt,
        "updates": follower.seq,
        "terms": len(told.terms),
        "fenced_records": told.fenced,
        "learners_compared": len(digests),
    }


def published(log: Log) -> Published:
    """What the updates that the log still holds say."""
    chain = Chain(UpdatePosition())
    terms: set[int] = set()
    examples = 0
    for record in _records(log):
        update = decode_update(record.value)
        try:
            parts = chain.take(update)
        except UpdateGapError:  # those before it were trimmed
            chain.jump(update.epoch, update.seq, update.term)
            continue
        if parts is not None:
            terms.add(update.term)
            examples = update.examples
    return Published(examples, terms, chain.fenced)


def _records(log: Log) -> Any:
    first, end = log.ends(UPDATES)[0]
    while first < end:
        for record in log.read(UPDATES, 0, first, wait_s=1.0):
            first = record.offset + 1
            yield record


def _compare(follower: Follower, learner: Learner) -> dict[str, int]:
    """Rows and arrays in which one who follows the updates differs from the learner."""
    wrong = 0
    for mine, theirs in zip(follower.model.tables, learner.model.tables, strict=True):
        keys, _ = theirs.items()
        expected, _ = theirs.export_serving(keys)
        found, there = mine.export(keys)
        wrong += int((~((found == expected).all(axis=1) & there)).sum()) + abs(len(mine) - len(theirs))
    for name, array in learner.model.arrays().items():
        wrong += int(np.sum(follower.model.arrays()[name] != array))
    return {"replica_rows_off": wrong, "replica_gaps": follower.gaps}

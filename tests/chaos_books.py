"""The end of a run of chaos: what learners, log and followers hold, against the ledger."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ledger import Ledger

from freshet.config import Config
from learner.chain import Chain, Place
from learner.follower import Follower
from learner.learner import Learner
from learner.model import Model
from learner.updates import decode_update
from stream.log import EXAMPLES, UPDATES, Log
from stream.runner import Runner, Taken
from stream.state import RoleState


def close_books(config: Config, log: Log, ledger: Ledger) -> dict[str, Any]:
    """Compare everything with the ledger; each number under `books` must be 0."""
    fingerprint = Learner.fingerprint(config.features, config.learner)
    follower = Follower(Model(config.features, config.learner))
    follower.start(log)
    while follower.poll(log, 1.0):
        pass
    digests: list[str] = []
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
            learnt, requests = learner.meta.examples, learner.meta.requests
            books = {**ledger.balance(log, learner), **replica_off}
    assert books, "no learner is where the updates end"
    journal, fenced = _journal(log)
    with tempfile.TemporaryDirectory() as folder, RoleState(folder, "learner", fingerprint) as state:
        again = Learner(config.features, config.learner, state)
        again.leads = False
        Runner(log, state, again, EXAMPLES, "again", config.stream.runner, tells=False).follow(journal)
        books["one_life_off"] = sum(digest != again.digest() for digest in digests)
    return {
        "balanced": not any(books.values()),
        "books": books,
        "requests_learnt": requests,
        "rows_learnt": learnt,
        "updates": follower.seq,
        "terms": len(set(_terms(log))),
        "fenced_records": fenced,
        "learners_compared": len(digests),
    }


def _journal(log: Log) -> tuple[list[list[Taken]], int]:
    """What the updates that count say was learnt, in order; and how many records do not count."""
    chain = Chain(Place())
    journal = []
    for record in _records(log):
        parts = chain.take(decode_update(record.value))
        if parts is not None:
            journal.append([Taken(*stretch) for stretch in parts[-1].taken])
    return journal, chain.fenced


def _terms(log: Log) -> list[int]:
    return [update.term for record in _records(log) if (update := decode_update(record.value)).parts]


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

"""Rows that a standby has freed before its leader leave the servers when the standby leads."""

import itertools
import random
from pathlib import Path

import pytest
from test_succession import One, append, gone, log

from embeddings.rest.table import RestingTable
from learner.features.encoder import FeatureSpec
from learner.model.model import Model
from learner.updates.follower import Follower
from learner.updates.unsaid import unsaid_keys
from stream.log.base import Log

__all__ = ["log"]
pytestmark = pytest.mark.slow

LIMITED = {
    "recent": FeatureSpec(dim=2, rows_max=64, evict="least_recent"),
    "frequent": FeatureSpec(dim=2, rows_max=64, evict="least_frequent", ttl_s=300.0),
    "expiring": FeatureSpec(dim=2, rows_max=300, ttl_s=60.0, evict="none"),
    "resting": FeatureSpec(dim=2, rows_max=64, evict="least_recent", memory_rows=20),
}

KNOWN = {
    "past": FeatureSpec(kind="history", by="user", of="item", length=4, dim=2, ttl_s=20.0),
    "lately": FeatureSpec(kind="rate", of="item", window_s=60.0, rows_max=64, evict="least_recent"),
}
"""Tables whose newest sighting is often older than the learner's clock."""


def keys_of(model: Model, name: str) -> set[int]:
    """The keys of all rows that a table holds, those included that are to be freed."""
    table = dict(zip(model.table_names, model.tables, strict=True))[name]
    pages = table.pages()
    if isinstance(table, RestingTable):
        pages = itertools.chain(table.pages_in_memory(), table.resting_pages(passed=True))
    return {key for keys, _ in pages for key in keys.tolist()}


def noted(one: One, name: str) -> set[int]:
    return set(unsaid_keys(one.state, name).tolist())


def poll(follower: Follower, log: Log) -> None:
    while follower.poll(log):
        pass


@pytest.mark.parametrize("kind", LIMITED)
def test_who_takes_over_names_the_rows_that_it_has_freed_before_its_leader(
    log: Log, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learner.role.session.LOOK_WAIT_S", 0.001)
    monkeypatch.setattr("learner.role.learner.EXPIRE_SLOTS", 5)  # so that a round takes many flushes
    monkeypatch.setattr("embeddings.rest.snapshot.SWEPT_MIN", 2)
    monkeypatch.setattr("embeddings.rest.snapshot.SWEPT_PER_ROW", 1)
    features = {"user": FeatureSpec(dim=2), "item": LIMITED[kind], **KNOWN}
    rng = random.Random(3)
    a, b = One(log, tmp_path, "a", features=features), One(log, tmp_path, "b", features=features)
    server = Follower(Model(features, a.session.learner.settings))
    a.lead()
    number, takeovers, early, late = 0, 0, 0, 0
    for _ in range(60):
        append(log, number, 7)
        number += rng.choice((7, 20))
        a.learn()
        names = a.session.learner.model.table_names
        before = {name: keys_of(b.session.learner.model, name) for name in names}
        b.learn()
        poll(server, log)
        assert a.digest == b.digest
        for name in names:
            served, mine = keys_of(server.model, name), keys_of(b.session.learner.model, name)
            assert served == keys_of(a.session.learner.model, name)
            assert mine <= served, "what the leader frees first the standby frees with it"
            assert noted(b, name) == served - mine
            early += len(served - mine)
            late += len(before[name] - served)
        if rng.random() < 0.4:
            b.close()
            b.open()
            b.learn()
        if rng.random() < 0.2:
            gone(a, b)
            b.lead()
            append(log, number, 3)
            b.learn()
            poll(server, log)
            for name in names:
                assert keys_of(server.model, name) == keys_of(b.session.learner.model, name)
                assert not noted(b, name)
            a.close()
            a.open()
            a, b = b, a
            takeovers += 1
    assert takeovers > 2 and early > 5 and late > 5
    a.close()
    b.close()

"""What a feature may say of its table's rows: every choice learns, and the same however cut."""

from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from embeddings import TableError
from learner.features.encoder import Batch, FeatureSpec
from learner.model.model import Gathered, Model
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from stream.log.base import DEAD_LETTERS, EXAMPLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.open import open_log
from stream.records.types import Example, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

SETTINGS = LearnerSettings(window=200, snapshot_bytes_min=100_000)
CHOICES: list[dict[str, Any]] = [
    {"optimizer": "sgd", "rate": 0.01},
    {"optimizer": "rowwise_adagrad"},
    {"optimizer": "adam"},
    {"optimizer": "ftrl"},
    {"admit_share": 0.5},
    {"rows_max": 64, "evict": "least_recent"},
    {"rows_max": 64, "evict": "least_frequent", "optimizer": "adam"},
    {"rows_max": 128, "evict": "least_recent", "ttl_s": 3000.0, "admit_after": 2},
]


def features(choice: dict[str, Any]) -> dict[str, FeatureSpec]:
    return {"user": FeatureSpec(dim=4), "item": FeatureSpec(dim=4, **choice)}


def make_examples(n: int) -> list[Example]:
    rng = np.random.default_rng(3)
    found = []
    for i in range(n):
        items = np.unique((300 * rng.random(int(rng.integers(1, 5))) ** 2).astype(int) + i // 50)
        found.append(
            Example(
                request_id=f"r{i}",
                time=1e9 + 10.0 * i,
                decided=1e9 + 10.0 * i,
                candidates=[{"item": int(item)} for item in items],
                labels=[float(rng.random() < 0.1 + 0.8 * (item % 2)) for item in items],
                context={"user": f"u{rng.integers(0, 30)}"},
            )
        )
    return found


EXAMPLES_MADE = make_examples(400)


@cache
def learned(number: int | None) -> Learner:
    """A learner that took all examples at once, with one of CHOICES or with the default settings."""
    learner = Learner(features({} if number is None else CHOICES[number]), SETTINGS)
    learner.learn(EXAMPLES_MADE)
    return learner


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CHOICES)), ids=map(str, CHOICES))
def test_digest_does_not_depend_on_where_chunks_are_cut(number: int) -> None:
    examples, choice, whole = EXAMPLES_MADE, CHOICES[number], learned(number)
    cut = Learner(features(choice), SETTINGS)
    rng = np.random.default_rng(1)
    at = 0
    while at < len(examples):
        size = int(rng.integers(1, 60))
        cut.learn(examples[at : at + size])
        at += size
    assert cut.digest() == whole.digest()
    rows = whole.model.tables[1].stats
    assert (rows.evicted > 100) == ("evict" in choice)
    assert learned(None).digest() != whole.digest()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5, len(CHOICES)), ids=map(str, CHOICES[5:]))
def test_learner_that_evicts_goes_on_after_restarts_as_if_never_stopped(tmp_path: Path, number: int) -> None:
    examples, choice, never = EXAMPLES_MADE, CHOICES[number], learned(number)
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    for topic in (EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS):
        log.create_topic(topic, 1)
    fingerprint = Learner.fingerprint(features(choice), SETTINGS)
    digest = ""
    for first in range(0, 400, 40):
        log.append(
            EXAMPLES, [Outgoing(e.request_id.encode(), encode(e)) for e in examples[first : first + 40]]
        )
        with RoleState(tmp_path / "learner", "learner", fingerprint, sync=False) as state:
            learner = Learner(features(choice), SETTINGS, state)
            settings = RunnerSettings(commit_every_s=0.0, read_max=17)
            runner = Runner(log, state, learner, Subscription(EXAMPLES, "learn"), settings).open()
            while runner.step():
                pass
            runner.commit()
            digest = learner.digest()
    log.close()
    assert digest == never.digest()


@pytest.mark.slow
@pytest.mark.parametrize("evict", ["least_recent", "least_frequent"])
def test_small_table_whose_ids_change_slowly_costs_few_cuts(
    evict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table checks after rows_max / 64 sightings, here 2, but evicts only after many new rows."""
    choice = {"rows_max": 128, "evict": evict}
    rng = np.random.default_rng(5)
    examples = [
        Example(
            request_id=f"r{i}",
            time=1e9 + i,
            decided=1e9 + i,
            candidates=[{"item": int(rng.integers(100)) + i // 16}],
            labels=[float(rng.random() < 0.3)],
            context={"user": int(rng.integers(50))},
        )
        for i in range(1_600)
    ]
    one_by_one, whole = Learner(features(choice), SETTINGS), Learner(features(choice), SETTINGS)
    for example in examples:
        one_by_one.learn([example])
    ranges = []
    gather = Model.gather

    def counted(self: Model, batch: Batch, *, insert: bool) -> Gathered:
        ranges.append(batch)
        return gather(self, batch, insert=insert)

    monkeypatch.setattr(Model, "gather", counted)
    whole.learn(examples)
    assert whole.digest() == one_by_one.digest()
    evictions = whole.model.tables[1].stats.evicted // 12  # a limit evicts at least 6 generations of 2 rows
    assert evictions >= 3
    assert len(ranges) <= 1_600 // 512 + 12 * evictions


def test_choice_that_cannot_work_is_refused() -> None:
    for choice, message in (
        ({"rows_max": 10, "evict": "least_recent"}, "rows_max"),
        ({"admit_share": 0.5, "admit_after": 2}, "admit_share"),
    ):
        with pytest.raises((ValueError, TableError, msgspec.ValidationError), match=message):
            FeatureSpec(**choice)

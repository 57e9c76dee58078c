"""The learner over a real log and a real state: resume, follow, and the same state whatever the cuts."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest

from ground import FreshetError
from learner.features.encoder import FeatureSpec, Request
from learner.features.labelled import Labelled
from learner.metrics import Metrics
from learner.model.model import Model
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.train.trainer import Learnt
from learner.updates.follower import Follower
from learner.updates.snapshots import Trimmer
from stream.errors import DeadLetterFloodError, StateError
from stream.log.base import DEAD_LETTERS, EXAMPLES, SNAPSHOTS, UPDATES, Log, Outgoing
from stream.log.open import open_log
from stream.records.types import Example, Forget, Served, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.journal import read_journal
from stream.state.role_state import RoleState

pytestmark = pytest.mark.slow

FEATURES = {
    "user": FeatureSpec(dim=4),
    "item": FeatureSpec(dim=4, admit_after=2, ttl_s=4000.0),
    "tags": FeatureSpec(kind="ids", dim=4),
    "price": FeatureSpec(kind="number", dim=4),
    "hour": FeatureSpec(kind="hour", dim=4),
}
SETTINGS = LearnerSettings(window=200, snapshot_bytes_min=100_000)


def make_examples(n: int, seed: int = 0) -> list[Example]:
    """n requests of one to three candidates whose labels depend on the item."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        items = rng.choice(40, size=rng.integers(1, 4), replace=False)
        candidates = [
            {"item": int(item), "tags": [int(item) % 5, f"t{item % 3}"], "price": float(item) / 7}
            for item in items
        ]
        labels = [float(rng.random() < 0.1 + 0.8 * (item % 2)) for item in items]
        found.append(
            Example(
                request_id=f"r{i}",
                time=1e9 + 30.0 * i - float(rng.integers(0, 50)),
                decided=1e9 + 30.0 * i,
                candidates=candidates,  # type: ignore[arg-type]
                labels=labels,
                context={"user": f"u{rng.integers(0, 30)}"},
            )
        )
    return found


def make_log(path: Path) -> Log:
    """A log with all of the learner's topics."""
    log = open_log(f"sqlite:{path / 'log.db'}")
    for topic, partitions in ((EXAMPLES, 2), (UPDATES, 1), (SNAPSHOTS, 1), (DEAD_LETTERS, 1)):
        log.create_topic(topic, partitions)
    return log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log that is closed again."""
    log = make_log(tmp_path)
    yield log
    log.close()


def append(log: Log, examples: list[Example]) -> None:
    """Put examples into the log, by their request."""
    log.append(
        EXAMPLES,
        [Outgoing(e.request_id.encode(), encode(e), partition=i % 2) for i, e in enumerate(examples)],
    )


def open_state(path: Path) -> RoleState:
    """A learner's state folder."""
    return RoleState(path / "learner", "learner", Learner.fingerprint(FEATURES, SETTINGS), sync=False)


def step_all(runner: Runner) -> None:
    """Take all there is, and commit."""
    while runner.step():
        pass
    runner.commit()


@pytest.mark.slow
def test_digest_does_not_depend_on_where_chunks_are_cut() -> None:
    examples = make_examples(600)
    whole = Learner(FEATURES, SETTINGS)
    whole.learn(examples)
    cut = Learner(FEATURES, SETTINGS)
    rng = np.random.default_rng(1)
    at = 0
    while at < len(examples):
        size = int(rng.integers(1, 90))
        cut.learn(examples[at : at + size])
        at += size
    assert cut.digest() == whole.digest()


@pytest.mark.slow
def test_learner_resumed_from_state_goes_on_as_if_never_stopped(tmp_path: Path, log: Log) -> None:
    examples = make_examples(500)
    append(log, examples[:301])
    settings = RunnerSettings(commit_every_s=0.0, read_max=17)
    digests = []
    for more in (examples[301:], None):
        with open_state(tmp_path) as state:
            learner = Learner(FEATURES, SETTINGS, state)
            digests.append(learner.digest())
            step_all(Runner(log, state, learner, Subscription(EXAMPLES, "learn"), settings).open())
            digests.append(learner.digest())
            if more is not None:
                append(log, more)
    assert digests[1] == digests[2]
    assert digests[3] != digests[2]
    # The same records in the same order in one life: the journal says which order that was.
    with open_state(tmp_path) as state:
        journal = list(read_journal(state))
    with RoleState(
        tmp_path / "again", "learner", Learner.fingerprint(FEATURES, SETTINGS), sync=False
    ) as state:
        again = Learner(FEATURES, SETTINGS, state)
        Runner(
            log, state, again, Subscription(EXAMPLES, "again"), RunnerSettings(commit_every_s=9.0)
        ).open().follow(journal)
        assert again.digest() == digests[3]


def test_state_is_of_one_order_of_features_since_columns_follow_it(tmp_path: Path) -> None:
    other = dict(reversed(FEATURES.items()))
    with open_state(tmp_path):
        pass
    with pytest.raises(StateError, match="features"):
        RoleState(tmp_path / "learner", "learner", Learner.fingerprint(other, SETTINGS), sync=False)


@pytest.mark.slow
def test_follower_answers_as_the_learner_from_updates_and_from_a_snapshot(tmp_path: Path, log: Log) -> None:
    append(log, make_examples(800))
    with open_state(tmp_path) as state:
        learner = Learner(FEATURES, SETTINGS, state)
        step_all(
            Runner(
                log,
                state,
                learner,
                Subscription(EXAMPLES, "learn"),
                RunnerSettings(commit_every_s=0.0, read_max=20),
            ).open()
        )
        live = Follower(Model(FEATURES, SETTINGS))
        while live.poll(log):
            pass
        assert log.ends(SNAPSHOTS)[0][1] > 0, "the run is long enough for a snapshot"
        late = Follower(Model(FEATURES, SETTINGS))
        assert late.start(log)
        while late.poll(log):
            pass
        assert late.applied < live.applied / 2, "it begins at the newest snapshot"
        requests = [Request(e.time, e.context, e.candidates) for e in make_examples(20, seed=5)]
        expected = learner.model.score_requests(requests).z
        assert np.array_equal(live.model.score_requests(requests).z, expected)
        assert np.array_equal(late.model.score_requests(requests).z, expected)
        assert live.watermark == {0: 400, 1: 400}


@pytest.mark.slow
def test_trimmed_log_still_holds_all_that_a_new_follower_needs(tmp_path: Path, log: Log) -> None:
    examples = make_examples(900)
    requests = [Request(e.time, e.context, e.candidates) for e in make_examples(20, seed=5)]
    with open_state(tmp_path) as state:
        learner = Learner(FEATURES, SETTINGS, state)
        runner = Runner(
            log,
            state,
            learner,
            Subscription(EXAMPLES, "learn"),
            RunnerSettings(commit_every_s=0.0, read_max=20),
        ).open()
        behind = Follower(Model(FEATURES, SETTINGS))
        behind.start(log)
        trimmer = Trimmer(log)
        trimmed = []
        for first in range(0, 900, 100):
            append(log, examples[first : first + 100])
            step_all(runner)
            trimmer.trim()
            trimmed.append(log.ends(UPDATES)[0][0])
            fresh = Follower(Model(FEATURES, SETTINGS))
            fresh.start(log)
            while fresh.poll(log):
                pass
            assert (fresh.gaps, fresh.seq) == (0, learner.meta.seq)
            expected = learner.model.score_requests(requests).z
            assert np.array_equal(fresh.model.score_requests(requests).z, expected)
        assert 0 < trimmed[-1] < log.ends(UPDATES)[0][1]
        assert len(set(trimmed)) > 2, "what is kept moves along with the snapshots"
        assert log.ends(SNAPSHOTS)[0][0] > 0
        # One that slept through all of it notices, and heals from the newest snapshot.
        for _ in range(100):
            behind.poll(log)
        assert behind.gaps == 1 and not behind.behind
        assert np.array_equal(behind.model.score_requests(requests).z, expected)


def test_example_that_does_not_fit_the_schema_becomes_a_dead_letter(tmp_path: Path, log: Log) -> None:
    examples = make_examples(10)
    wrong = Example("bad", 1e9, 1e9, [{"item": 1, "price": "cheap"}], [1.0], {"user": "u"})
    append(log, [*examples[:5], wrong, *examples[5:]])
    log.append(EXAMPLES, [Outgoing(b"x", b"{not json", partition=0)])
    with open_state(tmp_path) as state:
        learner = Learner(FEATURES, SETTINGS, state)
        runner = Runner(log, state, learner, Subscription(EXAMPLES, "learn")).open()
        stop = threading.Event()
        stop.set()
        step_all(runner)
        assert learner.meta.requests == 10
        letters = log.read(DEAD_LETTERS, 0, 0)
        assert len(letters) == 2
        assert any(b"price" in letter.value and b"expected a number" in letter.value for letter in letters)


def test_flood_of_examples_of_no_use_stops_the_learner_where_it_was(tmp_path: Path, log: Log) -> None:
    settings = msgspec.structs.replace(SETTINGS, dead_letter_window=20, dead_letter_share_max=0.5)
    log.append(EXAMPLES, [Outgoing(b"", encode(e), partition=0) for e in make_examples(15)])
    with open_state(tmp_path) as state:
        step_all(
            Runner(log, state, Learner(FEATURES, settings, state), Subscription(EXAMPLES, "learn")).open()
        )
    log.append(EXAMPLES, [Outgoing(b"", b"{not json", partition=0)] * 20)
    for _ in range(2):  # started again it stops there again
        with open_state(tmp_path) as state:
            learner = Learner(FEATURES, settings, state)
            with pytest.raises(DeadLetterFloodError, match=r"offset 25: 11 of the last 20 .*--set learner\."):
                step_all(Runner(log, state, learner, Subscription(EXAMPLES, "learn")).open())
        assert log.ends(DEAD_LETTERS) == [(0, 0)]
        assert log.committed("learn", EXAMPLES)[0] == 15
    settings = msgspec.structs.replace(settings, dead_letter_share_max=1.0)
    with open_state(tmp_path) as state:
        step_all(
            Runner(log, state, Learner(FEATURES, settings, state), Subscription(EXAMPLES, "learn")).open()
        )
    assert log.ends(DEAD_LETTERS) == [(0, 20)]


def test_scoring_changes_nothing(tmp_path: Path) -> None:
    learner = Learner(FEATURES, SETTINGS)
    learner.learn(make_examples(100))
    before = learner.digest()
    learner.model.score_requests([Request(1e9, {"user": "new"}, [{"item": 999_999, "tags": ["x"]}])])
    assert learner.digest() == before


def test_candidates_of_one_request_do_not_see_each_other() -> None:
    """Whatever the labels are, predictions of a request are the same: it is predicted whole."""
    start = make_examples(200)
    first, second = Learner(FEATURES, SETTINGS), Learner(FEATURES, SETTINGS)
    first.learn(start)
    second.learn(start)
    slate = [{"item": i, "tags": [1]} for i in range(64)]
    ones = Example("s", 2e9, 2e9, slate, [1.0] * 64, {"user": "u1"})  # type: ignore[arg-type]
    zeros = Example("s", 2e9, 2e9, slate, [0.0] * 64, {"user": "u1"})  # type: ignore[arg-type]
    a = np.concatenate([g.p for g in first.learn([ones]) + first.finish()])[-64:]
    b = np.concatenate([g.p for g in second.learn([zeros]) + second.finish()])[-64:]
    assert np.array_equal(a, b)


def test_ids_that_are_refused_are_refused_after_a_restart(tmp_path: Path) -> None:
    settings = LearnerSettings(deep="none")
    examples = make_examples(60)
    user = examples[50].context["user"]
    request = Forget("f", examples[20].time, {"user": [user]}, refuse_s=1e6)
    for restarted in (False, True):
        with RoleState(tmp_path, "learner", Learner.fingerprint(FEATURES, settings), sync=False) as state:
            learner = Learner(FEATURES, settings, state)
            if not restarted:
                learner.learn(examples[:20])
                learner.forget(request)
            assert learner.intake.admit(examples[50]) is None
            other = next(example for example in examples[20:] if example.context["user"] != user)
            assert learner.intake.admit(other) is not None
            commit = state.begin()
            learner.flush(commit)
            state.commit(commit)
            learner.close()


def test_state_that_has_lost_a_table_is_refused(tmp_path: Path, log: Log) -> None:
    append(log, make_examples(50))
    with open_state(tmp_path) as state:
        step_all(
            Runner(log, state, Learner(FEATURES, SETTINGS, state), Subscription(EXAMPLES, "learn")).open()
        )
        commit = state.begin()
        commit.delete(b"table/item/meta")
        state.commit(commit)
        with pytest.raises(StateError, match="holds no table 'item'"):
            Learner(FEATURES, SETTINGS, state)


def test_error_while_learning_is_not_taken_for_an_examples_and_nothing_is_learnt_twice(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the fast part has moved, a second attempt would count every example again."""
    learner = Learner(FEATURES, SETTINGS)
    calls = 0
    learn = learner.trainer.learn_labelled

    def fails(labelled: Labelled) -> list[Learnt]:
        nonlocal calls
        calls += 1
        learn(labelled)
        raise FreshetError("the network has ended")

    monkeypatch.setattr(learner.trainer, "learn_labelled", fails)
    append(log, make_examples(10))
    with open_state(tmp_path) as state, pytest.raises(FreshetError, match="the network has ended"):
        learner.handle(log.read(EXAMPLES, 0, 0), state.begin())
    assert calls == 1 and log.ends(DEAD_LETTERS) == [(0, 0)]


def test_metrics_go_on_where_they_were_after_a_restart(tmp_path: Path, log: Log) -> None:
    append(log, make_examples(300))
    with open_state(tmp_path) as state:
        learner = Learner(FEATURES, SETTINGS, state)
        step_all(Runner(log, state, learner, Subscription(EXAMPLES, "learn")).open())
        before, recent, examples = learner.metrics.state(), learner.metrics.recent(), learner.metrics.examples
    assert examples > 300 and recent["auc"] is not None
    with open_state(tmp_path) as state:
        again = Learner(FEATURES, SETTINGS, state)
        assert again.metrics.state() == before
        assert again.metrics.recent() == recent and again.metrics.examples == examples


@pytest.mark.slow
def test_recent_metrics_are_kept_in_blocks_whatever_the_window_was(tmp_path: Path, log: Log) -> None:
    append(log, make_examples(1_800))  # the ring of 3,000 has come around once
    settings = msgspec.structs.replace(SETTINGS, window=3_000)
    (tmp_path / "3000").mkdir()
    with open_state(tmp_path / "3000") as state:
        learner = Learner(FEATURES, settings, state)
        step_all(Runner(log, state, learner, Subscription(EXAMPLES, "learn")).open())
    assert learner.metrics.examples > 3_000
    for window in (200, 700, 5_000):
        shutil.copytree(tmp_path / "3000", tmp_path / str(window))
    for window in (200, 700, 3_000, 5_000):
        whole = Metrics(window)
        whole.load(learner.metrics.state())
        for _ in range(2):  # what the first writes, the second reads
            with open_state(tmp_path / str(window)) as state:
                again = Learner(FEATURES, msgspec.structs.replace(settings, window=window), state)
                assert again.metrics.recent() == whole.recent()
                commit = state.begin()
                again.flush(commit)
                state.commit(commit)


def test_commit_writes_no_more_of_the_metrics_where_the_window_is_long(tmp_path: Path) -> None:
    sizes = []
    for window in (10_000, 1_000_000):
        with open_state(tmp_path / str(window)) as state:
            learner = Learner(FEATURES, msgspec.structs.replace(SETTINGS, window=window), state)
            learner.learn(make_examples(100))
            commit, written = state.begin(), [0]
            commit.put = lambda key, value, n=written: n.append(len(key) + len(value))  # type: ignore[method-assign]
            learner.flush(commit)
            sizes.append(sum(written))
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_records_of_one_learner_have_numbers_that_rise_so_no_reader_takes_them_for_repeats(
    tmp_path: Path, log: Log
) -> None:
    append(log, make_examples(200))
    settings = msgspec.structs.replace(SETTINGS, snapshot_bytes_min=2000, update_bytes_max=1000)
    with open_state(tmp_path) as state:
        learner = Learner(FEATURES, settings, state)
        step_all(
            Runner(
                log,
                state,
                learner,
                Subscription(EXAMPLES, "learn"),
                RunnerSettings(commit_every_s=0.0, read_max=20),
            ).open()
        )
    with open_state(tmp_path) as state:
        append(log, make_examples(50, seed=1))
        step_all(
            Runner(log, state, Learner(FEATURES, settings, state), Subscription(EXAMPLES, "learn")).open()
        )
    for topic in (UPDATES, SNAPSHOTS):
        numbers: dict[str, list[int]] = {}
        for record in log.read(topic, 0, 0, 100_000, 1 << 30):
            numbers.setdefault(record.producer, []).append(record.seq)
        assert numbers and all(len(seqs) > 3 for seqs in numbers.values())
        for seqs in numbers.values():
            assert seqs == sorted(set(seqs))


@pytest.mark.parametrize("score", ["served", "own"])
def test_what_is_scored_is_the_served_prediction_where_there_is_one_or_ones_own(
    score: Literal["served", "own"],
) -> None:
    learner = Learner(FEATURES, msgspec.structs.replace(SETTINGS, score=score))
    examples = make_examples(40)
    examples[3] = msgspec.structs.replace(
        examples[3], served=Served([0.123] * len(examples[3].labels), [0.2] * len(examples[3].labels))
    )
    done = learner.learn(examples) + learner.finish()
    scored, p = np.concatenate([g.scored for g in done]), np.concatenate([g.p for g in done])
    first = sum(len(e.labels) for e in examples[:3])
    served = np.zeros(len(p), dtype=np.bool_)
    served[first : first + len(examples[3].labels)] = True
    assert np.array_equal(scored[~served], p[~served])
    assert np.array_equal(scored[served], np.full(served.sum(), 0.123) if score == "served" else p[served])
    assert not np.isclose(p[served], 0.123).any()


def test_what_is_forgotten_does_not_depend_on_what_was_swept() -> None:
    """A pair is found by its other id. Whether that is there, no sweep decides: they follow commits."""
    features = {"user": FeatureSpec(dim=2), "item": FeatureSpec(dim=2, ttl_s=2.0)}
    examples = [
        Example(f"r{n}", 1e9 + 10.0 * n, 1e9, [{"item": n}], [1.0], {"user": n}) for n in range(2)
    ]  # item 0 has expired when item 1 is seen
    digests = []
    for swept in (False, True):
        learner = Learner(features, msgspec.structs.replace(SETTINGS, deep="none"))
        learner.learn(examples)
        if swept:
            for table in learner.model.tables:
                table.expire(int(learner.trainer.clock), 10_000)
        learner.forget(Forget("f", 1e9, {"user": [0]}))
        digests.append(learner.digest())
    assert digests[0] == digests[1]

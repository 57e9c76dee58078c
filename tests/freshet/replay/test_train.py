"""Batch, then online: every request is learnt once, from the files or from the log, and the model is that
of one stream; servers and standbys take it over as any other.
"""

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import starting

from freshet.cli.main import main
from freshet.config import Config, parse_config
from freshet.errors import ReplayError, TrainError
from freshet.replay.replay import replay, replay_from_snapshot
from freshet.replay.tape import ReplayOptions
from freshet.replay.train import run_train, train
from freshet.roles.opening import open_topics
from learner.model.model import Model
from learner.role.boundary import Boundary
from learner.role.learner import Learner
from learner.updates.follower import Follower
from learner.updates.format import term_begins
from stream.files.record_files import write_records
from stream.log.base import EXAMPLES, SNAPSHOTS, UPDATES, Log, Outgoing
from stream.records.types import Example, encode
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState
from stream.world.simulator import World, WorldSettings

pytestmark = pytest.mark.slow

REQUESTS = 400
OVERLAP_S = 2.0


def world() -> list[Example]:
    return list(World(WorldSettings(seed=21, slate=3, requests_per_s=20.0)).examples(REQUESTS))


def write_file(path: Path, examples: Sequence[Example]) -> Path:
    write_records(path, "examples", examples)
    return path


def config_in(folder: Path, **more: Any) -> Config:
    table = {
        "log": f"sqlite:{folder / 'log.db'}",
        "state": str(folder / "state"),
        "features": {"user": {"dim": 4}, "item": {"dim": 4}, "category": {"dim": 4}},
        "learner": {"deep": "none"},
        **more,
    }
    return parse_config(table, "test")


def fill(config: Config, examples: Sequence[Example]) -> Log:
    log = open_topics(config)
    log.append(EXAMPLES, [Outgoing(e.request_id.encode(), encode(e), 0) for e in examples])
    return log


def open_state(config: Config) -> RoleState:
    fingerprint = Learner.fingerprint(config.features, config.learner, config.known_targets())
    return RoleState(config.state_of("learn"), "learner", fingerprint)


def learn_live(config: Config, log: Log) -> Learner:
    with open_state(config) as state:
        learner = Learner(config.features, config.learner, state, config.known_targets())
        learner.leads = True
        runner = Runner(log, state, learner, Subscription(EXAMPLES, "learn")).open()
        while runner.step():
            runner.commit()
    return learner


def learnt_in_one(config: Config, examples: Sequence[Example]) -> Learner:
    learner = Learner(config.features, config.learner, None, config.known_targets())
    learner.learn(examples)
    return learner


def test_every_request_is_learnt_once_and_the_model_is_that_of_one_stream(tmp_path: Path) -> None:
    config, examples = config_in(tmp_path), world()
    until = examples[250].time
    # the files end late and are written in whole seconds; the log begins early
    rounded = [
        msgspec.structs.replace(e, time=float(int(e.time)), decided=float(int(e.time))) for e in examples
    ]
    files = [
        write_file(tmp_path / "a.parquet", rounded[:150]),
        write_file(tmp_path / "b.parquet", rounded[150:280]),
    ]
    log = fill(config, examples[200:])
    found = train(config, files, until, OVERLAP_S)
    history = [e for e in rounded[:280] if e.time < until]
    assert found.requests == len(history) > 250  # rounding brought some of the log's side over here
    assert found.beyond == 280 - len(history)
    learner = learn_live(config, log)
    assert learner.meta.requests == REQUESTS
    rest = examples[len(history) :]
    assert learner.meta.of_history == REQUESTS - 200 - len(rest)
    once = learnt_in_one(config, [*history, *rest])
    assert learner.digest() == once.digest()
    log.close()


def test_a_replay_goes_on_from_what_was_trained_without_its_repeats(tmp_path: Path) -> None:
    config, examples = config_in(tmp_path), world()
    fill(config, examples[200:]).close()
    train(config, [write_file(tmp_path / "a.parquet", examples[:250])], examples[250].time, OVERLAP_S)
    report = replay_from_snapshot(config, ReplayOptions(from_snapshot=str(config.state_of("learn"))))
    assert report["events"] == REQUESTS - 250
    assert report["state_hash"] == learnt_in_one(config, examples).digest()
    with pytest.raises(ReplayError, match="--from-snapshot"):
        replay(config, ReplayOptions(journal=str(config.state_of("learn"))))


def test_what_history_lacks_just_before_the_boundary_is_taken_from_the_log(tmp_path: Path) -> None:
    config, examples = config_in(tmp_path), world()
    until = examples[250].time
    # the files' last second is incomplete
    lacking = [e for e in examples[:250] if e.time < until - 1.0 or int(e.request_id[-1]) % 3]
    assert len(lacking) < 250
    log = fill(config, examples[100:])
    train(config, [write_file(tmp_path / "a.parquet", lacking)], until, OVERLAP_S)
    assert learn_live(config, log).meta.requests == REQUESTS
    log.close()


def test_only_the_whole_goes_out_and_behind_all_terms_of_the_model_before(tmp_path: Path) -> None:
    config, examples = config_in(tmp_path), world()
    log = fill(config, [])
    for term in (3, 7):
        log.append(UPDATES, [Outgoing(b"", term_begins(1, term))])
    train(config, [write_file(tmp_path / "a.parquet", examples[:100])], examples[100].time, OVERLAP_S)
    with open_state(config) as state:
        learner = Learner(config.features, config.learner, state)
        assert {block.topic for block in state.unsent()} == {SNAPSHOTS}
    assert (learner.position.offset, learner.position.term, learner.term) == (2, 7, 7)
    log.close()


def test_a_server_begins_with_the_whole_of_history(tmp_path: Path) -> None:
    config, examples = config_in(tmp_path), world()
    log = fill(config, examples[:1])
    early = Follower(Model(config.features, config.learner))
    early.start(log)
    train(config, [write_file(tmp_path / "a.parquet", examples[:300])], examples[300].time, OVERLAP_S)
    log.append(EXAMPLES, [Outgoing(e.request_id.encode(), encode(e), 0) for e in examples[300:]])
    learner = learn_live(config, log)
    late = Follower(Model(config.features, config.learner))
    assert late.start(log)
    expected = learner.model.score_requests(examples[:20]).z
    for follower in (early, late):
        while follower.poll(log) or follower.behind:
            pass
        assert np.array_equal(follower.model.score_requests(examples[:20]).z, expected)
    log.close()


def test_a_server_that_was_there_first_has_history_before_the_first_update(tmp_path: Path) -> None:
    config, examples = config_in(tmp_path), world()
    log = fill(config, [])
    early = Follower(Model(config.features, config.learner))
    early.start(log)
    train(config, [write_file(tmp_path / "a.parquet", examples[:300])], examples[300].time, OVERLAP_S)
    learner = learn_live(config, log)  # sends the whole, and has nothing to learn
    assert not early.poll(log) and early.seq == 0
    log.append(UPDATES, [Outgoing(b"term", term_begins(learner.meta.epoch, 9), 0)])
    early.poll(log)
    assert early.seq == learner.meta.seq > 0 and early.gaps == 0 and not early.behind
    expected = learner.model.score_requests(examples[:20]).z
    assert np.array_equal(early.model.score_requests(examples[:20]).z, expected)
    log.close()


@pytest.mark.process
def test_the_role_itself_goes_on_from_what_was_trained(tmp_path: Path) -> None:
    examples = world()
    until = examples[250].time
    file = tmp_path / "freshet.toml"
    file.write_text(
        'log = "sqlite:log.db"\nstate = "state"\n[learner]\ndeep = "none"\n'
        "[features.user]\ndim = 4\n[features.item]\ndim = 4\n[features.category]\ndim = 4\n"
    )
    config = config_in(tmp_path)
    log = fill(config, examples[200:])
    history = write_file(tmp_path / "a.parquet", examples[:250])
    command = ["train", "--config", str(file), "--data", str(history), "--until", str(until)]
    assert main([*command, "--overlap", "2"]) == 0
    role = starting.start("learn", "--config", str(file))
    deadline = time.monotonic() + 60.0
    while log.committed("learn", EXAMPLES).get(0, 0) < 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    role.send_signal(signal.SIGTERM)
    assert role.wait(60.0) == 0
    log.close()
    with open_state(config) as state:
        learner = Learner(config.features, config.learner, state)
    assert learner.meta.requests == REQUESTS
    assert learner.digest() == learnt_in_one(config, examples).digest()


def test_what_would_lose_or_repeat_something_is_refused(tmp_path: Path) -> None:
    config, examples = config_in(tmp_path), world()
    file = write_file(tmp_path / "a.parquet", examples[:250])
    other = write_file(tmp_path / "b.parquet", examples[100:150])
    until = examples[250].time
    with pytest.raises(TrainError, match="order of their time"):
        train(config, [file, other], until, OVERLAP_S)
    with pytest.raises(TrainError, match="nothing to train on"):
        train(config, [file], examples[0].time, OVERLAP_S)
    assert not config.state_of("learn").exists()
    assert not list(Path(config.state).glob("*.training"))
    log = fill(config, examples[200:])
    log.trim(EXAMPLES, 0, 100)
    with pytest.raises(TrainError, match="has dropped examples"):
        train(config, [file], until, OVERLAP_S)
    train(config, [write_file(tmp_path / "c.parquet", examples[:330])], examples[330].time, OVERLAP_S / 4)
    with pytest.raises(TrainError, match="state already"):
        train(config, [file], until, OVERLAP_S)
    log.close()


@pytest.mark.parametrize(("overlap_s", "said"), [(2.0, True), (90.0, False)])
def test_overlap_that_is_shorter_than_a_target_waits_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overlap_s: float, said: bool
) -> None:
    config = config_in(tmp_path, targets={"click": {}, "buy": {"of": "click", "window_s": 90.0}})
    run_train(config, [write_file(tmp_path / "a.parquet", world()[:9])], 2e9, overlap_s)
    assert ("warning: target buy waits up to 90 s" in capsys.readouterr().err) == said


def test_boundary_comes_back_as_it_was() -> None:
    boundary = Boundary(100.0, 10.0)
    made = [Example(f"r{t}", float(t), float(t), [{}], [0.0]) for t in range(80, 120)]
    assert [e.time for e in made if boundary.of_history(e)] == [float(t) for t in range(80, 100)]
    moved = msgspec.structs.replace(made[19], time=101.0)  # the log's time of r99
    fresh = msgspec.structs.replace(made[0], time=95.0, request_id="new")
    for found in (boundary, Boundary.decode(boundary.encode())):
        assert [found.learnt(e) for e in made] == [t < 100 for t in range(80, 120)]
        assert found.learnt(moved)
        assert not found.learnt(fresh)


def test_what_became_of_a_request_after_the_files_were_written_is_taken_from_the_log(tmp_path: Path) -> None:
    config = config_in(tmp_path, targets={"click": {}, "buy": {"of": "click"}}, join={"late": "learn"})
    stream: list[Example] = []
    shown = world()
    for e, before in zip(shown, [None] * 30 + shown[:-30], strict=True):
        stream.append(e)
        if before is not None and before.labels[0] == 1.0:  # bought, or not
            stream.append(msgspec.structs.replace(
                before, decided=e.decided, candidates=before.candidates[:1], labels=[e.labels[1]],
                target="buy",
            ))  # fmt: skip
        elif before is not None and e.labels[2] == 1.0:  # a late click
            stream.append(msgspec.structs.replace(
                before, decided=e.decided, candidates=before.candidates[:1], labels=[1.0], before=[0.0],
                late=True,
            ))  # fmt: skip
    until = shown[250].time
    written = next(i for i, e in enumerate(stream) if e.decided >= until)
    after = [e for e in stream[written:] if e.time < until]
    assert {(e.target, e.late) for e in after} == {("", True), ("buy", False)}
    log = fill(config, stream[written - 150 :])
    train(config, [write_file(tmp_path / "a.parquet", stream[:written])], until, OVERLAP_S)
    learner = learn_live(config, log)
    assert learner.meta.of_history == 150
    assert learner.digest() == learnt_in_one(config, stream).digest()
    log.close()

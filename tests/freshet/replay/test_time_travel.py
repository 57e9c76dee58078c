"""Time travel: a live learner's snapshot goes on as the learner did, or as another config would have."""

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from freshet.cli.main import main
from freshet.config import Config, override_config, parse_config
from freshet.errors import ReplayError
from freshet.replay.replay import replay, replay_from_snapshot
from freshet.replay.tape import ReplayOptions
from freshet.replay.time_travel import restored
from freshet.roles.opening import open_topics
from ground import FreshetError
from learner.role.learner import Learner
from stream.log.base import EXAMPLES, Outgoing
from stream.records.types import encode
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState
from stream.world.simulator import World, WorldSettings

pytestmark = pytest.mark.slow

REQUESTS, LEARNT = 300, 170


class Lived(NamedTuple):
    """A log, and a snapshot of the learner that was in the middle of it."""

    config: Config
    snapshots: Path


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    folder = tmp_path_factory.mktemp("lived")
    features = {"user": {"dim": 4}, "item": {"dim": 4}, "category": {"dim": 4}}
    table: dict[str, Any] = {"log": f"sqlite:{folder / 'log.db'}", "features": features}
    config = parse_config(table, "test")
    log = open_topics(config)
    examples = list(World(WorldSettings(seed=9, slate=3)).examples(REQUESTS))
    records = [Outgoing(e.request_id.encode(), encode(e), 0, "joiner", n) for n, e in enumerate(examples)]
    log.append(EXAMPLES, records[:LEARNT])
    with RoleState(
        folder / "learn", "learner", Learner.fingerprint(config.features, config.learner)
    ) as state:
        learner = Learner(config.features, config.learner, state)
        runner = Runner(log, state, learner, Subscription(EXAMPLES, "learn")).open()
        while runner.step():
            runner.commit()
        state.copy_to(folder / "snapshots-1")
    (folder / "snapshots").mkdir()
    (folder / "snapshots-1").rename(folder / "snapshots" / "learn-000-001")
    # the joiner, killed and started again, sends its last three once more
    log.append(EXAMPLES, [*records[LEARNT - 3 : LEARNT], *records[LEARNT:]])
    log.close()
    return Lived(config, folder / "snapshots")


def go_on(lived: Lived, *overrides: str, predictions: Path | None = None) -> dict[str, Any]:
    config = override_config(lived.config, overrides)
    options = ReplayOptions(from_snapshot=str(lived.snapshots))
    return replay_from_snapshot(config, options, predictions, overrides)


def test_unchanged_it_arrives_where_the_whole_log_leads(lived: Lived, tmp_path: Path) -> None:
    whole = replay(lived.config, ReplayOptions())
    found = go_on(lived, predictions=tmp_path / "p.parquet")
    assert found["state_hash"] == whole["state_hash"]
    assert found["events"] == REQUESTS - LEARNT  # what was sent twice is not learnt twice
    assert found["snapshot"]["requests"] == LEARNT
    # only what came behind the snapshot is scored, and what waited in it is not
    assert found["candidates"] == pq.read_metadata(tmp_path / "p.parquet").num_rows == 3 * (REQUESTS - LEARNT)


def test_changed_settings_lead_elsewhere_and_leave_the_snapshot_alone(lived: Lived) -> None:
    before = sorted((file.name, file.stat().st_size) for file in lived.snapshots.glob("*/*"))
    same, other, gate = (
        go_on(lived, *sets) for sets in ((), ("learner.group=8",), ("memory.gate_bias=0.1",))
    )
    assert other["state_hash"] != same["state_hash"]
    assert other["data_hash"] == same["data_hash"]
    assert gate["state_hash"] == same["state_hash"]
    assert sorted((file.name, file.stat().st_size) for file in lived.snapshots.glob("*/*")) == before


def test_a_feature_may_learn_faster_from_here_on(lived: Lived) -> None:
    assert go_on(lived, "features.item.rate=0.5")["state_hash"] != go_on(lived)["state_hash"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("features.item.dim=8", r"features\.item\.dim = 4, and cannot go on with 8"),
        ("features.item.optimizer=adam", r"features\.item\.optimizer = adagrad"),
        ("features.item.ttl_s=5.0", r"features\.item\.ttl_s"),
        ("features.place.kind=id", "user, item, category, the config user, item, category, place"),
        ("learner.deep=none", r"learner\.deep = dcn"),
        ("learner.speed_tau=[0.1,0.1,0.1]", "initial value of a prior"),
    ],
)
def test_what_a_snapshot_cannot_take_is_refused_with_a_sentence(
    lived: Lived, override: str, words: str
) -> None:
    with pytest.raises(ReplayError, match=words):
        go_on(lived, override)


def test_what_is_no_snapshot_is_told(lived: Lived, tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "no such snapshot"), (tmp_path, "holds no learner")):
        with pytest.raises(ReplayError, match=words), restored(path, lived.config):
            pass
    stopped = lived.snapshots.parent / "learn"
    with restored(stopped, lived.config) as (_, origin):
        assert origin.offsets == {0: LEARNT}
    fingerprint = Learner.fingerprint(lived.config.features, lived.config.learner)
    with (
        RoleState(stopped, "learner", fingerprint),
        pytest.raises(FreshetError, match="in use"),
        restored(stopped, lived.config),
    ):
        pass


def test_command_needs_the_log_and_no_other_beginning(
    lived: Lived, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text("[features.user]\n")
    (tmp_path / "x.csv").write_text("time,user,label\n1,1,1\n")
    given = ["replay", "--config", str(tmp_path / "c.toml"), "--from-snapshot", str(lived.snapshots)]
    assert main([*given, "--data", str(tmp_path / "x.csv")]) == 2
    assert "give its URL as --data" in capsys.readouterr().err
    assert main([*given, "--data", lived.config.log, "--from", "2020-01-01"]) == 2
    assert "leave out --from" in capsys.readouterr().err

"""Section [join] shards examples: what it may say, and the joiner that does it on a log of its own."""

import threading
import time
from pathlib import Path

import pytest

from freshet.config import Config, load_config, parse_config
from freshet.errors import ConfigError
from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions
from freshet.roles.opening import open_topics, topics_of
from freshet.roles.roles import run_join
from freshet.tools.check import run_checks
from freshet.tools.export import run_export
from freshet.tools.produce import produce
from stream.errors import LogError
from stream.log.base import EVENTS, EXAMPLES, Log, partition_of
from stream.records.decoding import Decoder
from stream.records.types import Example

FEATURES = {
    "hour": {"kind": "hour"},
    "user": {},
    "item": {},
    "brand": {"of": "item"},
    "tags": {"kind": "ids"},
    "price": {"kind": "number"},
}
CONFIG = """
log = "sqlite:run/log.db"
state = "run"
[stream]
partitions = 2
[join]
PARTITIONS
[features.user]
[features.item]
[learner]
deep = "none"
"""
REQUESTS = 600


def config_of(**join: object) -> Config:
    return parse_config({"join": join, "features": FEATURES, "stream": {"partitions": 4}}, "test.toml")


@pytest.mark.parametrize(
    ("join", "expected"),
    [
        ({"shard_by": "usr"}, "join.shard_by is 'usr', which is not declared; did you mean 'user'?"),
        ({"shard_by": "zzz"}, "which is not declared; expected a feature of kind id .* context: user, item"),
        ({"shard_by": "tags"}, "join.shard_by is 'tags', of kind ids; expected a feature of kind id"),
        ({"shard_by": "hour"}, "join.shard_by is 'hour', of kind hour; expected"),
        ({"shard_by": "brand"}, "join.shard_by is 'brand', an attribute of item; expected"),
        ({"shard_by": "user", "partitions": 1025}, "partitions must be 1 to 1024"),
        ({"partitions": -1}, "partitions must be 1 to 1024"),
        ({"shard_by": 3}, "join.shard_by: expected text"),
    ],
)
def test_what_cannot_shard_is_refused_in_a_sentence(join: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        config_of(**join)


def test_readers_must_be_able_to_remember_all_producers() -> None:
    tables = {
        "join": {"shard_by": "user"},
        "features": FEATURES,
        "stream": {"partitions": 8, "runner": {"producers_max": 20}},
        "targets": {"click": {}, "buy": {"of": "click"}, "like": {}},
    }
    with pytest.raises(ConfigError, match=r"set stream\.runner\.producers_max to 24 or more"):
        parse_config(tables, "test.toml")
    parse_config({**tables, "join": {}}, "test.toml")


def test_what_is_not_said_follows_from_the_rest() -> None:
    assert config_of().joining == config_of().join and topics_of(config_of())[EXAMPLES] == 4
    by_user = config_of(partitions=7).joining
    assert (by_user.shard_by, by_user.partitions) == ("user", 7)
    assert topics_of(config_of(partitions=7)) == {**topics_of(config_of()), EXAMPLES: 7}
    by_user_of_events = config_of(shard_by="user", partitions=4).join
    assert config_of(shard_by="item").joining.partitions == 4
    grouped = parse_config(
        {"join": {"partitions": 2}, "features": FEATURES, "learner": {"group_by": "item"}}, "test.toml"
    )
    assert grouped.joining.shard_by == "item"
    shards = {"features": FEATURES, "learner": {"shards": {"count": 2}}, "stream": {"partitions": 4}}
    assert parse_config(shards, "test.toml").joining == by_user_of_events
    assert config_of(shard_by="user", partitions=7).digest() == config_of().digest(), "the same model"


def test_joiner_shards_a_log_and_a_replay_learns_all_of_it(tmp_path: Path) -> None:
    config = config_in(tmp_path, "partitions = 3")
    rows = [f"{1_700_000_000 + i},u{i % 37},{i % 11},{i % 2}" for i in range(REQUESTS)]
    (tmp_path / "clicks.csv").write_text("\n".join(["time,user,item,label", *rows]))
    produce(config, tmp_path / "clicks.csv")
    join(config)
    log = open_topics(config)
    where = places(log)
    assert log.partitions(EVENTS) == 2 and log.partitions(EXAMPLES) == 3
    log.close()
    assert where == {f"u{i}": {partition_of(f"u{i}".encode(), 3)} for i in range(37)}
    assert replay(config, ReplayOptions(data=config.log))["events"] == REQUESTS

    run_export(str(tmp_path / "freshet.toml"), [], ReplayOptions(), EXAMPLES, tmp_path / "out.parquet")
    copy = config_in(tmp_path / "copy", "partitions = 5")
    produce(copy, tmp_path / "out.parquet", holds="examples")
    log = open_topics(copy)
    assert places(log) == {f"u{i}": {partition_of(f"u{i}".encode(), 5)} for i in range(37)}
    log.close()

    for others, key in (("partitions = 4", "join.partitions = 3"), ("", "stream.partitions = 3")):
        other = config_in(tmp_path, others)
        with pytest.raises(LogError, match="has 3 partitions, not"):
            open_topics(other)
        (found,) = [c for c in run_checks(str(tmp_path / "freshet.toml"), (), None) if c.what == "log"]
        assert not found.ok and key in found.found


def config_in(folder: Path, join: str) -> Config:
    folder.mkdir(exist_ok=True)
    (folder / "freshet.toml").write_text(CONFIG.replace("PARTITIONS", join))
    return load_config(folder / "freshet.toml")


def places(log: Log) -> dict[object, set[int]]:
    found: dict[object, set[int]] = {}
    decode = Decoder(Example).decode
    for partition in range(log.partitions(EXAMPLES)):
        for record in log.read(EXAMPLES, partition, 0):
            found.setdefault(decode(record.value).context["user"], set()).add(partition)
    return found


def join(config: Config) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=run_join, args=(config, stop))
    thread.start()
    log = open_topics(config)
    deadline = time.monotonic() + 60.0
    while sum(end for _, end in log.ends(EXAMPLES)) < REQUESTS and time.monotonic() < deadline:
        time.sleep(0.02)
    log.close()
    stop.set()
    thread.join()

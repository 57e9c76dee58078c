"""Export: a log's range as Parquet, the same to a replay as the log, and back into a log."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from freshet.cli.main import main
from freshet.config import Config, parse_config
from freshet.errors import ExportError, ProduceError
from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions
from freshet.roles.opening import open_topics
from freshet.tools.produce import produce
from stream.files.record_files import read_records
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing
from stream.log.open import open_log
from stream.records.decoding import Decoder, split_batch
from stream.records.entities.record import EntityEvent
from stream.records.types import Action, Example, Features, Forget, Impression, encode, join_batch
from stream.world.simulator import World, WorldSettings

pytestmark = pytest.mark.slow

FEATURES: dict[str, Any] = {"user": {}, "segment": {}, "item": {}, "category": {}}
REQUESTS = 120


def config_for(log: Path, partitions: int = 1) -> Config:
    table = {
        "log": f"sqlite:{log}",
        "features": FEATURES,
        "learner": {"deep": "none"},
        "stream": {"partitions": partitions},
    }
    return parse_config(table, "test")


def examples() -> list[Example]:
    return list(World(WorldSettings(seed=4, slate=5)).examples(REQUESTS, window_s=30.0))


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A log of three partitions with examples (one of them twice), events and what cannot be read."""
    config = config_for(tmp_path_factory.mktemp("log") / "log.db", 3)
    log = open_topics(config)
    found = examples()
    for number in (*range(REQUESTS), 5):
        key = found[number].request_id.encode()
        log.append(EXAMPLES, [Outgoing(key, encode(found[number]), None, "joiner", number)])
    log.append(EXAMPLES, [Outgoing(b"x", b"not a record")])
    world = World(WorldSettings(seed=5, slate=3))
    events = [encode(event) for event in world.events(40)]
    log.append(
        EVENTS, [Outgoing(b"", join_batch(events[:10]), 0), *(Outgoing(b"", e, 0) for e in events[10:])]
    )
    log.append(DEAD_LETTERS, [Outgoing(b"k", b"\x00raw", 0)])
    log.close()
    return config


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(list(arguments))
    return status, capsys.readouterr().err


@pytest.mark.slow
def test_log_to_parquet_to_replay_and_back_into_a_log(
    logged: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "all.parquet"
    status, said = run(capsys, "export", str(file), "--data", logged.log)
    assert status == 0
    assert f"{REQUESTS} examples, {5 * REQUESTS} rows" in said
    assert "1 records that cannot be read were left out" in said
    of_log = replay(logged, ReplayOptions(data=logged.log))
    of_file = replay(logged, ReplayOptions(data=str(file)))
    for same in ("state_hash", "data_hash", "events", "base", "corrected"):
        assert of_file[same] == of_log[same]

    copy = config_for(tmp_path / "copy.db", 3)
    assert produce(copy, file, holds="examples") == REQUESTS
    of_copy = replay(copy, ReplayOptions(data=copy.log))
    assert of_copy["state_hash"] == of_log["state_hash"]
    assert produce(copy, file, holds="examples") == REQUESTS  # once more: repeats, dropped by their numbers
    assert replay(copy, ReplayOptions(data=copy.log))["data_hash"] == of_log["data_hash"]


def test_predictions_are_without_what_was_to_be_forgotten(tmp_path: Path) -> None:
    config = config_for(tmp_path / "log.db")
    log = open_topics(config)
    found = examples()
    busiest = found[0].context["user"]
    assert isinstance(busiest, int)
    forget = Forget("f1", found[60].time, {"user": [busiest]}, 1e6)
    for record in (*found[:60], forget, *found[60:]):
        log.append(EXAMPLES, [Outgoing(b"", encode(record), 0)])
    log.close()
    predictions = tmp_path / "p.parquet"
    report = replay(config, ReplayOptions(), predictions)
    users = pq.read_table(predictions)["user"].to_pylist()
    assert len(users) == report["candidates"] < 5 * REQUESTS
    assert users.count(busiest) == 5 * sum(e.context["user"] == busiest for e in found[:60]) > 0


def test_any_range_is_cut_out_by_time_offset_and_count(
    logged: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "part.parquet"
    times = [example.time for example in examples()]
    begin, end = times[20], times[70]
    run(capsys, "export", str(file), "--data", logged.log, "--from", str(begin), "--to", str(end))
    assert sorted(set(pq.read_table(file)["time"].to_pylist())) == times[20:70]
    run(capsys, "export", str(file), "--data", logged.log, "--from", "offset:0,0,0", "--to", "offset:4,0,3")
    assert pq.read_table(file).num_rows == 7 * 5
    run(capsys, "export", str(file), "--data", logged.log, "--limit", "2")
    assert pq.read_table(file).num_rows == 10
    before = file.read_bytes()
    status, said = run(capsys, "export", str(file), "--data", logged.log, "--from", "2030-01-01")
    assert (status, file.read_bytes()) == (2, before)
    assert "nothing to export" in said


def test_events_come_back_into_a_log_as_they_were(
    logged: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "events.parquet"
    assert run(capsys, "export", str(file), "--data", logged.log, "--topic", "events")[0] == 0
    copy = config_for(tmp_path / "copy.db")
    sent = produce(copy, file, holds="events")
    world = list(World(WorldSettings(seed=5, slate=3)).events(40))
    assert sent == len(world)
    log = open_log(copy.log)
    decode = Decoder(Impression, Action).decode
    assert [decode(part) for record in log.read(EVENTS, 0, 0) for part in split_batch(record.value)] == world
    log.close()
    with pytest.raises(ProduceError, match="--examples"):
        examples_file = tmp_path / "examples.parquet"
        run(capsys, "export", str(examples_file), "--data", logged.log)
        produce(copy, examples_file, holds="events")
    status, said = run(capsys, "replay", "--config", str(_config_file(tmp_path)), "--data", str(file))
    assert status == 2
    assert "holds events" in said


def _config_file(folder: Path) -> Path:
    file = folder / "freshet.toml"
    file.write_text("[features.user]\n[features.item]\n")
    return file


def test_other_topics_are_written_as_they_lie_in_the_log(
    logged: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "raw.parquet"
    assert run(capsys, "export", str(file), "--data", logged.log, "--topic", "dead_letters")[0] == 0
    (row,) = pq.read_table(file).to_pylist()
    assert (row["key"], row["value"], row["partition"], row["offset"]) == (b"k", b"\x00raw", 0, 0)


def test_a_data_file_becomes_the_same_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, file = tmp_path / "clicks.jsonl", tmp_path / "clicks.parquet"
    lines = [{"time": 1e9 + n, "user": n % 3, "item": f"i{n}", "label": n % 2} for n in range(20)]
    data.write_text("\n".join(map(json.dumps, lines)))
    config = str(_config_file(tmp_path))
    assert run(capsys, "export", str(file), "--config", config, "--data", str(data))[0] == 0
    assert pq.read_table(file, columns=["user"])["user"].to_pylist() == [n % 3 for n in range(20)]
    status, said = run(
        capsys, "export", str(file), "--config", config, "--data", str(data), "--topic", "events"
    )
    assert status == 2
    assert "needs a log" in said


def test_folder_that_cannot_be_written_is_told(logged: Config, tmp_path: Path) -> None:
    from freshet.tools.export import run_export

    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        run_export(None, [], ReplayOptions(data=logged.log), EXAMPLES, tmp_path / "file" / "x.parquet")


@pytest.mark.parametrize("with_config", [True, False])
def test_events_with_vectors_and_long_texts_are_exported_and_entities_said_to_be_left_out(
    with_config: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = {
        "user": {},
        "item": {},
        "look": {"kind": "vector", "length": 2, "of": "item"},
        "title": {"kind": "text"},
    }
    config = parse_config({"log": f"sqlite:{tmp_path / 'log.db'}", "features": features}, "test")
    log = open_topics(config)
    candidates: list[Features] = [{"item": 1, "look": [0.5, -1.25], "title": "word " * 1000}]
    shown = Impression("r", 1e9, candidates, {"user": "ann"}, labels=[1.0])
    told = EntityEvent("item", 1, 1e9, {"look": [0.5, -1.0]})
    log.append(EVENTS, [Outgoing(b"r", encode(shown)), Outgoing(b"item/1", encode(told))])
    log.close()
    file, toml = tmp_path / "events.parquet", tmp_path / "freshet.toml"
    toml.write_text(
        f'log = "{config.log}"\n[features.item]\n[features.look]\nkind = "vector"\nlength = 2\nof = "item"\n'
        '[features.title]\nkind = "text"\n[features.user]\n'
    )
    where = ["--config", str(toml)] if with_config else ["--data", config.log]
    status, said = run(capsys, "export", "--out", str(file), "--topic", "events", *where)
    assert status == 0 and "cannot be read" not in said
    assert "1 entity events of this range" in said
    assert list(read_records(file)) == [shown]


TARGETS: dict[str, dict[str, Any]] = {
    "clicks first": {"click": {}, "buy": {"of": "click"}, "minutes": {"kind": "value", "of": "click"}},
    "a value first": {"minutes": {"kind": "value"}, "buy": {}},
}


@pytest.mark.parametrize("case", TARGETS)
def test_export_of_several_targets_keeps_labels_values_and_weights(case: str, tmp_path: Path) -> None:
    """With the log's config or without it, examples and events, and back into another log."""
    table = {"log": f"sqlite:{tmp_path / 'log.db'}", "features": {"item": {}}, "targets": TARGETS[case]}
    config = parse_config(table | {"learner": {"deep": "none"}}, "test")
    first = "minutes" if case == "a value first" else "click"
    labels = [3.5, 0.0] if first == "minutes" else [1.0, 0.0]
    outcomes: dict[str, list[float | None]] = {"buy": [1.0, 0.0] if first == "minutes" else [1.0, None]}
    if first == "click":
        outcomes["minutes"] = [7.25, None]
    events = [
        Impression(
            "r1", 1e9, [{"item": 1}, {"item": 2}], labels=labels, outcomes=outcomes, weight=[0.5, 2.0]
        ),
        Impression("r2", 1e9 + 1, [{"item": 3}]),
        Action("r2", 1e9 + 2, 0, name="minutes", value=0.25),
        Action("r2", 1e9 + 3, 0, name="buy"),
    ]
    known = [
        Example("r1", 1e9, 1e9, [{"item": 1}, {"item": 2}], labels, weight=[0.5, 2.0]),
        Example("r1", 1e9, 1e9, [{"item": 1}], [1.0], target="buy", weight=[0.5]),
        Example("r1", 1e9, 1e9 + 9, [{"item": 1}], [0.0], target="buy", before=[1.0]),
    ]
    log = open_topics(config)
    for topic, records in ((EVENTS, events), (EXAMPLES, known)):
        log.append(topic, [Outgoing(b"k", encode(record), 0) for record in records])
    log.close()
    (tmp_path / "freshet.toml").write_text(toml_of(table))
    for config_of in ([], ["--config", str(tmp_path / "freshet.toml")]):
        for topic, records in ((EVENTS, events), (EXAMPLES, known)):
            file = tmp_path / f"{topic}.parquet"
            assert main(["export", str(file), "--data", config.log, "--topic", topic, *config_of]) == 0
            assert list(read_records(file, targets=config.known_targets())) == records
    copy = parse_config({**table, "log": f"sqlite:{tmp_path / 'copy.db'}"}, "test")
    assert produce(copy, tmp_path / "events.parquet", holds="events") == len(events)
    assert produce(copy, tmp_path / "examples.parquet", holds="examples") == len(known)
    report = replay(config, ReplayOptions(data=config.log))
    assert report["skipped"] == 0 and report["events"] == len(known)


def toml_of(table: dict[str, Any]) -> str:
    """The file of a config whose sections are `features` and `targets`."""
    sections = [("features", table["features"]), ("targets", table["targets"])]
    lines = [f"log = {json.dumps(table['log'])}"]
    for section, named in sections:
        for name, settings in named.items():
            lines += [f"[{section}.{name}]", *(f"{key} = {json.dumps(v)}" for key, v in settings.items())]
    return "\n".join(lines) + "\n"

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
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing
from stream.log.open import open_log
from stream.records.decoding import Decoder, split_batch
from stream.records.types import Action, Example, Forget, Impression, encode, join_batch
from stream.world.simulator import World, WorldSettings

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

"""Replay: the same stream gives the same state, and nothing leaks."""

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from clicks import CONFIG, write_clicks
from paths import DATA

from freshet.cli.main import main
from freshet.config import Config, default_config, load_config, override_config, parse_config
from freshet.errors import ConfigError, ReplayError
from freshet.replay import feed
from freshet.replay.replay import replay, replay_from_snapshot
from freshet.replay.tape import ReplayOptions, Tape, open_tape, shuffle_labels
from ground import FreshetError
from stream.errors import SourceError
from stream.records.types import Example

METRICS = {
    "auc",
    "gauc",
    "request_auc",
    "ndcg",
    "mrr",
    "recall",
    "logloss",
    "normalized_entropy",
    "calibration",
    "ece",
    "brier",
    "examples",
    "positives",
}


def movietweetings() -> str:
    folder = DATA / "movietweetings"
    if not folder.is_dir():
        reason = f"MovieTweetings is not at {folder}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return str(folder)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path, dict[str, Any]]:
    config, data = write_clicks(tmp_path_factory.mktemp("clicks"))
    return config, data, replay(config, ReplayOptions(data=str(data)))


@pytest.mark.slow
def test_replay_twice_gives_the_same_state(played: tuple[Config, Path, dict[str, Any]]) -> None:
    config, data, first = played
    again = replay(config, ReplayOptions(data=str(data)))
    for key in ("state_hash", "config_hash", "data_hash", "base", "corrected", "windows"):
        assert again[key] == first[key]


@pytest.mark.slow
def test_report_holds_what_is_promised(played: tuple[Config, Path, dict[str, Any]]) -> None:
    _, _, report = played
    assert (report["events"], report["candidates"]) == (800, 3200)
    assert report["events_per_second"] > 0
    for name in ("base", "corrected"):
        assert set(report[name]["overall"]) == set(report[name]["last_half"]) == METRICS
        assert report[name]["overall"]["examples"] == 3200
        assert report[name]["last_half"]["examples"] == 1600
    assert sum(window["base"]["examples"] for window in report["windows"]) == 3200
    times = [window["from_time"] for window in report["windows"]]
    assert times == sorted(times)


def test_model_learns_what_is_there(played: tuple[Config, Path, dict[str, Any]]) -> None:
    assert played[2]["base"]["last_half"]["auc"] > 0.6


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    [
        'optimizer = "sgd"\nadmit_share = 0.9',
        'optimizer = "adagrad"\nadmit_share = 0.9',
        'optimizer = "rowwise_adagrad"\nrows_max = 64\nevict = "least_recent"',
        'optimizer = "adam"\nrows_max = 64\nevict = "least_frequent"',
        'optimizer = "ftrl"\nadmit_share = 0.9\nrows_max = 64\nevict = "least_recent"',
    ],
)
def test_every_optimizer_and_every_way_to_keep_rows_learns_from_a_file(tmp_path: Path, rows: str) -> None:
    _, data = write_clicks(tmp_path, 300, 100, by_user=False)  # more items than the least budget has rows
    file = tmp_path / "freshet.toml"
    file.write_text(CONFIG.replace("[features.item]\nadmit_after = 2", f"[features.item]\n{rows}"))
    report = replay(load_config(file), ReplayOptions(data=str(data)))
    assert 0.55 < report["base"]["overall"]["auc"] < 0.95


@pytest.mark.slow
def test_other_data_or_settings_give_another_state(played: tuple[Config, Path, dict[str, Any]]) -> None:
    config, data, first = played
    shorter = replay(config, ReplayOptions(data=str(data), limit=799))
    assert shorter["events"] == 799
    assert shorter["state_hash"] != first["state_hash"]
    plain = replay(override_config(config, ["learner.deep=none"]), ReplayOptions(data=str(data)))
    assert plain["state_hash"] != first["state_hash"]
    assert plain["data_hash"] == first["data_hash"]


@pytest.mark.slow
def test_shuffled_labels_teach_nothing(played: tuple[Config, Path, dict[str, Any]]) -> None:
    config, data, first = played
    report = replay(config, ReplayOptions(data=str(data), shuffle_labels=1))
    assert report["base"]["overall"]["positives"] == first["base"]["overall"]["positives"]
    for name in ("base", "corrected"):
        assert abs(report[name]["overall"]["auc"] - 0.5) < 0.05  # 3,200 candidates: a deviation of 0.011


def test_shuffled_labels_are_without_corrections() -> None:
    one = Example("a", 1e9, 1e9, [{"item": 1}], [1.0])
    examples = [msgspec.structs.replace(one, labels=[float(i % 3 == 0)]) for i in range(30)]
    examples[7] = msgspec.structs.replace(one, before=[0.0], late=True)
    tape = shuffle_labels(Tape(lambda tape: iter(examples), None, True), 5)
    played = list(tape)
    assert len(played) == 29 and all(example.before is None for example in played)
    assert sum(example.labels[0] for example in played) == 10.0


@pytest.mark.slow
def test_shuffled_labels_of_real_ratings_give_half() -> None:
    options = ReplayOptions(data=movietweetings(), limit=30_000, shuffle_labels=3)
    report = replay(default_config("movietweetings"), options)
    for name in ("base", "corrected"):
        for part in ("overall", "last_half"):
            assert abs(report[name][part]["auc"] - 0.5) < 0.012, (name, part)


@pytest.mark.slow
def test_real_ratings_are_learnt() -> None:
    options = ReplayOptions(data=movietweetings(), limit=30_000)
    report = replay(default_config("movietweetings"), options)
    for name in ("base", "corrected"):
        assert report[name]["last_half"]["auc"] > 0.76
        assert 0.95 < report[name]["last_half"]["calibration"] < 1.05


@pytest.mark.slow
def test_frozen_base_is_helped_by_its_memory() -> None:
    options = ReplayOptions(data=movietweetings(), limit=30_000, freeze_after=10_000)
    report = replay(default_config("movietweetings"), options)
    assert report["events"] == 30_000
    base, corrected = (report[name]["last_half"] for name in ("base", "corrected"))
    assert corrected["auc"] > base["auc"] + 0.02
    assert corrected["logloss"] < base["logloss"]


def test_event_time_range_is_cut_out(played: tuple[Config, Path, dict[str, Any]]) -> None:
    config, data, _ = played
    options = ReplayOptions(data=str(data), begin="1700001000", end="2023-11-14T22:46:40Z")
    assert replay(config, options)["events"] == 100
    with pytest.raises(ReplayError, match="nothing to replay"):
        replay(config, ReplayOptions(data=str(data), begin="2030-01-01"))
    with pytest.raises(ReplayError, match="--from"):
        replay(config, ReplayOptions(data=str(data), begin="yesterday"))


def test_value_of_wrong_kind_is_an_error_unless_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps({"time": i, "user": i % 5, "label": i % 2}) for i in range(200)]
    lines[70] = json.dumps({"time": 70, "user": [1, 2], "label": 1})
    data = tmp_path / "clicks.jsonl"
    data.write_text("\n".join(lines))
    (tmp_path / "c.toml").write_text("[features.user]\n[learner]\ndeep = 'none'\n")
    config = load_config(tmp_path / "c.toml")
    with pytest.raises(FreshetError, match="user"):
        replay(config, ReplayOptions(data=str(data)))
    done: list[int] = []
    monkeypatch.setattr("freshet.replay.replay.progress", lambda *_: nullcontext(done.append))
    report = replay(override_config(config, ["data.skip_bad=true"]), ReplayOptions(data=str(data)))
    assert (report["skipped"], report["candidates"], sum(done)) == (1, 199, 200)


@pytest.mark.slow
def test_command_writes_report_and_page(
    tmp_path: Path, played: tuple[Config, Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, data, first = played
    config = str(data.with_name("freshet.toml"))
    report, page = tmp_path / "out" / "r.json", tmp_path / "r.html"
    status = main(
        ["replay", "--config", config, "--data", str(data), "--report", str(report), "--html", str(page)]
    )
    assert status == 0
    assert json.loads(report.read_text())["state_hash"] == first["state_hash"]
    assert "<html" in page.read_text()
    assert first["state_hash"] in capsys.readouterr().err


def test_report_to_stdout_is_json(
    played: tuple[Config, Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, data, _ = played
    config = str(data.with_name("freshet.toml"))
    assert main(["replay", "--config", config, "--data", str(data), "--limit", "50"]) == 0
    assert json.loads(capsys.readouterr().out)["events"] == 50


def test_journal_goes_with_nothing_else(tmp_path: Path, played: tuple[Config, Path, dict[str, Any]]) -> None:
    config, data, _ = played
    with pytest.raises(ReplayError, match="log"):
        replay(config, ReplayOptions(data=str(data), journal=str(tmp_path)))


@pytest.mark.slow
def test_shards_learn_the_same_requests_in_the_same_order(
    tmp_path: Path, played: tuple[Config, Path, dict[str, Any]]
) -> None:
    _, data, one = played
    report = tmp_path / "r.json"
    arguments = ["replay", "--config", str(data.with_name("freshet.toml")), "--data", str(data)]
    assert main([*arguments, "--shards", "2", "--turn", "50", "--report", str(report), "--predictions"]) == 0
    told = json.loads(report.read_text())
    assert told["data_hash"] == one["data_hash"] and told["table_rows"] == one["table_rows"]
    assert told["state_hash"] != one["state_hash"]
    assert told["base"]["last_half"]["auc"] > one["base"]["last_half"]["auc"] - 0.03
    shards = told["shards"]
    assert (shards["shards"], shards["turn"], shards["turns"]) == (2, 50, 16)
    assert shards["bytes_per_request"] > 0 and 1.0 <= shards["busiest_over_fair_share"] <= 2.0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"shards": 2, "freeze_after": 10}, "leave out --freeze-after"),
        ({"shards": 2, "from_snapshot": "x"}, "--from-snapshot says where to begin"),
        ({"shards": 257}, "1 to 256 shards, not 257"),
        ({"shards": 2, "turn": 0}, "a turn has 1 to 1,048,576 requests"),
        (
            {"shards": 2, "set": ["learner.pairs_memory_rows=32768"]},
            "leave out memory_rows and pairs_memory_rows",
        ),
    ],
)
def test_options_that_do_not_go_with_shards_are_refused(
    played: tuple[Config, Path, dict[str, Any]], options: dict[str, Any], why: str
) -> None:
    config, data, _ = played
    config = override_config(config, options.get("set", []))
    options = {name: value for name, value in options.items() if name != "set"}
    with pytest.raises(FreshetError, match=why):
        if "from_snapshot" in options:
            replay_from_snapshot(config, ReplayOptions(**options))
        else:
            replay(config, ReplayOptions(data=str(data), **options))


def test_missing_log_is_not_made(tmp_path: Path) -> None:
    config = override_config(default_config("simulator"), [f"log=sqlite:{tmp_path / 'no.db'}"])
    with pytest.raises(ReplayError, match=r"no\.db"):
        replay(config, ReplayOptions())
    assert not (tmp_path / "no.db").exists()


def test_unknown_schema_is_refused(played: tuple[Config, Path, dict[str, Any]]) -> None:
    with pytest.raises((ReplayError, ConfigError), match="features"):
        replay(Config(), ReplayOptions(data=str(played[1])))


def arrays_of(value: Any) -> list[tuple[str, tuple[int, ...], bytes]]:
    """All arrays in nested tuples, by what they hold: how they would be pickled hangs on who shares what."""
    if isinstance(value, bool):
        return []
    if isinstance(value, np.ndarray):
        return [(str(value.dtype), value.shape, value.tobytes())]
    return [array for part in value for array in arrays_of(part)]


@pytest.mark.process
def test_tape_read_by_a_process_of_its_own_gives_the_same_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "clicks.csv"
    data.write_text(
        "time,label,user,item\n" + "".join(f"{1e9 + n},{n % 2},{n % 7},i{n % 11}\n" for n in range(5000))
    )
    config = parse_config({"features": {"user": {}, "item": {}}}, "test")
    found = []
    for least in (10_000, 0):
        monkeypatch.setattr(feed, "PROCESS_FROM", least)
        with feed.open_feed(config, ReplayOptions(data=str(data))) as chunks:
            parts = [(chunk.refused, *arrays_of(chunk.labelled)) for chunk in chunks]
        found.append((len(parts), parts, chunks.ended))
    assert found[0] == found[1]
    assert found[0][0] > 2


@pytest.mark.process
@pytest.mark.parametrize(("requests", "beside"), [(100, False), (60_000, True)])
def test_long_tape_alone_is_read_by_a_process_of_its_own(tmp_path: Path, requests: int, beside: bool) -> None:
    """Also where a request is several lines, so that requests are not counted beforehand."""
    data = tmp_path / "clicks.csv"
    data.write_text("time,label,request,user\n" + "".join(f"{1e9 + n},1,{n},{n}\n" for n in range(requests)))
    for grouped in ({}, {"data": {"request": "request"}}):
        config = parse_config({"features": {"user": {}}, **grouped}, "test")
        with feed.open_feed(config, ReplayOptions(data=str(data))) as chunks:
            assert hasattr(chunks, "process") == beside


@pytest.mark.process
def test_error_in_the_reading_process_is_told_as_if_it_were_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "clicks.csv"
    data.write_text("time,label,user\n1000000000,1,5\n1000000001,perhaps,6\n")
    config = parse_config({"features": {"user": {}}}, "test")
    monkeypatch.setattr(feed, "PROCESS_FROM", 0)
    with (
        feed.open_feed(config, ReplayOptions(data=str(data))) as chunks,
        pytest.raises(SourceError, match=r"clicks.csv:3: label: .*perhaps"),
    ):
        list(chunks)


@pytest.mark.process
def test_reading_process_that_is_killed_is_an_error_and_not_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "clicks.csv"
    data.write_text("time,label,user\n" + "".join(f"{1e9 + n},1,{n}\n" for n in range(60_000)))
    config = parse_config({"features": {"user": {}}}, "test")
    with feed.open_feed(config, ReplayOptions(data=str(data))) as chunks:
        taken = iter(chunks)
        next(taken)
        chunks.process.kill()  # type: ignore[attr-defined]
        with pytest.raises(ReplayError, match="ended early, with -9"):
            list(taken)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"begin": "offset:3"}, "a file has no offsets: give --from and --to as event times"),
        ({"begin": "2026-01-01", "end": "offset:9,9"}, "a file has no offsets"),
        ({"journal": "state/learn"}, "--journal follows a log"),
    ],
)
def test_a_file_is_not_asked_for_what_only_a_log_has(
    tmp_path: Path, options: dict[str, str], said: str
) -> None:
    (tmp_path / "c.csv").write_text("time,item,label\n1,a,1\n")
    with pytest.raises(ReplayError, match=said):
        open_tape(parse_config({}, "c.toml"), ReplayOptions(data=str(tmp_path / "c.csv"), **options))  # type: ignore[arg-type]

"""A file with one line an event: to the topic of a source, through ingest, to examples of every target."""

import json
from pathlib import Path

import pytest

from freshet.cli.main import main
from freshet.config import load_config
from freshet.errors import ProduceError
from freshet.roles.ingest.role import source_of
from freshet.tools.produce_lines import lines_of
from stream.files.columns import DataSettings
from stream.log.open import open_log

SOURCES = """
log = "sqlite:log.db"
[sources.shown]
topic = "shop.events"
kind = "impression"
request_id = "request"
time = { field = "time", unit = "s" }
only = { event = ["view"] }
features = { item = "item" }
[sources.done]
topic = "shop.events"
kind = "action"
request_id = "request"
time = { field = "time", unit = "s" }
only = { event = ["click", "buy"] }
name = "event"
match = { item = "item" }
[sources.rows]
topic = "shop.rows"
kind = "impression"
request_id = "request"
envelope = "debezium"
time = { field = "time", unit = "s" }
features = { item = "item" }
[targets.click]
[targets.buy]
of = "click"
window_s = 604_800
[features.item]
"""
LINES = [(0, "017", "view"), (0, "b2", "view"), (3, "017", "click"), (9, "017", "buy")]


def test_lines_become_records_of_the_source_and_those_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(SOURCES)
    rows = [f"{1767225600 + at},r1,{item},{event}" for at, item, event in LINES]
    Path("log.csv").write_text("time,request,item,event\n" + "\n".join(rows) + "\n")
    objects = [
        {"time": 1767225700 + at, "request": "r2", "item": item, "event": event} for at, item, event in LINES
    ]
    Path("more.jsonl").write_text("\n".join(map(json.dumps, objects)) + "\n")
    for file in ("log.csv", "more.jsonl"):
        assert main(["produce", "--config", "c.toml", "--data", file, "--source", "shown"]) == 0
    log = open_log("sqlite:log.db")
    records = [json.loads(record.value) for record in log.read("shop.events", 0, 0, 100)]
    log.close()
    assert records[0] == {"time": 1767225600, "request": "r1", "item": "017", "event": "view"}
    assert len(records) == 8 and records[4:] == objects
    capsys.readouterr()
    main(["ingest", "--check", "--config", "c.toml", "--json"])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["impressions"] for one in told[:2]] == [2, 0] and told[1]["actions"] == 4
    assert source_of(load_config("c.toml"), "done").within_s == 604_800.0  # as long as a purchase may come

    Path("log.tsv").write_text("time\trequest\titem\tevent\n1767225900\tr3\ta,b\tview\n")
    assert main(["produce", "--config", "c.toml", "--data", "log.tsv", "--source", "shown"]) == 0
    log = open_log("sqlite:log.db")
    (last,) = log.read("shop.events", 0, 8, 100)
    log.close()
    assert json.loads(last.value) == {"time": 1767225900, "request": "r3", "item": "a,b", "event": "view"}

    Path("short.csv").write_text("time,request,item,event\n1,2\n")
    for source, file, words in (
        ("clicked", "log.csv", "no such source; known: shown, done, rows"),
        ("rows", "log.csv", "this source reads another format"),
        ("shown", "short.csv", "short.csv:2: 2 cells; expected 4"),
    ):
        assert main(["produce", "--config", "c.toml", "--data", file, "--source", source]) == 2
        assert words in capsys.readouterr().err


def test_a_file_without_events_is_told_and_one_event_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text('log = "sqlite:log.db"\n[features.item]\n')
    event = '{"type": "action", "request_id": "r", "time": 1767225600, "candidate": 0}\n'
    for count, status, said in (
        (0, 2, "there are no events in it"),
        (1, 0, "sent 1 events"),
        (2, 0, "sent 2 ev"),
    ):
        Path("e.jsonl").write_text(event * count)
        command = [
            "produce",
            "--config",
            "c.toml",
            "--data",
            "e.jsonl",
            "--events",
            "--producer",
            f"p{count}",
        ]
        assert main(command) == status
        assert said in capsys.readouterr().err


def test_blank_lines_are_no_events_and_broken_ones_are_errors(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("\n\ntime,item\n1,a\n\n2,b\n\n")
    assert list(lines_of(file, DataSettings())) == [{"time": 1, "item": "a"}, {"time": 2, "item": "b"}]
    (tmp_path / "a.jsonl").write_text('{"time": 1}\n \n{"time": 2}\n')
    assert list(lines_of(tmp_path / "a.jsonl", DataSettings())) == [{"time": 1}, {"time": 2}]
    file.write_text('time,item\n1,a\n2,"b"c\n')
    with pytest.raises(ProduceError, match=r"a\.csv:3: "):
        list(lines_of(file, DataSettings()))

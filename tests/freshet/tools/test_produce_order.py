"""A file of events whose actions come when their requests are decided: sent, and said."""

import json
from pathlib import Path

import pytest

from freshet.config import parse_config
from freshet.tools.produce import produce
from stream.log.base import EVENTS as TOPIC
from stream.log.open import open_log

EVENTS = [
    event
    for i in range(20)
    for event in (
        {"type": "impression", "request_id": f"r{i}", "time": 1000.0 + i, "candidates": [{"item": 1}]},
        {"type": "action", "request_id": f"r{i}", "time": 1010.0 + i, "candidate": 0, "name": "click"},
        {"type": "action", "request_id": f"r{i}", "time": 1500.0 + i, "candidate": 0, "name": "buy"},
    )
]


def test_actions_behind_their_windows_are_counted_when_a_file_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parse_config(
        {
            "log": f"sqlite:{tmp_path / 'log.db'}",
            "state": str(tmp_path / "state"),
            "features": {"item": {"dim": 4}},
            "targets": {"click": {}, "buy": {"of": "click", "window_s": 900.0}},
        },
        "test",
    )
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    assert produce(config, file, holds="events") == 60
    assert "19 of 40 actions stand behind" in capsys.readouterr().err  # all clicks but the first
    ordered = sorted(EVENTS, key=lambda event: float(str(event["time"])))
    file.write_text("".join(json.dumps(event) + "\n" for event in ordered))
    assert produce(config, file, holds="events") == 60
    assert "warning" not in capsys.readouterr().err


def test_events_are_sent_at_the_rate_and_no_more_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("freshet.tools.produce.time.sleep", waited.append)
    config = parse_config(
        {"log": f"sqlite:{tmp_path / 'log.db'}", "state": str(tmp_path / "state"), "features": {"item": {}}},
        "test",
    )
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    produce(config, file, holds="events", rate=1e9)
    assert waited and max(waited) < 0.5
    waited.clear()
    produce(config, file, holds="events", rate=20.0, producer="slow")
    assert len(waited) == 60 and max(waited) > 2.0, "a second for each 20, and this test does not wait"


def test_what_is_told_of_an_entity_has_its_key_and_an_event_that_of_its_request(tmp_path: Path) -> None:
    table = {"item": {}, "brand": {"of": "item"}}
    config = parse_config(
        {"log": f"sqlite:{tmp_path / 'log.db'}", "state": str(tmp_path / "state"), "features": table}, "test"
    )
    told = {"type": "entity", "feature": "item", "id": 7, "time": 1000.0, "set": {"brand": "acme"}}
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in (told, EVENTS[0])))
    produce(config, file, holds="events", events_per_message=1)
    log = open_log(config.log)
    keys = [record.key for p in range(log.partitions(TOPIC)) for record in log.read(TOPIC, p, 0)]
    log.close()
    assert sorted(keys) == [b"item/7", b"r0"]

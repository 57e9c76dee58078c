"""What a joiner notes of producers: the joined share, and where their keys lie."""

import logging
from pathlib import Path

import pytest
from joining import RestartableJoiner

from stream.join.joiner import JoinSettings
from stream.join.producers import meeting
from stream.join.producers.keys import KeyPlaces
from stream.join.producers.meeting import EventSender, Meetings, Met
from stream.log.base import EVENTS, Outgoing, Record, partition_of
from stream.log.testing.memory import MemoryLog
from stream.records.types import Action, Impression, encode, join_batch

T = 1_700_000_000.0


def send(world: RestartableJoiner, producer: str, partition: int, *events: Impression | Action) -> None:
    rows = [Outgoing(e.request_id.encode(), encode(e), partition, producer) for e in events]
    world.log.append(EVENTS, rows)
    world.take_all()


def test_actions_are_counted_by_producer_and_partition_as_they_meet_or_do_not(tmp_path: Path) -> None:
    world = RestartableJoiner(MemoryLog(), tmp_path, JoinSettings(window_s=10.0, max_ahead_s=1e9), 2)
    items = [{"item": 1}, {"item": 2}]
    send(world, "web", 0, Impression("a", T, items), Action("a", T + 1, 0), Action("a", T + 1, 1))
    send(
        world, "app", 1, Action("b", T, 0), Action("c", T, 0), Action("b", T, 1)
    )  # ahead of their impressions
    assert world.joiner.meetings.counts() == {
        EventSender("web", 0): Met(2, 0),
        EventSender("app", 1): Met(0, 0),
    }
    send(world, "web", 1, Impression("b", T + 1, items), Action("b", T + 2, 0))
    send(world, "web", 1, Impression("z", T + 100, items))
    assert world.joiner.meetings.counts() == {
        EventSender("web", 0): Met(2, 0), EventSender("app", 1): Met(2, 1), EventSender("web", 1): Met(1, 0)
    }  # fmt: skip
    assert world.joiner.counts.orphans == 1
    batch = join_batch([encode(Action("y", T + 101, 0)), encode(Action("y", T + 101, 1))])
    world.log.append(EVENTS, [Outgoing(b"y", batch, 1, "batches")])
    send(world, "web", 1, Impression("y", T + 102, items))
    assert world.joiner.meetings.counts()[EventSender("batches", 1)] == Met(2, 0)
    send(world, "web", 1, Action("z", T + 101, 7))  # no such candidate: a dead letter, and no meeting
    assert world.joiner.meetings.counts()[EventSender("web", 1)] == Met(1, 0)
    world.state.close()


def test_what_is_noted_of_waiting_actions_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "WAITING_MAX", 3)
    monkeypatch.setattr(meeting, "SENDERS_MAX", 2)
    meetings = Meetings()
    for offset in range(10):
        meetings.acted(f"p{offset}", 0, offset, f"r{offset}", met=False)
    for offset in range(7):
        meetings.shown(0, f"r{offset + 4}")
    found = meetings.counts()
    assert found == {
        EventSender("p0", 0): Met(),
        EventSender("p1", 0): Met(),
        EventSender("(others)", -1): Met(3, 0),
    }


def test_producer_whose_keys_lie_elsewhere_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    places = KeyPlaces(8)
    with caplog.at_level(logging.WARNING, "freshet.joiner"):
        for i in range(200):
            key = f"r{i}".encode()
            places.look(Record("events", partition_of(key, 8), i, key, b"", "good"))
            places.look(Record("events", i % 8, i, key, b"", "crc32"))
            places.look(Record("events", i % 8, i, b"tick", b""))
    (line,) = caplog.messages
    assert "producer crc32: " in line and "partitioner=murmur2_random" in line
    assert set(places.misplaced()) == {"crc32"} and 150 < places.misplaced()["crc32"] < 200

"""The lag meter over a real log."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.errors import LogError
from stream.log.base import Outgoing, Record
from stream.log.lag import HISTORY_MAX, Lag, LagMeter, Position
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog


class Counting(SqliteLog):
    """Counts reads: the meter must not disturb the reader."""

    reads = 0
    away = False

    def read(self, *args: object, **kwargs: object) -> list[Record]:
        self.reads += 1
        return super().read(*args, **kwargs)  # type: ignore[arg-type]

    def ends(self, topic: str) -> list[tuple[int, int]]:
        if self.away:
            raise LogError("away")
        return super().ends(topic)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Counting]:
    log = Counting(tmp_path / "log.db", LogSettings(sync=False))
    log.create_topic("t", 2)
    yield log
    log.close()


def append(log: SqliteLog, n: int, partition: int = 0) -> None:
    log.append("t", [Outgoing(b"", b"x", partition)] * n)


def test_reader_at_the_end_has_no_lag(log: Counting) -> None:
    append(log, 3)
    meter = LagMeter(log, "t", lambda: {0: Position(3, 1), 1: Position(0, 0)})
    assert meter.measure() == meter.lags == [Lag("t", 0, 0, 0.0), Lag("t", 1, 0, 0.0)]
    assert log.reads == 0


def test_only_partitions_that_are_read_are_measured(log: Counting) -> None:
    append(log, 3, partition=1)
    meter = LagMeter(log, "t", lambda: {1: Position(1, 0)})
    assert [(lag.partition, lag.records) for lag in meter.measure()] == [(1, 2)]


def test_seconds_grow_from_when_the_oldest_record_came(log: Counting) -> None:
    offset = 5
    meter = LagMeter(log, "t", lambda: {0: Position(offset, 1)})
    append(log, 5)
    meter.measure()
    time.sleep(0.2)
    before_s = time.monotonic()
    append(log, 1)
    meter.measure()
    came_s = time.monotonic()
    time.sleep(0.2)
    append(log, 10)
    least_s = time.monotonic() - came_s
    (lag,) = meter.measure()
    assert lag.records == 11
    assert least_s - 0.05 <= lag.seconds <= time.monotonic() - before_s + 0.25
    offset = 16
    assert meter.measure() == [Lag("t", 0, 0, 0.0)]
    assert log.reads == 0


def test_backlog_from_before_is_as_old_as_what_was_taken_last(log: Counting) -> None:
    began_s = time.monotonic()
    append(log, 10)
    hour_ago_ms = time.time_ns() // 1_000_000 - 3_600_000
    (lag,) = LagMeter(log, "t", lambda: {0: Position(4, hour_ago_ms)}).measure()
    assert lag.records == 6 and 3600.0 <= lag.seconds < 3600.1 + time.monotonic() - began_s
    assert log.reads == 0
    time.sleep(0.2)
    (lag,) = LagMeter(log, "t", lambda: {0: Position(0, 0)}).measure()  # nothing taken yet
    assert lag.records == 10 and 0.2 <= lag.seconds < 0.1 + time.monotonic() - began_s


def test_what_is_remembered_is_bounded_and_says_the_same(log: Counting) -> None:
    position = Position(0, 0)
    began_s = time.monotonic()
    meter = LagMeter(log, "t", lambda: {0: position})
    for _ in range(700):
        append(log, 1)
        position = Position(log.ends("t")[0][1], 1)
        meter.measure()
    position = Position(650, 1)
    (lag,) = meter.measure()
    assert lag.records == 50 and 0.0 < lag.seconds < 0.1 + time.monotonic() - began_s
    assert 1 < meter.remembered <= HISTORY_MAX


def test_log_that_is_away_is_told_and_comes_back(log: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.log.lag.EVERY_S", 0.01)
    append(log, 3)
    meter = LagMeter(log, "t", lambda: {0: Position(1, 1)})

    def wait_for(up: bool) -> None:
        deadline = time.monotonic() + 60.0
        while meter.up != up or bool(meter.lags) != up:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    meter.start()
    try:
        wait_for(True)
        log.away = True
        wait_for(False)
        log.away = False
        wait_for(True)
    finally:
        meter.stop()
    meter.stop()

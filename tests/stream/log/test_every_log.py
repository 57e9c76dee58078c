"""Every log does the same: the embedded one and Kafka; real files, threads and processes, a real broker."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from depth import many
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_murmur2
from patience import patient

from stream.errors import LogAwayError, LogError
from stream.log.base import DEAD_LETTERS, Log, Outgoing, Record, partition_of
from stream.log.open import open_log
from stream.log.partitioner import murmur2
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.log.sqlite.pool import Pool
from stream.log.testing import Faults, FaultyLog, MemoryLog

FAST = LogSettings(sync=False)
WAIT_S = 3600.0  # longer than a test may take: a read that does not end before this fails


Open = Callable[[LogSettings], Log]

KAFKA = pytest.param("kafka", marks=pytest.mark.process)


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A log that nothing is in yet, which other processes may open."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'log.db'}"
    address = request.getfixturevalue("kafka_broker")
    return f"kafka://{address}/{request.getfixturevalue('kafka_prefix')}"


SHARED = pytest.mark.parametrize("url", ["sqlite", KAFKA], indirect=True)


@pytest.fixture(params=["sqlite", "memory", "faulty", KAFKA])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens one and the same log, that nothing is in yet, again and again."""
    if request.param == "sqlite":
        return lambda settings: open_log(f"sqlite:{tmp_path / 'log.db'}", settings)
    if request.param == "kafka":
        address, prefix = request.getfixturevalue("kafka_broker"), request.getfixturevalue("kafka_prefix")
        return lambda settings: open_log(f"kafka://{address}/{prefix}", patient(settings))
    first = MemoryLog(FAST)
    if request.param == "memory":
        return first.connect
    # these faults only delay: every call must still do what it promises
    slow = Faults(delay=0.2, delay_s_max=0.001)
    return lambda settings: FaultyLog(first.connect(settings), 1, slow)


@pytest.fixture
def log(opened: Open) -> Iterator[Log]:
    log = opened(FAST)
    yield log
    log.close()


@pytest.fixture
def sqlite_log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db", FAST)
    yield log
    log.close()


def test_records_come_back_as_appended(log: Log) -> None:
    log.create_topic("t", 2)
    before_ms = time.time_ns() // 1_000_000
    placed = log.append(
        "t", [Outgoing(b"k", b"a", 1, "me", 7), Outgoing(b"", b"", 1), Outgoing(b"k", b"c", 0)]
    )
    assert placed == [(1, 0), (1, 1), (0, 0)]
    first, second = log.read("t", 1, 0)
    assert (first.topic, first.partition, first.offset, first.key, first.value) == ("t", 1, 0, b"k", b"a")
    assert (first.producer, first.seq, second.producer, second.seq) == ("me", 7, "", -1)
    assert before_ms <= first.ingest_ms <= time.time_ns() // 1_000_000
    assert log.ends("t") == [(0, 1), (0, 2)]
    assert log.append("t", []) == []


def test_partition_follows_the_key_when_none_is_given(log: Log) -> None:
    log.create_topic("t", 8)
    keys = [f"key{i}".encode() for i in range(100)]
    placed = log.append("t", [Outgoing(key, b"") for key in keys])
    assert [partition for partition, _ in placed] == [partition_of(key, 8) for key in keys]
    assert len({partition for partition, _ in placed}) == 8


@settings(
    max_examples=many(8),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=30),
    start=st.integers(0, 35),
    max_records=st.integers(1, 10),
    max_bytes=st.integers(1, 120),
)
@example(sizes=[5, 5, 5], start=0, max_records=10, max_bytes=10)
@example(sizes=[5, 5, 5], start=0, max_records=10, max_bytes=9)
def test_read_is_bounded_and_gives_at_least_one(
    log: Log, sizes: list[int], start: int, max_records: int, max_bytes: int
) -> None:
    topic = uuid.uuid4().hex
    log.create_topic(topic, 1)
    log.append(topic, [Outgoing(b"", b"x" * size) for size in sizes])
    found = [record.offset for record in log.read(topic, 0, start, max_records, max_bytes)]
    expected: list[int] = []
    for offset in range(start, len(sizes)):
        if len(expected) == max_records or (expected and sum(sizes[start : offset + 1]) > max_bytes):
            break
        expected.append(offset)
    assert found == expected


def test_reads_of_several_partitions_at_once_are_those_of_each(log: Log) -> None:
    log.create_topic("t", 3)
    log.append("t", [Outgoing(b"", b"%d" % i, i % 2) for i in range(10)])
    found = log.read_any("t", {0: 1, 1: 0, 2: 0}, max_records=3)
    assert {p: [r.offset for r in records] for p, records in found.items()} == {0: [1, 2, 3], 1: [0, 1, 2]}
    assert log.read_any("t", {0: 5, 2: 0}) == {}
    timer = threading.Timer(0.05, lambda: log.append("t", [Outgoing(b"", b"x", 2)]))
    timer.start()
    found = log.read_any("t", {0: 5, 1: 5, 2: 0}, wait_s=WAIT_S)
    assert {p: [r.value for r in records] for p, records in found.items()} == {2: [b"x"]}
    timer.join()


def test_reads_jump_to_any_offset(log: Log) -> None:
    log.create_topic("t", 1)
    log.append("t", [Outgoing(b"", b"%d" % i) for i in range(3000)])
    for offset, count in ((0, 10), (10, 500), (2990, 100), (5, 1), (6, 2000), (2006, 994), (9999, 1)):
        found = log.read("t", 0, offset, count)
        assert [r.value for r in found] == [b"%d" % i for i in range(offset, min(offset + count, 3000))]


def test_another_log_object_sees_what_was_appended_at_once(log: Log, opened: Open) -> None:
    log.create_topic("t", 1)
    other = opened(FAST)
    for i in range(5):
        assert other.read("t", 0, i) == []
        log.append("t", [Outgoing(b"", b"%d" % i)])
        assert [r.value for r in other.read("t", 0, i)] == [b"%d" % i]
    other.close()


def test_waiting_read_sees_another_connections_append(log: Log) -> None:
    log.create_topic("t", 1)
    timer = threading.Timer(0.05, lambda: log.append("t", [Outgoing(b"", b"x")]))
    timer.start()
    assert len(log.read("t", 0, 0, wait_s=WAIT_S)) == 1
    timer.join()
    assert log.read("t", 0, 1, wait_s=0.02) == []


def test_topic_is_made_once_and_keeps_its_partitions(log: Log) -> None:
    log.create_topic("t", 3)
    log.create_topic("u", 1)
    log.create_topic("t", 3)
    assert (log.partitions("t"), log.partitions("u")) == (3, 1)
    with pytest.raises(LogError, match="has 3 partitions, not 4"):
        log.create_topic("t", 4)


def test_misuse_is_explained(log: Log) -> None:
    log.create_topic("t", 1)
    with pytest.raises(LogError, match=r"no topic '.*nope'; create it first"):
        log.append("nope", [Outgoing(b"", b"")])
    with pytest.raises(LogError, match=r"no topic '.*nope'; create it first"):
        log.read("nope", 0, 0)
    with pytest.raises(LogError, match="partitions 0 to 0, no 5"):
        log.read("t", 5, 0)
    with pytest.raises(LogError, match="partitions 0 to 0, no 1"):
        log.append("t", [Outgoing(b"", b"", 1)])
    with pytest.raises(LogError, match="cannot have 0 partitions"):
        log.create_topic("u", 0)
    log.close()
    for use in (
        lambda: log.ends("t"),
        lambda: log.read("t", 0, 0),
        lambda: log.append("t", [Outgoing(b"", b"")]),
    ):
        with pytest.raises(LogError, match="is closed"):
            use()


def test_url_that_names_no_log_is_explained(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"unknown scheme 'redis'; known: sqlite:PATH.*kafka://HOST"):
        open_log("redis://localhost")
    with pytest.raises(LogError, match="names no file"):
        open_log("sqlite:")
    for url in ("kafka:", "kafka://", "kafka://a:b", "kafka://a,", "kafka://a/b/c", "kafka://a/b?c=d"):
        with pytest.raises(LogError, match="not of the form kafka://HOST:PORT"):
            open_log(url)
    with pytest.raises(LogError, match="do not belong") as refused:
        open_log("kafka://ann:secret@host:9092")
    assert "secret" not in str(refused.value)
    (tmp_path / "text").write_text("this is not a database at all, but some text " * 100)
    with pytest.raises(LogError, match="damaged or no log"):
        open_log(str(tmp_path / "text"))
    with pytest.raises(LogError, match="folder cannot be made"):
        open_log(str(tmp_path / "text" / "log.db"))


def test_url_forms_open_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    for url in (str(path), f"sqlite:{path}", f"sqlite://{path}"):
        log = open_log(url, FAST)
        log.create_topic("t", 1)
        log.append("t", [Outgoing(b"", b"")])
        log.close()
    log = open_log(str(path))
    assert log.ends("t") == [(0, 3)]
    log.close()


def test_record_over_the_limit_is_refused_but_fits_as_a_dead_letter(opened: Open) -> None:
    log = opened(LogSettings(record_bytes_max=1000, sync=False))
    log.create_topic("t", 1)
    log.create_topic(DEAD_LETTERS, 1)
    assert log.record_bytes_max("t") == 1000 and log.record_bytes_max(DEAD_LETTERS) > 60_000
    log.append("t", [Outgoing(b"", b"x" * 1000)])
    with pytest.raises(LogError, match="over the limit of 1,000"):
        log.append("t", [Outgoing(b"", b"y"), Outgoing(b"", b"x" * 1001)])
    assert log.ends("t") == [(0, 1)]
    log.append(DEAD_LETTERS, [Outgoing(b"", b"x" * 1500)])
    log.close()


def test_large_records_come_back_between_small_ones(log: Log) -> None:
    log.create_topic("t", 2)
    sizes = [10, 5 << 20, 20, 1 << 20, 900_000, 3, 12 << 20]
    records = [Outgoing(b"k", bytes([i]) * size, i % 2, "me", i) for i, size in enumerate(sizes)]
    assert log.append("t", records) == [(i % 2, i // 2) for i in range(len(sizes))]
    for partition in (0, 1):
        found, offset = [], 0
        while records := log.read("t", partition, offset):
            found += records
            offset = records[-1].offset + 1
        assert [(len(r.value), r.value[:1], r.seq) for r in found] == [
            (size, bytes([i]), i) for i, size in enumerate(sizes) if i % 2 == partition
        ]


def test_committed_offsets_are_kept_per_group_and_topic(log: Log) -> None:
    log.create_topic("t", 2)
    log.create_topic("u", 1)
    assert log.committed("g", "t") == {}
    log.commit("g", "t", {0: 5, 1: 6})
    log.commit("g", "t", {1: 7})
    log.commit("h", "u", {0: 1})
    assert log.committed("g", "t") == {0: 5, 1: 7}
    assert log.committed("h", "t") == {} and log.committed("h", "u") == {0: 1}


def test_trim_drops_from_the_front_only_and_offsets_go_on(log: Log) -> None:
    log.create_topic("t", 2)
    log.append("t", [Outgoing(b"", b"%d" % i, i % 2) for i in range(12_000)])
    log.trim("t", 0, 5_900)
    assert log.ends("t") == [(5_900, 6_000), (0, 6_000)]
    assert log.read("t", 0, 0, 1)[0].offset == 5_900
    log.trim("t", 0, 10**9)
    assert log.ends("t")[0] == (6_000, 6_000) and log.read("t", 0, 0) == []
    assert log.append("t", [Outgoing(b"", b"", 0)]) == [(0, 6_000)]


@pytest.fixture(params=["sqlite", "memory"])
def opened_here(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """A log that enforces its retention itself."""
    return MemoryLog if request.param == "memory" else lambda given: SqliteLog(tmp_path / "log.db", given)


def test_retention_by_bytes_keeps_the_newest_of_each_partition(opened_here: Open) -> None:
    log = opened_here(LogSettings(retain_bytes={"t": 30_000}, sync=False))
    log.create_topic("t", 2)
    log.create_topic("u", 1)
    for topic in ("t", "u"):
        log.append(topic, [Outgoing(b"", b"x" * 100, 0) for _ in range(500)])
    log.append("t", [Outgoing(b"", b"x" * 100, 1) for _ in range(100)])
    log.enforce_retention()
    kept = [end - first for first, end in log.ends("t")]
    assert kept == [250, 50]
    assert log.ends("u") == [(0, 500)]
    log.close()


def test_retention_by_age_drops_what_is_older(opened_here: Open) -> None:
    log = opened_here(LogSettings(retain_s={"*": 0.2}, retain_bytes={}, sync=False))
    log.create_topic("t", 1)
    log.append("t", [Outgoing(b"", b"old")] * 10)
    time.sleep(0.25)
    while True:
        began_s = time.monotonic()
        log.append("t", [Outgoing(b"", b"new")] * 3)
        log.enforce_retention()
        if time.monotonic() - began_s < 0.2:  # or these are old too by now, on a machine that stood still
            break
    ((first, end),) = log.ends("t")
    assert first >= 10 and end - first == 3
    log.close()


def read_all(log: Log) -> list[Record]:
    found: list[Record] = []
    while records := log.read("t", 0, len(found)):
        found += records
    return found


APPEND = """
import sys
from stream.log.base import Outgoing
from stream.log.settings import LogSettings
from stream.log.open import open_log
log = open_log(sys.argv[1], LogSettings(sync=False))
log.create_topic("t", 1)
for i in range(int(sys.argv[3])):
    log.append("t", [Outgoing(b"", b"%d/%d" % (i, j), None, sys.argv[2], i) for j in range(5)])
    print(i, flush=True)
"""


@SHARED
@pytest.mark.process
def test_several_processes_append_in_their_own_order(url: str) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", APPEND, url, f"p{n}", "60"], stdout=subprocess.DEVNULL)
        for n in range(3)
    ]
    assert [child.wait(WAIT_S) for child in children] == [0, 0, 0]
    log = open_log(url, FAST)
    records = read_all(log)
    log.close()
    assert [record.offset for record in records] == list(range(900))
    for n in range(3):
        mine = [r.value for r in records if r.producer == f"p{n}"]
        assert mine == [b"%d/%d" % (i, j) for i in range(60) for j in range(5)]


@SHARED
@pytest.mark.process
def test_kill_while_appending_leaves_whole_batches_and_all_that_were_acknowledged(url: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", APPEND, url, "p", "1000000"], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for _ in range(50):
            acknowledged = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
    time.sleep(0.2)  # what the killed one had sent may still arrive
    log = open_log(url, FAST)
    records = read_all(log)
    log.close()
    assert len(records) % 5 == 0 and len(records) >= 5 * (acknowledged + 1)
    assert [r.seq for r in records] == [i // 5 for i in range(len(records))]


def test_threads_share_one_log(log: Log) -> None:
    log.create_topic("t", 4)

    def write(n: int) -> None:
        for i in range(50):
            log.append("t", [Outgoing(b"", b"%d" % i, n)])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.ends("t") == [(0, 50)] * 4


@given(st.binary(max_size=200), st.integers(1, 1024))
def test_keys_go_where_kafkas_own_clients_put_them(key: bytes, partitions: int) -> None:
    assert murmur2(key) == kafka_murmur2(key) & 0xFFFFFFFF
    assert partition_of(key, partitions) == (kafka_murmur2(key) & 0x7FFFFFFF) % partitions


def test_log_that_another_holds_on_to_is_away_and_comes_back(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", LogSettings(sync=False, busy_timeout_s=0.02))
    log.create_topic("t", 1)
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # as a backup does
    with pytest.raises(LogAwayError, match=r"another process has been writing for over 0.02 s"):
        log.append("t", [Outgoing(b"k", b"a")])
    other.execute("ROLLBACK")
    other.close()
    assert log.append("t", [Outgoing(b"k", b"b")]) == [(0, 0)]
    log.close()


@pytest.mark.parametrize(
    ("text", "kind", "advice"),
    [
        ("database or disk is full", LogAwayError, "free some space"),
        ("disk I/O error", LogAwayError, "is the disk full, or failing"),
        ("database disk image is malformed", LogError, "restore it from a copy"),
        ("Could not decode to UTF-8 column 'producer'", LogError, "restore it from a copy"),
        ("unable to open database file", LogError, "permissions"),
    ],
)
def test_what_passes_is_told_from_what_does_not(
    tmp_path: Path, text: str, kind: type[LogError], advice: str
) -> None:
    pool = Pool(tmp_path / "log.db", LogSettings())
    with pytest.raises(LogError, match=advice) as raised, pool.connection():
        raise sqlite3.OperationalError(text)
    assert type(raised.value) is kind

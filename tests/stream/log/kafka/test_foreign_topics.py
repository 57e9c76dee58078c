"""Topics as other programs fill and set them: transactions, codecs, headers, times, limits, rights."""

import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import (
    AdminClient,
    NewPartitions,
    NewTopic,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka import KafkaProducer
from patience import patient
from waiting import wait_until

from stream.errors import LogAwayError, LogError
from stream.join.joiner import Joiner, JoinSettings
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, SEQ_MAX, Outgoing, Record
from stream.log.kafka import open_transactions
from stream.log.kafka.log import KafkaLog
from stream.log.kafka.mark import parse_mark, read_mark, write_mark
from stream.log.lag import LagMeter, Position
from stream.log.reading import newest
from stream.records.types import Impression, encode
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

pytestmark = [
    pytest.mark.process,
    # kafka-python leaves the sockets of connections that fail to Python's collector
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def log(kafka_broker: str, kafka_prefix: str) -> Iterator[KafkaLog]:
    opened = KafkaLog(f"kafka://{kafka_broker}/{kafka_prefix}", patient())
    yield opened
    opened.close()


@pytest.fixture
def admin(kafka_broker: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka_broker})


def make(admin: AdminClient, name: str, partitions: int = 1, **config: str) -> None:
    """A topic as the brokers' defaults have it."""
    wanted = NewTopic(
        name, partitions, config={key.replace("_", "."): value for key, value in config.items()}
    )
    admin.create_topics([wanted])[name].result(60.0)


def make_again(admin: AdminClient, name: str) -> None:
    """A topic that was deleted; with ZooKeeper the brokers finish that only some time after they say so."""

    def made() -> bool:
        try:
            make(admin, name, message_timestamp_type="LogAppendTime")
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            return False
        return True

    wait_until(made)


def read_all(log: KafkaLog, topic: str, partition: int = 0) -> list[Record]:
    found: list[Record] = []
    while records := log.read(topic, partition, found[-1].offset + 1 if found else 0):
        found += records
    return found


# Transactions


class ByConfluent:
    """A transactional producer of librdkafka."""

    def __init__(self, address: str) -> None:
        self._producer = Producer({"bootstrap.servers": address, "transactional.id": uuid.uuid4().hex})
        self._producer.init_transactions(30.0)

    def begin(self) -> None:
        self._producer.begin_transaction()

    def send(self, name: str, value: bytes) -> None:
        self._producer.produce(name, value, partition=0)

    def flush(self) -> None:
        self._producer.flush(30.0)

    def end(self, commit: bool) -> None:
        (self._producer.commit_transaction if commit else self._producer.abort_transaction)(30.0)

    def close(self) -> None:
        pass


class ByKafkaPython:
    """A transactional producer of kafka-python."""

    def __init__(self, address: str) -> None:
        self._producer = KafkaProducer(bootstrap_servers=address, transactional_id=uuid.uuid4().hex)
        self._producer.init_transactions()

    def begin(self) -> None:
        self._producer.begin_transaction()

    def send(self, name: str, value: bytes) -> None:
        self._producer.send(name, value, partition=0)

    def flush(self) -> None:
        self._producer.flush()

    def end(self, commit: bool) -> None:
        (self._producer.commit_transaction if commit else self._producer.abort_transaction)()

    def close(self) -> None:
        self._producer.close()


@pytest.mark.parametrize("client", [ByConfluent, ByKafkaPython])
def test_events_of_aborted_transactions_are_never_joined(
    kafka_broker: str, kafka_prefix: str, log: KafkaLog, tmp_path: Path, client: type[ByConfluent]
) -> None:
    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS):
        log.create_topic(topic, 1)
    producer = client(kafka_broker)
    name = f"{kafka_prefix}.{EVENTS}"
    for first in range(0, 60, 10):
        producer.begin()
        for i in range(first, first + 10):
            producer.send(name, encode(Impression(f"r{i}", 1.7e9 + i, [{"item": i}], labels=[1.0])))
        producer.flush()  # the aborted ones are in the log, too
        producer.end(commit=first not in (20, 50))
    producer.close()
    with RoleState(tmp_path / "state", "joiner", {}, sync=False) as state:
        joiner = Joiner(state, JoinSettings())
        runner = Runner(log, state, joiner, Subscription(EVENTS, "join")).open()
        while runner.step():
            pass
        runner.commit()
        assert joiner.counts.impressions == 40
        # only what a transaction leaves lies behind the last event that counts
        (lag,) = LagMeter(log, EVENTS, runner.positions).measure()
        assert (lag.records, lag.seconds) == (0, 0.0)
    names = [record.key for record in read_all(log, EXAMPLES)]
    assert names == [b"r%d" % i for i in range(60) if not (20 <= i < 30 or i >= 50)]


def test_events_of_an_open_transaction_are_read_when_it_commits(
    kafka_broker: str, kafka_prefix: str, log: KafkaLog
) -> None:
    log.create_topic("t", 1)
    producer = ByConfluent(kafka_broker)
    log.append("t", [Outgoing(b"", b"before")])
    producer.begin()
    producer.send(f"{kafka_prefix}.t", b"open")
    producer.flush()
    log.append("t", [Outgoing(b"", b"behind")])
    assert [r.value for r in read_all(log, "t")] == [b"before"]
    assert log.read("t", 0, 1, wait_s=0.3) == [] and log.ends("t") == [(0, 1)]
    producer.end(commit=True)
    assert [r.value for r in log.read("t", 0, 1, wait_s=60.0)][:1] == [b"open"]
    assert [r.value for r in read_all(log, "t")] == [b"before", b"open", b"behind"]


def test_records_behind_a_transaction_that_does_not_end_are_told(
    kafka_broker: str,
    kafka_prefix: str,
    log: KafkaLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(open_transactions, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(open_transactions, "OPEN_S", 0.5)
    log.create_topic("t", 2)
    producer = ByConfluent(kafka_broker)
    producer.begin()
    producer.send(f"{kafka_prefix}.t", b"x")
    producer.flush()
    producer.end(commit=False)  # its marker is no record that waits
    for _ in range(10):
        assert log.read_any("t", {0: 0, 1: 0}, wait_s=0.1) == {}
    assert not caplog.text
    producer.begin()
    producer.send(f"{kafka_prefix}.t", b"open")
    producer.flush()
    log.append("t", [Outgoing(b"", b"behind", p) for p in (0, 1)])
    while "wait for a transaction that does not end" not in caplog.text:
        log.read_any("t", {0: 0, 1: 1}, wait_s=0.1)
    assert len(caplog.records) == 1, "once in ten minutes"
    assert "records from offset" in caplog.text
    producer.end(commit=True)
    assert log.read_any("t", {0: 0, 1: 1}, wait_s=60.0)


def test_lag_is_zero_where_only_markers_are_left(kafka_broker: str, kafka_prefix: str, log: KafkaLog) -> None:
    log.create_topic("t", 2)
    producer = ByConfluent(kafka_broker)
    for commit in (True, False, False):
        producer.begin()
        producer.send(f"{kafka_prefix}.t", b"x")
        producer.flush()
        producer.end(commit)
    (record,) = log.read_any("t", {0: 0, 1: 0})[0]
    position = record.offset + 1
    assert log.read("t", 0, position) == []
    meter = LagMeter(log, "t", lambda: {0: Position(position, 1), 1: Position(0, 0)})
    assert [(lag.records, lag.seconds) for lag in meter.measure()] == [(0, 0.0)] * 2
    log.append("t", [Outgoing(b"", b"y", 0)])
    assert meter.measure()[0].records > 0
    assert [r.value for r in log.read("t", 0, position)] == [b"y"]


def test_newest_records_are_found_behind_what_transactions_leave(
    kafka_broker: str, kafka_prefix: str, log: KafkaLog
) -> None:
    log.create_topic("t", 2)
    producer = ByConfluent(kafka_broker)
    for i in range(20):  # each with a marker behind it
        producer.begin()
        producer.send(f"{kafka_prefix}.t", b"%d" % i)
        producer.flush()
        producer.end(commit=True)
    producer.begin()
    for _ in range(500):
        producer.send(f"{kafka_prefix}.t", b"never")
    producer.flush()
    producer.end(commit=False)
    for count, expected in ((10, range(10, 20)), (100, range(20))):
        found, nothing = newest(log, "t", count)
        assert [record.value for record in found] == [b"%d" % i for i in expected] and not nothing


# Batches and headers


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_batches_of_every_codec_are_read(
    kafka_broker: str, kafka_prefix: str, log: KafkaLog, codec: str
) -> None:
    log.create_topic("t", 1)
    producer = Producer({"bootstrap.servers": kafka_broker, "compression.type": codec, "linger.ms": 50})
    for i in range(300):
        producer.produce(
            f"{kafka_prefix}.t", b"v%d" % i * 20, b"k%d" % i, 0, headers=[("freshet", b"p/%d" % i)]
        )
    producer.flush(30.0)
    found = read_all(log, "t")
    assert [r.value for r in found] == [b"v%d" % i * 20 for i in range(300)]
    assert [(r.key, r.producer, r.seq) for r in found] == [(b"k%d" % i, "p", i) for i in range(300)]
    assert [r.offset for r in log.read("t", 0, 150)] == list(range(150, 300))


def test_compacted_offsets_are_gone_over(kafka_broker: str, kafka_prefix: str, log: KafkaLog) -> None:
    log.create_topic("t", 1)
    log.append("t", [Outgoing(b"", b"%d" % i) for i in range(100)])
    log.trim("t", 0, 40)
    assert log.read("t", 0, 10)[0].offset == 40
    assert log.read("t", 0, 10)[0].offset == 40  # asked again from the same place
    log.trim("t", 0, 100)
    assert log.read("t", 0, 10) == [] and log.ends("t") == [(100, 100)]
    log.append("t", [Outgoing(b"", b"new")])
    assert [r.offset for r in log.read("t", 0, 10)] == [100]


BAD_MARKS = [
    b"", b"/", b"x", b"x/", b"x/+5", b"x/-2", b"x/--1", b"x/1_0", b"x/ 5", b"x/5 ", b"x/05", b"x/5\n",
    b"x/1e3", b"x/0x10", b"x/%d" % 10**20, b"x/%d" % (SEQ_MAX + 1), "x/٣".encode(), b"\xff/1",
    b"n" * 256 + b"/1", b"n" * 10_000_000 + b"/1", b"x/" + b"9" * 5_000,
]  # fmt: skip


@pytest.mark.parametrize("mark", BAD_MARKS)
def test_mark_that_is_none_is_taken_as_none(mark: bytes) -> None:
    assert parse_mark(mark) == ("", -1)


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=400), st.from_regex(rb"[^/]{0,20}/[0-9+\-_ ]{0,25}", fullmatch=True)))
def test_whatever_a_mark_says_its_number_is_within_bounds(mark: bytes) -> None:
    producer, seq = parse_mark(mark)
    assert -1 <= seq <= SEQ_MAX and len(producer.encode()) <= 255
    if (producer, seq) != ("", -1):
        assert write_mark(producer, seq) == [("freshet", mark)]


@given(st.text(max_size=60), st.integers(-1, SEQ_MAX))
def test_mark_comes_back_as_written(producer: str, seq: int) -> None:
    assert read_mark([("a", b"b"), *write_mark(producer, seq)]) == (producer, seq)


def test_records_with_any_headers_are_joined(
    kafka_broker: str, kafka_prefix: str, log: KafkaLog, tmp_path: Path
) -> None:
    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS):
        log.create_topic(topic, 1)
    producer = Producer({"bootstrap.servers": kafka_broker, "message.max.bytes": 30_000_000})
    for i, mark in enumerate([*BAD_MARKS, None]):
        value = encode(Impression(f"r{i}", 1.7e9 + i, [{"item": i}], labels=[1.0]))
        producer.produce(
            f"{kafka_prefix}.{EVENTS}", value, headers=[("freshet", mark), ("", b""), ("ü", None)]
        )
    producer.flush(30.0)
    with RoleState(tmp_path / "state", "joiner", {}, sync=False) as state:
        joiner = Joiner(state, JoinSettings())
        runner = Runner(log, state, joiner, Subscription(EVENTS, "join")).open()
        while runner.step():
            pass
        runner.commit()
        assert joiner.counts.impressions == len(BAD_MARKS) + 1


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(st.text(max_size=8), st.one_of(st.none(), st.binary(max_size=30))), max_size=4))
def test_headers_of_any_bytes_are_read(
    kafka_broker: str, kafka_prefix: str, log: KafkaLog, headers: list[tuple[str, bytes | None]]
) -> None:
    if "h" not in log.topics():
        log.create_topic("h", 1)
    end = log.ends("h")[0][1]
    producer = Producer({"bootstrap.servers": kafka_broker})
    producer.produce(f"{kafka_prefix}.h", b"v", headers=[(n.replace("\0", ""), v) for n, v in headers])
    producer.flush(30.0)
    (record,) = log.read("h", 0, end, wait_s=60.0)
    assert (record.value, record.producer, record.seq) == (b"v", "", -1)
    assert record.headers == tuple((n.replace("\0", ""), v) for n, v in headers)


def test_record_with_a_header_whose_name_is_no_utf8_is_read(
    kafka_broker: str, kafka_prefix: str, log: KafkaLog, kcat: str, caplog: pytest.LogCaptureFixture
) -> None:
    log.create_topic("t", 1)
    command = [kcat, "-P", "-b", kafka_broker, "-t", f"{kafka_prefix}.t", "-H", b"n\xff=x", "-H", "m=y"]
    subprocess.run(command, input=b"theirs\n" * 100, check=True, timeout=60.0)
    log.append("t", [Outgoing(b"", b"ours", None, "p", 7)])
    *theirs, ours = read_all(log, "t")
    assert {(r.value, r.headers, r.producer, r.seq) for r in theirs} == {(b"theirs", (), "", -1)}
    assert len(theirs) == 100 and (ours.value, ours.producer, ours.seq) == (b"ours", "p", 7)
    assert caplog.text.count("header whose name is no UTF-8") == 1


def test_record_whose_number_no_log_can_keep_is_refused(log: KafkaLog) -> None:
    log.create_topic("t", 1)
    for producer, seq in (("n" * 256, 1), ("p", SEQ_MAX + 1), ("p", -2), ("\ud800", 1)):
        with pytest.raises(LogError, match="a number is -1 to"):
            log.append("t", [Outgoing(b"", b"", None, producer, seq)])
    log.append("t", [Outgoing(b"", b"", None, "n" * 255, SEQ_MAX)])
    assert [(r.producer, r.seq) for r in read_all(log, "t")] == [("n" * 255, SEQ_MAX)]


# Settings that somebody else chose


def test_topic_with_the_producers_times_is_refused_with_the_command(
    kafka_broker: str, kafka_prefix: str, log: KafkaLog, admin: AdminClient
) -> None:
    make(admin, f"{kafka_prefix}.{EVENTS}")
    with pytest.raises(LogError, match=r"CreateTime.*kafka-configs\.sh .*message\.timestamp\.type=LogAppend"):
        log.create_topic(EVENTS, 1)
    producer = Producer({"bootstrap.servers": kafka_broker})
    far = int((time.time() + 30 * 86_400) * 1e3)
    producer.produce(f"{kafka_prefix}.{EVENTS}", b"v", timestamp=int(time.time() * 1e3) - 1_000)
    producer.flush(30.0)
    (record,) = read_all(log, EVENTS)
    assert record.ingest_ms == 0 and 0 < record.created_ms < far


def test_compacted_topic_is_refused_with_the_command(
    kafka_prefix: str, log: KafkaLog, admin: AdminClient
) -> None:
    make(admin, f"{kafka_prefix}.{EVENTS}", cleanup_policy="compact,delete")
    with pytest.raises(LogError, match=r"compacted.*kafka-configs\.sh .*cleanup\.policy=delete"):
        log.create_topic(EVENTS, 1)


def test_topic_with_kafkas_own_limit_takes_what_it_says_and_no_more(
    kafka_prefix: str, log: KafkaLog, admin: AdminClient
) -> None:
    make(admin, f"{kafka_prefix}.t", message_timestamp_type="LogAppendTime")
    log.create_topic("t", 1)
    limit = log.record_bytes_max("t")
    assert 1_048_588 - 1_000 < limit < 1_048_588
    name = "p" * 255
    log.append("t", [Outgoing(b"k", b"x" * (limit - 1), None, name, SEQ_MAX), Outgoing(b"", b"y")])
    with pytest.raises(
        LogError, match=rf"over the limit of {limit:,}.*kafka-configs\.sh .*max\.message\.bytes="
    ):
        log.append("t", [Outgoing(b"", b"x" * (limit + 1))])
    assert [len(r.value) for r in read_all(log, "t")] == [limit - 1, 1]


def test_batches_are_cut_to_a_small_limit_and_a_raised_one_is_seen(
    kafka_broker: str, kafka_prefix: str, log: KafkaLog, admin: AdminClient
) -> None:
    make(admin, f"{kafka_prefix}.t", message_timestamp_type="LogAppendTime", max_message_bytes="20000")
    log.create_topic("t", 1)
    records = [Outgoing(b"", b"%05d" % i * 200, None, "p", i) for i in range(500)]
    assert log.append("t", records) == [(0, i) for i in range(500)]
    large = [Outgoing(b"", b"x" * 50_000)]
    with pytest.raises(LogError, match=r"max\.message\.bytes"):
        log.append("t", large)
    alter(admin, f"{kafka_prefix}.t", "max.message.bytes", "2000000")

    def taken() -> bool:  # the broker applies the setting a moment after it has confirmed it
        try:
            log.append("t", large)
        except LogError:
            return False
        return True

    wait_until(taken)
    assert [r.seq for r in read_all(log, "t")] == [*range(500), -1]


def test_limit_lowered_while_the_topic_is_used_is_kept_to_at_once(
    kafka_prefix: str, log: KafkaLog, admin: AdminClient
) -> None:
    log.create_topic("t", 1)
    records = [Outgoing(b"", b"%05d" % i * 200, None, "p", i) for i in range(500)]
    log.append("t", [Outgoing(b"", b"x" * 50_000)])
    alter(admin, f"{kafka_prefix}.t", "max.message.bytes", "20000")

    def refused() -> str:  # the broker applies the setting a moment after it has confirmed it
        try:
            log.append("t", [Outgoing(b"", b"x" * 50_000)])
        except LogError as error:
            return str(error)
        return ""

    wait_until(refused)
    assert "kafka-configs.sh" in refused() and "max.message.bytes=" in refused()
    log.append("t", records)
    assert [r.seq for r in read_all(log, "t") if r.seq >= 0] == list(range(500))
    alter(admin, f"{kafka_prefix}.t", "max.message.bytes", "10000")

    def sent() -> bool:
        log.append("t", records)
        return log.record_bytes_max("t") < 10_000

    wait_until(sent)


def alter(admin: AdminClient, name: str, setting: str, value: str) -> None:
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(60.0)


# What changes while it is used


def test_partitions_that_were_added_stop_who_uses_the_topic(
    kafka_prefix: str, log: KafkaLog, admin: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.log.kafka.topics.CHECK_S", 0.1)
    log.create_topic("t", 2)
    log.append("t", [Outgoing(b"", b"x", 0)])
    assert log.read("t", 0, 1, wait_s=0.3) == []
    name = f"{kafka_prefix}.t"
    admin.create_partitions([NewPartitions(name, 3)])[name].result(60.0)

    def refused() -> bool:
        try:
            log.read("t", 0, 1, wait_s=0.2)
        except LogError as error:
            return "had 2 partitions and now has 3" in str(error)
        return False

    wait_until(refused)
    with pytest.raises(LogError, match=r"had 2 partitions and now has 3.*new prefix"):
        log.append("t", [Outgoing(b"", b"x", 0)])


def test_topic_made_anew_stops_who_uses_it(
    kafka_prefix: str, log: KafkaLog, admin: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.log.kafka.topics.CHECK_S", 0.1)
    log.create_topic("t", 1)
    log.append("t", [Outgoing(b"", b"%d" % i) for i in range(10)])
    assert len(log.read("t", 0, 0)) == 10
    name = f"{kafka_prefix}.t"
    admin.delete_topics([name])[name].result(60.0)
    wait_until(lambda: name not in admin.list_topics(timeout=60.0).topics)
    make_again(admin, name)
    other = Producer({"bootstrap.servers": admin_address(log)})
    for i in range(20):
        other.produce(name, b"new%d" % i)
    other.flush(30.0)

    def refused() -> bool:
        try:
            log.read("t", 0, 10, wait_s=0.2)  # until the next look at the topic it may give new records
        except LogAwayError:
            return False
        except LogError as error:
            return "deleted and created again" in str(error)
        return False

    wait_until(refused)


def admin_address(log: KafkaLog) -> str:
    return log.url.removeprefix("kafka://").split("/")[0]


def test_advice_for_a_small_topic_is_the_command_and_for_a_small_setting_the_setting(
    kafka_prefix: str, log: KafkaLog, admin: AdminClient
) -> None:
    make(admin, f"{kafka_prefix}.t", message_timestamp_type="LogAppendTime", max_message_bytes="20000")
    log.create_topic("t", 1)
    assert log.limit_advice("t", 10_000) == ""
    assert re.fullmatch(r"Raise its limit: kafka-configs\.sh .*bytes=1098576", log.limit_advice("t", 50_000))
    wanted = log.settings.record_bytes_max + 1
    both = log.limit_advice("t", wanted)
    assert f"record_bytes_max = {wanted} or more" in both and "kafka-configs" in both

"""What only Kafka has: topics' settings, other clients' records, brokers that go away, three of them."""

import gc
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import starting
from broker import Broker, cluster_of
from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from patience import PATIENT, patient
from ports import free_ports
from shared_broker import with_kraft
from waiting import wait_until

from stream.errors import BufferFullError, LogAwayError, LogError, UndeliveredError
from stream.join.joiner import Joiner, JoinSettings
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing, Record
from stream.log.kafka.log import KafkaLog
from stream.log.settings import KafkaSettings, LogSettings
from stream.produce.producer import Producer
from stream.produce.settings import ProducerSettings
from stream.records.types import Impression, encode
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

pytestmark = [
    pytest.mark.process,
    # the library leaves the sockets of connections that fail to Python's collector
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]

QUICK = KafkaSettings(away_after_s=1.0)
"""Of a log whose broker a test takes away. A broker that is there may take longer on a busy machine."""


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


def kafka_log(address: str, prefix: str = "", kafka: KafkaSettings | None = None) -> KafkaLog:
    kafka = kafka or PATIENT
    return KafkaLog(f"kafka://{address}/{prefix}", LogSettings(kafka=kafka))


def read_all(log: KafkaLog, topic: str, partition: int = 0) -> list[Record]:
    found: list[Record] = []
    while records := log.read(topic, partition, found[-1].offset + 1 if found else 0):
        found += records
    return found


# Topics, and what other programs put into them


def test_topics_are_made_with_the_logs_own_settings(kafka_broker: str, kafka_prefix: str) -> None:
    settings = LogSettings(retain_s={"t": 3600.0}, retain_bytes={"t": 1000, "*": 0}, record_bytes_max=5 << 20)
    log = KafkaLog(f"kafka://{kafka_broker}/{kafka_prefix}", patient(settings))
    log.create_topic("t", 2)
    log.create_topic("u", 1)
    assert log.topics() == {"t": 2, "u": 1}
    log.close()
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker)
    names = [f"{kafka_prefix}.{topic}" for topic in ("t", "u")]
    told = admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name) for name in names], config_filter="all"
    )
    admin.close()
    first, second = ({key: entry["value"] for key, entry in told["topic"][name].items()} for name in names)
    assert first["message.timestamp.type"] == "LogAppendTime"
    assert (first["retention.ms"], first["retention.bytes"]) == ("3600000", "500")
    assert (second["retention.ms"], second["retention.bytes"]) == ("-1", "-1")
    assert int(first["max.message.bytes"]) > 5 << 20
    # A broker drops whole segments only, and Kafka's own of 1 GiB and a week would keep far more than that.
    assert (first["segment.ms"], second["segment.ms"]) == ("900000", "604800000")
    assert int(first["max.message.bytes"]) <= int(first["segment.bytes"]) <= 16 << 20
    assert second["segment.bytes"] == str(1 << 30)


def test_more_copies_than_brokers_are_refused_with_what_to_set(kafka_broker: str, kafka_prefix: str) -> None:
    log = kafka_log(kafka_broker, kafka_prefix, KafkaSettings(replication=3, away_after_s=60.0))
    with pytest.raises(LogError) as refused:
        log.create_topic("t", 1)
    log.close()
    assert str(refused.value) == (
        f"log kafka://{kafka_broker}: topic '{kafka_prefix}.t' cannot be made with 3 copies of each "
        "partition: the cluster has 1 broker. Start more brokers, or set stream.log.kafka.replication = 1"
    )


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_records_of_other_clients_are_read(
    kafka_broker: str, kafka_prefix: str, compression: str | None
) -> None:
    log = kafka_log(kafka_broker, kafka_prefix)
    log.create_topic("t", 1)
    producer = KafkaProducer(bootstrap_servers=kafka_broker, compression_type=compression, linger_ms=50)
    for i in range(200):
        headers = [("other", b"x"), ("freshet", b"their/%d" % i)] if i % 2 else []
        producer.send(
            f"{kafka_prefix}.t", b"v%d" % i * 20, key=b"k%d" % i if i % 3 else None, headers=headers
        )
    producer.flush()
    producer.close()
    found = read_all(log, "t")
    assert [r.value for r in found] == [b"v%d" % i * 20 for i in range(200)]
    assert [r.key for r in found] == [b"k%d" % i if i % 3 else b"" for i in range(200)]
    assert [(r.producer, r.seq) for r in found] == [("their", i) if i % 2 else ("", -1) for i in range(200)]
    assert [r.headers for r in found] == [(("other", b"x"),) if i % 2 else () for i in range(200)]
    assert abs(found[0].ingest_ms / 1e3 - time.time()) < 60.0
    assert [r.offset for r in log.read("t", 0, 150)] == list(range(150, 200))
    log.close()


def test_reader_asked_for_what_is_not_there_yet_finds_it_later(kafka_broker: str, kafka_prefix: str) -> None:
    """As after a restart of a broker that does not know its last records at once; also without waiting."""
    log = kafka_log(kafka_broker, kafka_prefix)
    log.create_topic("t", 1)
    log.append("t", [Outgoing(b"", b"%d" % i) for i in range(3)])
    assert log.read("t", 0, 5) == []
    log.append("t", [Outgoing(b"", b"%d" % i) for i in range(3, 7)])
    deadline_s = time.monotonic() + 60.0
    while not (found := log.read("t", 0, 5)):
        assert time.monotonic() < deadline_s
    assert [record.value for record in found] == [b"5", b"6"]
    log.close()


def test_reader_goes_on_behind_what_transactions_leave(kafka_broker: str, kafka_prefix: str) -> None:
    log = kafka_log(kafka_broker, kafka_prefix)
    log.create_topic("t", 1)
    producer = KafkaProducer(bootstrap_servers=kafka_broker, transactional_id=kafka_prefix)
    producer.init_transactions()
    for i in range(3):
        producer.begin_transaction()
        producer.send(f"{kafka_prefix}.t", b"%d" % i)
        producer.commit_transaction()
    producer.close()
    assert [(r.offset, r.value) for r in read_all(log, "t")] == [(0, b"0"), (2, b"1"), (4, b"2")]
    assert log.read("t", 0, 5) == []  # the last transaction's end, and nothing behind it
    log.append("t", [Outgoing(b"", b"x")])
    assert [(r.offset, r.value) for r in log.read("t", 0, 5)] == [(6, b"x")]
    log.close()


# A broker that is not there


def test_broker_that_is_not_there_is_told(kafka_broker: str, free_port: int) -> None:
    with pytest.raises(
        LogAwayError, match=r"does not answer \(127\.0\.0\.1:\d+: .*refused.*start the broker"
    ):
        kafka_log(f"127.0.0.1:{free_port}", kafka=QUICK)
    with pytest.raises(LogError, match=r"no\.such\.host"):
        kafka_log("no.such.host.invalid:9092", kafka=QUICK)


@pytest.fixture
def free_port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def module_broker(kafka_broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One for this file (the shared one has told by now whether there can be any)."""
    with Broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def own_broker(module_broker: Broker) -> Iterator[Broker]:
    """A broker that a test may pause, or stop and start."""
    yield module_broker
    if module_broker.process is None:
        module_broker.start()
    else:
        module_broker.resume()


def own_topics(broker: Broker, prefix: str, topics: dict[str, int]) -> None:
    """Make topics patiently, which a log of QUICK settings is not."""
    log = kafka_log(broker.address, prefix)
    for topic, partitions in topics.items():
        log.create_topic(topic, partitions)
    log.close()


def impressions(first: int, count: int) -> list[Outgoing]:
    return [
        Outgoing(
            b"k", encode(Impression(f"r{i}", 1_700_000_000.0 + i, [{"item": i}], labels=[float(i % 2)])),
            producer="p", seq=i,
        )
        for i in range(first, first + count)
    ]  # fmt: skip


def append_patiently(log: KafkaLog, topic: str, records: list[Outgoing]) -> None:
    deadline = time.monotonic() + 60.0
    while True:
        try:
            log.append(topic, records)
            return
        except LogAwayError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.parametrize(
    "how",
    ["stopped", *(pytest.param(other, marks=pytest.mark.long) for other in ("killed", "paused"))],
)
def test_role_goes_on_where_it_was_when_the_broker_comes_back(
    own_broker: Broker, kafka_prefix: str, tmp_path: Path, how: str
) -> None:
    own_topics(own_broker, kafka_prefix, {EVENTS: 1, EXAMPLES: 1, DEAD_LETTERS: 1})
    log, sender = (kafka_log(own_broker.address, kafka_prefix, QUICK) for _ in range(2))
    stop = threading.Event()
    failed: list[BaseException] = []
    with RoleState(tmp_path / "state", "joiner", {}, sync=False) as state:
        runner = Runner(log, state, Joiner(state, JoinSettings()), Subscription(EVENTS, "join")).open()

        def work() -> None:
            try:
                runner.run(stop)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            append_patiently(sender, EVENTS, impressions(0, 50))
            wait_until(lambda: runner.progress.sent >= 50)
            if how == "paused":
                own_broker.pause()
            elif how == "killed":
                own_broker.kill()
            else:
                own_broker.stop()
            with pytest.raises(LogAwayError, match="no success within 1 s"):
                sender.append(EVENTS, impressions(50, 50))
            time.sleep(1.0)
            assert thread.is_alive() and not failed, failed
            if how == "paused":
                own_broker.resume()
            else:
                own_broker.start()
            append_patiently(sender, EVENTS, impressions(50, 50))
            wait_until(lambda: bool(failed) or min(runner.progress.records, runner.progress.sent) >= 100)
        finally:
            stop.set()
            thread.join(60.0)
        assert not failed and not thread.is_alive()
    log.close()
    sender.close()
    log = kafka_log(own_broker.address, kafka_prefix)
    assert len({record.seq for record in read_all(log, EXAMPLES)}) == 100
    log.close()


def test_offsets_of_groups_are_committed_and_read_again_once_a_killed_broker_is_back(
    own_broker: Broker,
) -> None:
    kafka_log(own_broker.address).create_topic("t", 2)
    log = kafka_log(own_broker.address, kafka=QUICK)

    def committed(offset: int) -> bool:
        try:
            log.commit("g", "t", {0: offset, 1: 0})
            return log.committed("g", "t") == {0: offset, 1: 0}
        except LogAwayError:
            return False

    wait_until(lambda: committed(3))  # the first time the cluster makes a topic for it
    with closing(kafka_log(own_broker.address)) as waits:
        assert waits.committed("other", "t") == {}
    own_broker.kill()
    for _ in range(2):  # asks for a coordinator that is gone, and gives up
        with pytest.raises(LogAwayError, match="committing group 'g': no success within 1 s"):
            log.commit("g", "t", {0: 4})
        with pytest.raises(LogAwayError, match="no success within 1 s"):
            log.committed("g", "t")
    own_broker.start()
    wait_until(lambda: committed(5))
    log.close()


def test_producer_waits_out_an_outage_and_loses_and_doubles_nothing(
    own_broker: Broker, kafka_prefix: str, tmp_path: Path
) -> None:
    own_topics(own_broker, kafka_prefix, {EVENTS: 2, EXAMPLES: 2, DEAD_LETTERS: 1})
    log = kafka_log(own_broker.address, kafka_prefix, QUICK)
    settings = ProducerSettings(buffer_max=200, when_full="raise", linger_s=0.001)
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            producer.impression([{"item": sent}], request_id=f"r{sent}", labels=[1.0])
            sent += 1

    with Producer(log, settings=settings) as producer:
        send(50)
        producer.flush()
        own_broker.pause()
        with pytest.raises(BufferFullError, match=r"200 events .* wait for the log already"):
            send(1000)
        assert (sent, producer.acknowledged, producer.waiting) == (250, 50, 200)

        def refused() -> bool:
            with pytest.raises(UndeliveredError, match="200 events, and it ") as told:
                producer.flush(timeout_s=3.0)
            return "it refuses" in str(told.value) and "no success within 1 s" in str(told.value)

        wait_until(refused)
        with pytest.raises(BufferFullError, match="no success within 1 s"):
            send(1)
        own_broker.resume()
        producer.flush(timeout_s=60.0)
        send(100)
    assert (sent, producer.acknowledged, producer.failed, producer.dropped) == (350, 350, 0, 0)
    log.close()
    log = kafka_log(own_broker.address, kafka_prefix)
    with RoleState(tmp_path / "state", "joiner", {}, sync=False) as state:
        joiner = Joiner(state, JoinSettings())
        runner = Runner(log, state, joiner, Subscription(EVENTS, "join")).open()
        while runner.step(0.5):
            pass
        runner.commit()
        assert joiner.counts.examples == joiner.counts.impressions == 350
    names = [record.key for p in range(2) for record in read_all(log, EXAMPLES, p)]
    assert sorted(names) == sorted(b"r%d" % i for i in range(350))
    log.close()


def test_role_whose_broker_is_away_stops_when_it_is_told_to(
    own_broker: Broker, kafka_prefix: str, tmp_path: Path
) -> None:
    config = tmp_path / "freshet.toml"
    config.write_text(
        f'log = "kafka://{own_broker.address}/{kafka_prefix}"\nstate = "state"\n[features.item]\n'
        "[stream.log.kafka]\naway_after_s = 1.0\n"
    )
    told = (tmp_path / "told").open("w+")
    child = starting.start("join", "--config", str(config), stdout=subprocess.PIPE, stderr=told)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("join: ready")
        own_broker.pause()
        deadline = time.monotonic() + 60.0
        while "check that the brokers run" not in Path(told.name).read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.terminate()
        assert child.wait(60.0) == 0
    finally:
        child.kill()
        child.wait()
        told.close()
        assert child.stdout is not None
        child.stdout.close()
        own_broker.resume()


# Three brokers


@with_kraft
@pytest.mark.long
def test_nothing_acknowledged_is_lost_when_a_leader_is_killed_under_load(
    kafka_broker: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with cluster_of(3, tmp_path) as brokers:
        servers = ",".join(broker.address for broker in brokers)
        log = kafka_log(servers, "", KafkaSettings(away_after_s=3.0, replication=3))
        log.create_topic("t", 3)
        acknowledged: list[tuple[int, int]] = []
        pauses: list[float] = []
        stop = threading.Event()

        def load() -> None:
            at = [0, 0, 0]
            last = time.monotonic()
            while not stop.is_set():
                records = [
                    Outgoing(b"", b"x" * 200, p, f"p{p}", at[p] + i) for p in range(3) for i in range(20)
                ]
                try:
                    log.append("t", records)
                except LogAwayError:
                    continue  # the same again, under the same numbers
                now = time.monotonic()
                pauses.append(now - last)
                last = now
                acknowledged.extend((p, at[p] + i) for p in range(3) for i in range(20))
                at = [n + 20 for n in at]

        thread = threading.Thread(target=load)
        thread.start()
        try:
            for _ in range(2):
                time.sleep(3.0)
                known = AdminClient({"bootstrap.servers": servers}).list_topics("t", timeout=60.0)
                leader = known.topics["t"].partitions[0].leader
                killed = next(broker for broker in brokers if broker.node == leader)
                before = len(acknowledged)
                killed.kill()
                wait_until(lambda before=before: len(acknowledged) > before + 600)  # type: ignore[misc]
                killed.start()
                time.sleep(2.0)
        finally:
            stop.set()
            thread.join(60.0)
        assert not thread.is_alive()
        held = [read_all(log, "t", p) for p in range(3)]
        log.close()
    for p, records in enumerate(held):
        seqs = list(dict.fromkeys(record.seq for record in records))
        assert seqs == sorted(seqs), "a record came before one that was sent earlier"
        assert {seq for q, seq in acknowledged if q == p} <= set(seqs), "an acknowledged record is lost"
    pauses.sort()
    longest, median_ms = ", ".join(f"{s:.1f}" for s in pauses[-2:]), pauses[len(pauses) // 2] * 1e3
    told = f"{len(acknowledged):,} records acknowledged, none lost; longest pauses {longest} s"
    print(f"leader killed twice under load: {told}, median {median_ms:.1f} ms")
    record_property("longest_pause_s", pauses[-1])
    assert pauses[-1] < 30.0

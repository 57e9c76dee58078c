"""Ingest as a process: killed in the middle, shared by several, on a real broker with clients of others."""

import json
import os
import signal
import time
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import starting
from avro_data import datum
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from copies import Copy
from patience import patient
from registry import RegistryServer
from waiting import wait_until

from freshet.config import parse_config
from freshet.init.topics.choose import look_at_topic
from freshet.init.topics.propose import propose
from freshet.init.topics.records import read_topic
from freshet.init.topics.write import write_topics
from freshet.sections.overrides import toml_text
from stream.log.base import DEAD_LETTERS, EVENTS, Log, Outgoing
from stream.log.open import open_log
from stream.records.decoding import Decoder
from stream.records.types import Action, Impression
from stream.sources.settings import SourceSettings
from stream.state.repeats import Repeats

pytestmark = pytest.mark.process

USERS = 37
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

SOURCES = """
[features.user]
kind = "id"
[features.item]
kind = "id"

[ingest]
max_ahead_s = 100000

[sources.shown]
topic = "shop.impressions"
kind = "impression"
request_id = "session.request"
time = { field = "shown_at", unit = "ms" }
candidates = "items"
context = { user = "session.user" }
features = { item = "sku" }
SHOWN

[sources.clicks]
topic = "shop.clicks"
envelope = "debezium"
kind = "action"
time = { field = "at", unit = "ms" }
match = { item = "sku" }
by = { user = "user_id" }
"""


def impression(i: int) -> dict[str, object]:
    items = [{"sku": i * 3 + k} for k in range(3)]
    return {
        "shown_at": at_ms(i),
        "session": {"request": f"r{i}", "user": i % USERS},
        "items": items,
        "x": [{}],
    }


def click(i: int) -> dict[str, object]:
    row = {"at": at_ms(i) + 400, "user_id": i % USERS, "sku": i * 3 + 1}
    return {"before": None, "after": row, "op": "c", "source": {"table": "clicks"}}


@cache
def start_ms() -> int:
    """A minute before the tests begin: this file is read minutes before, where many tests run."""
    return int(time.time() * 1e3) - 60_000


def at_ms(i: int) -> int:
    return start_ms() + i


def start(config: Path, name: str = "") -> Copy:
    arguments = ["ingest", "--config", str(config), *(["--name", name] if name else [])]
    with (config.parent / "ingest.log").open("ab") as log:
        return starting.start(*arguments, stderr=log)


def events_of(log: Log) -> Iterator[Impression | Action]:
    """What a joiner takes: of each producer's numbers each once."""
    decoder: Decoder[Impression | Action] = Decoder(Impression, Action)
    for partition in range(log.partitions(EVENTS)):
        first, end = log.ends(EVENTS)[partition]
        repeats = Repeats(10_000)
        while first < end:
            records = log.read(EVENTS, partition, first, 100_000)
            first = records[-1].offset + 1
            yield from (decoder.decode(r.value) for r in repeats.leave_out(records))


def check_all(log: Log, count: int) -> None:
    found = list(events_of(log))
    shown = sorted(e.request_id for e in found if isinstance(e, Impression))
    acted = sorted((e.request_id, e.candidate) for e in found if isinstance(e, Action))
    assert shown == sorted(f"r{i}" for i in range(count))
    assert acted == sorted((f"r{i}", 1) for i in range(count))
    assert log.ends(DEAD_LETTERS)[0][1] == 0


def told(config: Path) -> str:
    """What the role said last."""
    return (config.parent / "ingest.log").read_text()[-3000:]


def stop(*processes: Copy) -> None:
    for process in processes:
        process.terminate()
        assert process.wait(60) == 0


def test_killed_in_the_middle_and_shared_by_two_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    config = tmp_path / "freshet.toml"
    config.write_text(
        'log = "sqlite:log.db"\nstate = "state"\n[stream]\npartitions = 2\n' + SOURCES.replace("SHOWN", "")
    )
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create_topic("shop.impressions", 3)
    log.create_topic("shop.clicks", 4)
    count, sent = 3_000, 0

    def send(n: int) -> None:
        nonlocal sent
        rows = range(sent, sent + n)
        log.append(
            "shop.clicks", [Outgoing(b"%d" % (i % USERS), json.dumps(click(i)).encode()) for i in rows]
        )
        log.append(
            "shop.impressions", [Outgoing(b"%d" % i, json.dumps(impression(i)).encode()) for i in rows]
        )
        sent += n

    log.create_topic(EVENTS, 2)
    for _ in range(2):
        send(1_000)
        process = start(config)
        begin = sum(end for _, end in log.ends(EVENTS))
        wait_until(lambda b=begin: sum(end for _, end in log.ends(EVENTS)) > b + 50, lambda: told(config))  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.wait()
    send(count - sent)
    two = start(config), start(config, "second")
    wait_until(lambda: sum(1 for _ in events_of(log)) >= 2 * count, lambda: told(config))
    two[0].send_signal(signal.SIGKILL)
    two[0].wait()
    stop(two[1])
    check_all(log, count)
    log.close()


def produce(broker: str, topic: str, values: Mapping[int, bytes], **settings: str) -> None:
    producer = Producer(
        {"bootstrap.servers": broker, **{k.replace("_", "."): v for k, v in settings.items()}}
    )
    for i, value in values.items():
        producer.produce(topic, value, str(i % USERS))
        producer.poll(0)
    assert producer.flush(30) == 0


@pytest.mark.long
def test_real_broker_and_registry_with_clients_of_others(
    tmp_path: Path, kafka_broker: str, kafka_prefix: str
) -> None:
    """Avro with a reference, in zstd, and clicks by librdkafka's own partitioner, aborted ones among them."""
    admin = AdminClient({"bootstrap.servers": kafka_broker})
    topics = {f"{kafka_prefix}.imps": 64, f"{kafka_prefix}.clicks": 3}
    for future in admin.create_topics([NewTopic(name, n, 1) for name, n in topics.items()]).values():
        future.result(60)
    item = {"type": "record", "name": "Item", "fields": [{"name": "sku", "type": "long"}]}
    session = {"type": "record", "name": "Session", "fields": [
        {"name": "request", "type": "string"}, {"name": "user", "type": "long"},
    ]}  # fmt: skip
    fields = [
        {"name": "shown_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "session", "type": session}, {"name": "items", "type": {"type": "array", "items": "Item"}},
    ]  # fmt: skip
    old = {"type": "record", "name": "Shown", "fields": fields}
    new = {
        "type": "record",
        "name": "Shown",
        "fields": [{"name": "page", "type": "int", "default": 0}, *fields],
    }
    count = 600
    with RegistryServer(tmp_path) as registry:
        number = register(registry.url, "items", item)
        assert number
        reference = [{"name": "Item", "subject": "items", "version": 1}]
        ids = [register(registry.url, f"{kafka_prefix}-{i}", s, reference) for i, s in enumerate((old, new))]
        values = {}
        for i in range(count):
            schema, number = (old, ids[0]) if i < count // 2 else (new, ids[1])
            body = datum(schema, {"page": 1, **impression(i)}, [item])
            values[i] = b"\0" + number.to_bytes(4, "big") + body
        produce(kafka_broker, f"{kafka_prefix}.imps", values, compression_type="zstd")
        aborted = Producer({"bootstrap.servers": kafka_broker, "transactional.id": kafka_prefix})
        aborted.init_transactions(30)
        aborted.begin_transaction()
        for i in range(50):
            aborted.produce(f"{kafka_prefix}.clicks", json.dumps(click(i)).encode(), str(i))
        aborted.flush(30)
        aborted.abort_transaction(30)
        produce(
            kafka_broker, f"{kafka_prefix}.clicks", {i: json.dumps(click(i)).encode() for i in range(count)},
            compression_type="lz4",
        )  # fmt: skip
        proposed = propose_for(f"kafka://{kafka_broker}", kafka_prefix, registry.url)
        assert proposed["imps"].format == "avro" and proposed["imps"].time.field == "shown_at"
        assert proposed["imps"].candidates == "items" and proposed["clicks"].match == {"sku": "sku"}
        config = tmp_path / "freshet.toml"
        shown = f'format = "avro"\nregistry = {toml_text(registry.url)}\n'
        text = SOURCES.replace("SHOWN", shown).replace("shop.clicks", f"{kafka_prefix}.clicks")
        text = text.replace('"user_id"', '"@@key"')
        text = text.replace("[features.user]", '[features.user]\ntype = "int"')
        config.write_text(
            f'log = "kafka://{kafka_broker}/{kafka_prefix}"\nstate = "state"\n[stream]\npartitions = 4\n'
            + text.replace("shop.impressions", f"{kafka_prefix}.imps")
        )
        process = start(config)
        log = open_log(f"kafka://{kafka_broker}/{kafka_prefix}", patient())
        for topic, partitions in ((EVENTS, 4), (DEAD_LETTERS, 1)):
            log.create_topic(topic, partitions)
        wait_until(lambda: sum(1 for _ in events_of(log)) >= 2 * count, lambda: told(config))
        stop(process)
        check_all(log, count)
        log.close()
        group = Consumer({"bootstrap.servers": kafka_broker, "group.id": f"{kafka_prefix}.ingest.clicks"})
        wanted = [TopicPartition(f"{kafka_prefix}.clicks", p) for p in range(3)]
        assert sum(max(p.offset, 0) for p in group.committed(wanted, 30)) >= count  # for lag tools
        group.close()


def propose_for(url: str, prefix: str, registry: str) -> dict[str, SourceSettings]:
    """What `freshet init --topic` proposes for both topics."""
    topics = [look_at_topic(read_topic(url, f"{prefix}.{name}", registry)) for name in ("imps", "clicks")]
    text = write_topics(propose(topics), [topic.records for topic in topics], whole=True)
    return parse_config(tomllib.loads(text), "proposed").sources


def register(url: str, subject: str, schema: object, references: object = ()) -> int:
    import httpx

    body = {"schema": json.dumps(schema), "schemaType": "AVRO", "references": references}
    answer = httpx.post(f"{url}/subjects/{subject}/versions", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["id"])

"""Topics filled by clients that are not ours, each keyed in its own way: Java, librdkafka and kcat."""

import base64
import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from avro_data import datum, framed
from broker import VERSION
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from jars import BrokerError, classpath, java
from patience import patient
from registry import RegistryError, RegistryServer
from scraping import free_port, running, scrape_until, total
from tools import missing

from freshet.cli.main import main
from freshet.config import load_config
from freshet.roles.roles import run_ingest, run_join
from stream.log.base import DEAD_LETTERS
from stream.log.open import open_log

pytestmark = pytest.mark.process

REQUESTS, USERS = 120, 23
PROGRAM = Path(__file__).parents[2] / "helpers" / "KafkaLines.java"
SHOWN = {"type": "record", "name": "shop.Shown", "fields": [
    {"name": "search_id", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "shown_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "customer", "type": "long"},
    {"name": "results", "type": {"type": "array", "items": {"type": "record", "name": "Item", "fields": [
        {"name": "sku", "type": "long"}, {"name": "price", "type": ["null", "double"], "default": None},
    ]}}},
]}  # fmt: skip
Line = tuple[bytes, bytes]  # key, value


@cache
def start_ms() -> int:
    """Two minutes before the test begins: this file is read minutes before, where many tests run."""
    return int(time.time() * 1e3) - 120_000


def shown(i: int) -> dict[str, object]:
    return {
        "search_id": f"00000000-0000-0000-0000-{i:012x}", "shown_at": start_ms() + 20 * i,
        "customer": i % USERS,
        "results": [{"sku": sku(i, k), "price": k + 0.5} for k in range(3)],
    }  # fmt: skip


def sku(i: int, k: int) -> int:
    return i * 3 % 61 + k * 61


def click(i: int) -> Line:
    """As a web page sends it: ids are text, and the key is a session that no impression knows."""
    row = {"at": start_ms() + 20 * i + 400, "customer": str(i % USERS), "article": str(sku(i, i % 3))}
    return b"session-%d" % (i % 7), json.dumps(row).encode()


class JavaClient:
    """The Java client of the broker's own release: idempotent, transactional, in any codec."""

    def __init__(self, broker: str) -> None:
        try:
            self._command = [*java(classpath(VERSION), "128m"), str(PROGRAM), broker]
        except BrokerError as error:
            missing(f"NO JAVA CLIENT: {error}")
        self._lines: list[str] = []

    def send(
        self, topic: str, codec: str, lines: Sequence[Line], transaction: str = "", end: str = ""
    ) -> None:
        """Send in batches of one codec; with the name of a transaction, which ends as `end` says."""
        sent = [f"send {topic} {_b64(key)} {_b64(value)}" for key, value in lines]
        if transaction:
            sent = ["begin", *sent, end]
        self._lines += [f"open {codec} {transaction}".rstrip(), *sent, "close"]

    def run(self) -> None:
        """Run the program with all that is to be sent."""
        done = subprocess.run(
            self._command,
            input="\n".join(self._lines),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode() or "-"


def by_librdkafka(broker: str, topic: str, codec: str, lines: Sequence[Line]) -> None:
    """confluent-kafka with its own partitioner, which is not murmur2."""
    producer = Producer({"bootstrap.servers": broker, "compression.type": codec, "linger.ms": 20})
    for key, value in lines:
        producer.produce(topic, value, key)
    assert producer.flush(60) == 0


def by_kcat(kcat: str, broker: str, topic: str, codec: str, lines: Sequence[Line]) -> None:
    text = b"".join(key + b"\t" + value + b"\n" for key, value in lines)
    command = [kcat, "-P", "-b", broker, "-t", topic, "-K", "\t", "-z", codec]
    subprocess.run(command, input=text, check=True, timeout=60)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(RegistryServer(tmp_path / "registry"))
        except RegistryError as error:
            missing(f"NO REGISTRY: {error}")
        yield server.url


def test_topics_of_java_librdkafka_and_kcat_are_proposed_ingested_and_joined(
    tmp_path: Path, kafka_broker: str, kafka_prefix: str, kcat: str, registry: str
) -> None:
    imps, clicks = f"{kafka_prefix}.shop.impressions", f"{kafka_prefix}.shop.clicks"
    admin = AdminClient({"bootstrap.servers": kafka_broker})
    for future in admin.create_topics([NewTopic(imps, 64, 1), NewTopic(clicks, 5, 1)]).values():
        future.result(30)
    number = register(registry, f"{imps}-value", SHOWN)
    impressions = [
        # a key in Avro, of a schema that nobody asks for
        (framed(999, b"\x0euser-%02d" % (i % USERS)), framed(number, datum(SHOWN, shown(i))))
        for i in range(REQUESTS)
    ]
    acted = [click(i) for i in range(REQUESTS)]
    third = REQUESTS // 3
    client = JavaClient(kafka_broker)
    client.send(imps, "zstd", impressions[:third], f"{kafka_prefix}-kept", "commit")
    client.send(imps, "lz4", impressions[third : 2 * third])
    # what was aborted: requests that never were, and clicks on the wrong items
    ghosts = [(b"g", framed(number, datum(SHOWN, shown(REQUESTS + i)))) for i in range(40)]
    client.send(imps, "lz4", ghosts, f"{kafka_prefix}-lost", "abort")
    client.send(clicks, "snappy", acted[:third])
    client.send(clicks, "zstd", [click(i + 1) for i in range(40)], f"{kafka_prefix}-lost", "abort")
    client.run()
    by_librdkafka(kafka_broker, imps, "lz4", impressions[2 * third :])
    by_librdkafka(kafka_broker, clicks, "zstd", acted[third : 2 * third])
    by_kcat(kcat, kafka_broker, clicks, "lz4", acted[2 * third :])

    url, out = f"kafka://{kafka_broker}", tmp_path / "freshet.toml"
    named = [f"--topic={url}/{topic}" for topic in (imps, clicks)]
    assert main(["init", *named, "--registry", registry, "--out", str(out)]) == 0
    ports = free_port(), free_port()
    text = out.read_text().replace('log = "sqlite:.freshet/log.db"', f'log = "{url}/{kafka_prefix}"', 1)
    text += "\n[stream]\npartitions = 4\n[stream.log.kafka]\naway_after_s = 60.0\n"
    text += f"[metrics]\njoin_port = {ports[0]}\ningest_port = {ports[1]}\n"
    out.write_text(text)
    config = load_config(out)
    assert config.features["sku"].id_type == "int" and config.sources["impressions"].format == "avro"
    with running(config, run_ingest, run_join):
        scrape_until(ports[0], lambda m: total(m, "freshet_join_met_actions") >= REQUESTS)
        found = scrape_until(ports[0], lambda m: total(m, "freshet_join_impressions") >= REQUESTS)
        assert total(found, "freshet_join_joined_share") == 1.0
        counts = {name: total(found, f"freshet_join_{name}") for name in ("impressions", "met_actions")}
        assert counts == {"impressions": REQUESTS, "met_actions": REQUESTS}
    log = open_log(f"{url}/{kafka_prefix}", patient())
    assert log.ends(DEAD_LETTERS) == [(0, 0)]
    log.close()


def register(url: str, subject: str, schema: object) -> int:
    import httpx

    body = {"schema": json.dumps(schema), "schemaType": "AVRO"}
    answer = httpx.post(f"{url}/subjects/{subject}/versions", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["id"])

"""Three ways to talk to Kafka, in one run against one broker: kafka-python, confluent-kafka, our log.

    .venv/bin/python benchmarks/kafka_clients.py [--messages N] [--repeats N] [--json OUT]

The messages are impressions and actions as MessagePack (about 230 bytes, with our header). Each client
appends all of them in pieces of 512 KiB and waits for each piece's acknowledgement by all replicas, with the
broker's idempotence; then each reads all of them, read_committed where it can. Reading is reported twice:
"bare" counts messages, "records" makes the `Record` of each that a role works with, headers parsed. The
joiner takes records that lie in memory already, on the same core, so that what a reader adds to it can be
reported: share = joiner alone / (joiner + reader).

Clients take turns, `--repeats` times after one turn unmeasured; the figures are medians.
"""

import argparse
import json
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer
from confluent_kafka import TopicPartition as Place
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from streaming import APPEND_BYTES, WINDOW_S, kafka_url, make_events, pack

from stream.join.joiner import Joiner, JoinSettings
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Log, Outgoing, Record
from stream.log.kafka.log import parse_url
from stream.log.open import open_log
from stream.log.settings import LogSettings
from stream.log.testing import MemoryLog
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

Row = dict[str, Any]

POLL_MAX = 2_000


def pieces_of(messages: list[bytes]) -> Iterator[list[Outgoing]]:
    """Pieces of half a MiB, numbered as a producer of ours numbers them."""
    piece: list[Outgoing] = []
    size = 0
    for i, message in enumerate(messages):
        piece.append(Outgoing(b"request-%d" % i, message, 0, "bench", i))
        size += len(message)
        if size > APPEND_BYTES:
            yield piece
            piece, size = [], 0
    yield piece


class Ours:
    """`KafkaLog`."""

    def __init__(self, url: str) -> None:
        self.log: Log = open_log(url, LogSettings())

    def append(self, topic: str, pieces: list[list[Outgoing]]) -> None:
        for piece in pieces:
            self.log.append(topic, piece)

    def read(self, topic: str, count: int, records: bool) -> int:
        seen = 0
        while seen < count:
            seen += len(self.log.read(topic, 0, seen, POLL_MAX, wait_s=1.0))
        return seen


class KafkaPython:
    """kafka-python's public API."""

    def __init__(self, url: str) -> None:
        servers, self.prefix = parse_url(url)
        self.servers = servers
        self.producer = KafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True)

    def append(self, topic: str, pieces: list[list[Outgoing]]) -> None:
        name = f"{self.prefix}.{topic}"
        for piece in pieces:
            sent = [
                self.producer.send(
                    name,
                    r.value,
                    key=r.key,
                    partition=0,
                    headers=[("freshet", f"{r.producer}/{r.seq}".encode())],
                )
                for r in piece
            ]
            self.producer.flush()
            assert sent[-1].get().offset >= 0

    def read(self, topic: str, count: int, records: bool) -> int:
        place = TopicPartition(f"{self.prefix}.{topic}", 0)
        consumer = KafkaConsumer(
            bootstrap_servers=self.servers, enable_auto_commit=False, isolation_level="read_committed",
            max_poll_records=POLL_MAX, auto_offset_reset="earliest",
        )  # fmt: skip
        consumer.assign([place])
        seen = 0
        while seen < count:
            for found in consumer.poll(1_000).values():
                seen += len(found)
                if records:
                    for m in found:
                        mark = m.headers[0][1] if m.headers else b""
                        name, _, seq = mark.rpartition(b"/")
                        Record(topic, 0, m.offset, m.key, m.value, name.decode(), int(seq), m.timestamp)
        consumer.close()
        return seen


class Confluent:
    """confluent-kafka."""

    def __init__(self, url: str) -> None:
        servers, self.prefix = parse_url(url)
        self.servers = ",".join(servers)
        self.producer = Producer(
            {
                "bootstrap.servers": self.servers,
                "acks": "all",
                "enable.idempotence": True,
                "queue.buffering.max.messages": 1_000_000,
            }
        )

    def append(self, topic: str, pieces: list[list[Outgoing]]) -> None:
        name = f"{self.prefix}.{topic}"
        produce = self.producer.produce
        for piece in pieces:
            offsets: list[int] = []

            def delivered(error: Any, message: Message, offsets: list[int] = offsets) -> None:
                assert error is None
                offsets.append(message.offset())

            for r in piece:
                produce(
                    name,
                    r.value,
                    r.key,
                    0,
                    on_delivery=delivered,
                    headers=[("freshet", f"{r.producer}/{r.seq}".encode())],
                )
            self.producer.flush()
            assert len(offsets) == len(piece)

    def read(self, topic: str, count: int, records: bool) -> int:
        consumer = Consumer(
            {"bootstrap.servers": self.servers, "group.id": "bench", "enable.auto.commit": False}
        )
        consumer.assign([Place(f"{self.prefix}.{topic}", 0, 0)])
        seen = 0
        while seen < count:
            found = consumer.consume(POLL_MAX, 1.0)
            seen += len(found)
            if records:
                for m in found:
                    headers = m.headers()
                    mark = headers[0][1] if headers else b""
                    name, _, seq = mark.rpartition(b"/")
                    Record(
                        topic, 0, m.offset(), m.key(), m.value(), name.decode(), int(seq), m.timestamp()[1]
                    )
        consumer.close()
        return seen


def timed(action: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def join_alone(folder: Path, pieces: list[list[Outgoing]], count: int) -> float:
    """Seconds in which a joiner takes the records from memory."""
    log = MemoryLog()
    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS):
        log.create_topic(topic, 1)
    for piece in pieces:
        log.append(EVENTS, piece)
    with RoleState(folder, "joiner", {}) as state:
        joiner = Joiner(state, JoinSettings(window_s=WINDOW_S))
        runner = Runner(log, state, joiner, Subscription(EVENTS, "join")).open()

        def work() -> None:
            while runner.progress.records < count:
                runner.step(0.1)
            runner.commit()

        return timed(work)


def measure(url: str, folder: Path, count: int, repeats: int) -> Row:
    """All clients in turn, repeated; the medians in messages a second."""
    messages = pack(make_events(count), "msgpack", 1)
    pieces = list(pieces_of(messages))
    count = len(messages)
    took: dict[str, list[float]] = {}
    for i in range(repeats + 1):
        prefix = f"bench-{uuid.uuid4().hex[:8]}"
        log = open_log(f"{url}/{prefix}", LogSettings())
        for client in (KafkaPython, Confluent, Ours):
            topic = f"t{client.__name__}"
            log.create_topic(topic, 1)
            used = client(f"{url}/{prefix}")
            name = client.__name__
            turn = {
                f"{name} append": timed(lambda used=used, topic=topic: used.append(topic, pieces)),  # type: ignore[misc]
                f"{name} read bare": timed(lambda used=used, topic=topic: used.read(topic, count, False)),  # type: ignore[misc]
                f"{name} read records": timed(lambda used=used, topic=topic: used.read(topic, count, True)),  # type: ignore[misc]
            }
            for what, seconds in turn.items():
                took.setdefault(what, []).extend([seconds] if i else [])
        alone = join_alone(folder / f"join{i}", pieces, count)
        took.setdefault("joiner alone", []).extend([alone] if i else [])
        log.close()
    row: Row = {"messages": count, "bytes": sum(map(len, messages)) / count}
    row |= {what: count / statistics.median(seconds) for what, seconds in took.items()}
    for client in ("KafkaPython", "Confluent", "Ours"):
        row[f"{client} joined"] = 1.0 / (1.0 / row["joiner alone"] + 1.0 / row[f"{client} read records"])
    return row


def main() -> None:
    """Run, print a table, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, kafka_url(Path(name)) as url:
        row = measure(url, Path(name), options.messages, options.repeats)
    print(f"{row['messages']:,} messages of {row['bytes']:.0f} bytes; a second:")
    for client in ("KafkaPython", "Confluent", "Ours"):
        append, bare, records, joined = (
            row[f"{client} {what}"] for what in ("append", "read bare", "read records", "joined")
        )
        print(
            f"{client:<12} append {append:>9,.0f}   read, bare {bare:>9,.0f}   read, as records "
            f"{records:>9,.0f}   joiner behind it {joined:>8,.0f}"
        )
    print(f"joiner on records in memory {row['joiner alone']:,.0f}")
    print(json.dumps(row))
    if options.json:
        options.json.write_text(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()

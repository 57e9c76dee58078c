"""A broker that has just begun or woken up: its answers name no broker and no topic.

In its place stands a server of two requests, ApiVersions and Metadata (of Kafka's protocol guide), since a
broker that answers so for as long as a test needs cannot be had. The log runs in a process of its own: the
library's way to fail here is to end it.
"""

import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

CLIENT = """
import sys
from stream.errors import LogAwayError
from stream.log.open import open_log
from stream.log.settings import KafkaSettings, LogSettings

log = open_log(sys.argv[1], LogSettings(kafka=KafkaSettings(away_after_s=2.0)))
print(log.partitions("events"), flush=True)
for look in (lambda: log.partitions("examples"), lambda: log.allowed(["events"])):
    input()
    try:
        look()
    except LogAwayError as error:
        print(error, flush=True)
log.close()
"""
METADATA, API_VERSIONS = 3, 18
UNKNOWN_TOPIC = 3


class Asleep(socketserver.ThreadingTCPServer):
    """Answers as broker 1, which has a topic `events`, until `waking`: then as one that knows nobody."""

    daemon_threads = True
    allow_reuse_address = True
    waking = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Connection)

    def answer(self, key: int, version: int, body: bytes) -> bytes:
        """The body of the answer to a request."""
        if key == API_VERSIONS:
            known = b"".join(
                struct.pack(">hhhB", k, *range_, 0)
                for k, range_ in ((METADATA, (4, 4)), (API_VERSIONS, (0, 3)))
            )
            return struct.pack(">hB", 0, 3) + known + struct.pack(">iB", 0, 0)
        brokers = [] if self.waking else [struct.pack(">i", 1) + text("127.0.0.1") + self.end]
        topics = [] if self.waking else [topic(name) for name in asked(body)]
        return struct.pack(">i", 0) + array(brokers) + text("cluster") + struct.pack(">i", 1) + array(topics)

    @property
    def end(self) -> bytes:
        """Of a broker's entry: port, and no rack."""
        return struct.pack(">ih", self.server_address[1], -1)


class Connection(socketserver.StreamRequestHandler):
    """Answers the requests of one connection, in order."""

    server: Asleep

    def handle(self) -> None:
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while len(size := self.rfile.read(4)) == 4:
            request = self.rfile.read(struct.unpack(">i", size)[0])
            key, version, number, name = struct.unpack_from(">hhih", request)
            body = request[10 + max(name, 0) :]
            answer = struct.pack(">i", number) + self.server.answer(key, version, body)
            self.wfile.write(struct.pack(">i", len(answer)) + answer)


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def array(entries: list[bytes]) -> bytes:
    return struct.pack(">i", len(entries)) + b"".join(entries)


def topic(name: str) -> bytes:
    if name != "events":
        return struct.pack(">h", UNKNOWN_TOPIC) + text(name) + b"\0" + array([])
    led = struct.pack(">hii", 0, 0, 1) + 2 * array([struct.pack(">i", 1)])
    return struct.pack(">h", 0) + text(name) + b"\0" + array([led])


def asked(body: bytes) -> list[str]:
    """The names of topics in a request for metadata."""
    names, at = [], 4
    for _ in range(struct.unpack_from(">i", body)[0]):
        (length,) = struct.unpack_from(">h", body, at)
        names.append(body[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return names


@pytest.fixture
def broker() -> Iterator[Asleep]:
    with Asleep() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_answer_without_brokers_is_an_error_and_not_the_end_of_the_process(broker: Asleep) -> None:
    url = f"kafka://127.0.0.1:{broker.server_address[1]}"
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdin is not None and client.stdout is not None
        assert client.stdout.readline() == "1\n"
        broker.waking = True
        for _ in range(2):
            client.stdin.write("\n")
            client.stdin.flush()
            assert "no success within 2 s" in client.stdout.readline()
    assert client.returncode == 0

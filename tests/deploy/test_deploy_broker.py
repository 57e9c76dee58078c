"""The tests' own Kafka broker: it answers, keeps its data, and never outlives who started it."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from broker import Broker
from jars import BrokerError
from paths import ROOT
from ports import free_ports

pytestmark = pytest.mark.process


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it ended before it was looked at, or meanwhile
        return False


def answers(address: str) -> bool:
    """Whether whatever listens there speaks Kafka: ApiVersions, version 0, as in the protocol's guide."""
    host, _, port = address.partition(":")
    request = struct.pack(">hhih", 18, 0, 7, -1)
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        header = connection.recv(10)
    correlation, error = struct.unpack_from(">ih", header, 4)
    return bool(correlation == 7 and error == 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a broker that is started twice."""
    return tmp_path_factory.mktemp("kafka")


def test_broker_of_the_test_run_answers(kafka_broker: str) -> None:
    assert answers(kafka_broker)


def test_make_kafka_runs_a_broker_until_it_is_told_to_stop(kafka_broker: str, folder: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, str(ROOT / "deploy/kafka/broker.py"), "--port", str(port)]
    with subprocess.Popen([*command, "--folder", str(folder)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        first, second = child.stdout.readline(), child.stdout.readline()
        assert first.startswith("Apache Kafka 4.")
        assert second.strip().endswith(f'log = "kafka://127.0.0.1:{port}"')
        assert answers(f"127.0.0.1:{port}")
        pid = int(first.partition("pid ")[2].partition(";")[0])
        child.terminate()
        assert child.wait(60) == 0
    assert not alive(pid)


def test_broker_is_gone_when_its_parent_is_killed(kafka_broker: str, folder: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, str(ROOT / "deploy/kafka/broker.py"), "--port", str(port)]
    with subprocess.Popen([*command, "--folder", str(folder)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline().partition("pid ")[2].partition(";")[0])
        os.kill(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while alive(pid):
        assert time.monotonic() < deadline, "the broker outlives its parent"
        time.sleep(0.05)


def test_broker_that_cannot_start_says_why(kafka_broker: str, tmp_path: Path) -> None:
    broker = Broker(tmp_path, settings={"log.retention.check.interval.ms": "never"})
    with pytest.raises(BrokerError, match=r"log\.retention\.check\.interval\.ms"):
        broker.start()

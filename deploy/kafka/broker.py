"""A real Kafka broker on this machine, for tests and for trying things out.

    python3 deploy/kafka/broker.py            # one broker at 127.0.0.1:9092 until Ctrl-C
    make kafka                                # the same
    make kafka ARGS="--version 2.8.2"         # an older one, with a ZooKeeper of its own

Needs a JDK (17 or newer) and Maven; nothing else, and only the standard library here. Maven fetches the
jars that `pom.xml` names the first time (about 45 MB). A broker is its own KRaft controller, listens on
loopback alone, and takes about 350 MB. It dies with whoever started it, however that one ends.
"""

import argparse
import base64
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jars import (
    NEWEST,
    OLDER,
    BrokerError,
    Server,
    class_archive,
    classpath,
    formatted,
    java,
    launch,
    needs_zookeeper,
    stop,
    tail,
)
from ports import free_ports

PORT = 9092
VERSION = os.environ.get("FRESHET_KAFKA_VERSION", NEWEST)
"""The version of brokers that are not told which; so the same tests run on another one."""

FORMAT_S_MAX = 180.0
START_S_MAX = 180.0  # a JVM takes five seconds alone, and a minute among others
ZOOKEEPER_HEAP = "96m"
ZOOKEEPER_SESSION_S = 3.0
STARTED = re.compile(r"Kafka Server started|\[KafkaServer id=\d+\] started")
LOGGERS = (
    "kafka.server.KafkaRaftServer",
    "kafka.server.KafkaServer",
    "org.apache.kafka.common.utils.AppInfoParser",
)


class Broker(Server):
    """One broker, a controller too.

    Args:
        folder: takes its data, config and log; what a former broker left there is used again.
        listeners: {name: protocol} of what clients may use, each at a port of its own. The first one
            also connects the brokers with each other, and must be PLAINTEXT.
        ports: {listener: port}; those not named get free ones.
        settings: broker settings over those here.
        scram: {user: password} known to SCRAM-SHA-256 from the beginning.
        heap: of the JVM.
        host: under which clients reach it; a name of this machine.
        node, voters, cluster: of a cluster of several; see `cluster_of`. Needs KRaft.
        version: of Kafka. One older than 3.3 starts a ZooKeeper beside the broker, and knows no `scram`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        listeners: Mapping[str, str] | None = None,
        ports: Mapping[str, int] | None = None,
        settings: Mapping[str, str] | None = None,
        scram: Mapping[str, str] | None = None,
        heap: str = "320m",
        host: str = "127.0.0.1",
        node: int = 1,
        voters: Mapping[int, int] | None = None,
        cluster: str | None = None,
        version: str = VERSION,
    ) -> None:
        self.folder = folder
        self.kafka_version = version
        self.log = folder / "broker.log"
        self.node = node
        self.process: subprocess.Popen[bytes] | None = None
        self._listeners = dict(listeners or {"PLAINTEXT": "PLAINTEXT"})
        names = list(self._listeners)
        free = dict(zip([*names, "CONTROLLER"], free_ports(len(names) + 1), strict=True))
        self._voters = dict(voters or {node: free["CONTROLLER"]})
        # In place of a controller, at its port.
        self._zookeeper = (
            ZooKeeper(folder / "zookeeper", free["CONTROLLER"], version) if needs_zookeeper(version) else None
        )
        self.ports = {name: (ports or {}).get(name, free[name]) for name in names}
        self._settings = dict(settings or {})
        self._scram = dict(scram or {})
        self._heap = heap
        self._host = host
        self._cluster = cluster or _new_cluster()
        self._read_from = 0

    @property
    def address(self) -> str:
        """host:port of the first listener."""
        return self.address_of(next(iter(self.ports)))

    def address_of(self, listener: str) -> str:
        """host:port of one listener."""
        return f"{self._host}:{self.ports[listener]}"

    @property
    def pid(self) -> int:
        """The JVM's process id."""
        if self.process is None:
            raise BrokerError("the broker does not run")
        return self.process.pid

    def start(self) -> None:
        """Start, on the same ports and data if it ran before, and wait until it answers.

        Raises:
            BrokerError: it cannot be had, or does not answer in time; the message ends in its last words.
        """
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start without waiting: a broker of several answers only when the others are there too."""
        jars = classpath(self.kafka_version)
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "server.properties"
        write_properties(config, self._properties())
        if self._zookeeper is not None:
            self._zookeeper.start()
        elif not (self.folder / "data" / "meta.properties").is_file():
            self._format(jars, config)
        self._read_from = self.log.stat().st_size if self.log.is_file() else 0
        command = java(jars, self._heap, LOGGERS, class_archive(self.kafka_version))
        self.process = launch([*command, "kafka.Kafka", str(config)], self.log)

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + START_S_MAX
        while not STARTED.search(self._said()) or not self._accepts():
            assert self.process is not None
            if self.process.poll() is not None:
                raise BrokerError(f"the Kafka broker has ended:\n{tail(self._said())}")
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"the Kafka broker does not answer after {START_S_MAX:.0f} s:\n{tail(self._said())}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """Ask it to stop, and wait until it has; kill it if it takes too long."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGCONT)  # a paused one would not hear
            stop(self.process)
            self.process = None
        if self._zookeeper is not None:
            self._zookeeper.stop()

    def kill(self) -> None:
        """SIGKILL: what a broken machine looks like to the others."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            if self._zookeeper is not None:
                # It refuses a broker under the same number until the session of the killed one has expired.
                time.sleep(ZOOKEEPER_SESSION_S + 1.0)

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing, until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        os.kill(self.pid, signal.SIGCONT)

    def version(self) -> str:
        """The line in which it logged its version at its last start."""
        lines = [line for line in self._said().splitlines() if "Kafka version: " in line]
        if not lines:
            raise BrokerError("the broker has not logged its version")
        return "Apache Kafka " + lines[-1].partition("Kafka version: ")[2]

    def _said(self) -> str:
        if not self.log.is_file():
            return ""
        with self.log.open("rb") as log:
            log.seek(self._read_from)
            return log.read().decode(errors="replace")

    def _accepts(self) -> bool:
        for port in self.ports.values():
            with socket.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    return False
        return True

    def _format(self, jars: str, config: Path) -> None:
        """Make the data folder, from one that was made before: they differ in three names alone."""
        kept = formatted(self.kafka_version)
        if self._scram or not (kept.is_dir() and class_archive(self.kafka_version).is_file()):
            self._make_data(jars, config)
            if not self._scram:
                self._keep_data(kept)
            return
        shutil.copytree(kept, self.folder / "data")
        meta = self.folder / "data" / "meta.properties"
        names = {"cluster.id": self._cluster, "node.id": str(self.node), "directory.id": _new_cluster()}
        lines = [line.partition("=") for line in meta.read_text().splitlines() if line[:1] != "#"]
        write_properties(meta, {key: names.get(key, value) for key, _, value in lines})

    def _keep_data(self, kept: Path) -> None:
        part = kept.with_name(f"{kept.name}.{os.getpid()}")
        shutil.copytree(self.folder / "data", part)
        with contextlib.suppress(OSError):  # another was first
            part.rename(kept)
        shutil.rmtree(part, ignore_errors=True)

    def _make_data(self, jars: str, config: Path) -> None:
        archive = class_archive(self.kafka_version)
        # Several may begin at once: each writes a file of its own and moves it.
        part = archive.with_name(f"{archive.name}.{os.getpid()}")
        command = java(jars, self._heap, archive=archive)
        if not archive.is_file():
            command.append(f"-XX:ArchiveClassesAtExit={part}")
        command += ["kafka.tools.StorageTool", "format"]
        # as one word: an id may begin with a dash
        command += [f"--cluster-id={self._cluster}", "--config", str(config)]
        for user, password in self._scram.items():
            command += ["--add-scram", f"SCRAM-SHA-256=[name={user},password={password}]"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_S_MAX, check=False)
            if part.is_file():
                part.replace(archive)
        finally:
            part.unlink(missing_ok=True)
        if done.returncode != 0:
            raise BrokerError(f"the data folder cannot be formatted:\n{tail(done.stdout + done.stderr)}")

    def _properties(self) -> dict[str, str]:
        names = list(self._listeners)
        listeners = [f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()]
        protocols = dict(self._listeners)
        if self._zookeeper is None:
            listeners.append(f"CONTROLLER://127.0.0.1:{self._voters[self.node]}")
            protocols["CONTROLLER"] = "PLAINTEXT"
            state = {
                "process.roles": "broker,controller",
                "node.id": str(self.node),
                "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{p}" for n, p in self._voters.items()),
                "controller.listener.names": "CONTROLLER",
            }
        else:
            state = {
                "broker.id": str(self.node),
                "zookeeper.connect": self._zookeeper.address,
                "zookeeper.session.timeout.ms": str(round(ZOOKEEPER_SESSION_S * 1000)),
            }
        copies = str(len(self._voters))
        in_sync = str(max(len(self._voters) - 1, 1))
        return {
            **state,
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(f"{n}://{self.address_of(n)}" for n in self.ports),
            "listener.security.protocol.map": ",".join(f"{n}:{p}" for n, p in protocols.items()),
            "inter.broker.listener.name": names[0],
            "log.dirs": str(self.folder / "data"),
            # a misspelt topic must be an error, not a new topic
            "auto.create.topics.enable": "false",
            "default.replication.factor": copies,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": in_sync,
            "transaction.state.log.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": in_sync,
            "group.initial.rebalance.delay.ms": "0",
            # a killed broker is missed, and may come back, after 4 s instead of 9
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "1000",
            # the defaults take 128 MB of heap for compaction, and threads for a machine of many cores
            "log.cleaner.dedupe.buffer.size": str(8 << 20),
            "num.network.threads": "2",
            "num.io.threads": "4",
            **self._settings,
        }


class ZooKeeper:
    """What an older broker keeps its cluster's state in; another Java process, on loopback.

    Args:
        folder: takes its data, config and log.
        port: where it listens.
        version: of the Kafka that brings it.
    """

    def __init__(self, folder: Path, port: int, version: str) -> None:
        self.address = f"127.0.0.1:{port}"
        self._folder = folder
        self._version = version
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, unless it runs. Brokers wait for it, so this does not."""
        if self._process is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "zookeeper.properties"
        host, _, port = self.address.partition(":")
        write_properties(
            config,
            {
                "dataDir": str(self._folder / "data"),
                "clientPort": port,
                "clientPortAddress": host,
                "admin.enableServer": "false",
                "tickTime": "500",  # sessions may be as short as two ticks
            },
        )
        command = [*java(classpath(self._version), ZOOKEEPER_HEAP), "-Dzookeeper.jmx.log4j.disable=true"]
        command += ["org.apache.zookeeper.server.ZooKeeperServerMain", str(config)]
        self._process = launch(command, self._folder / "zookeeper.log")

    def stop(self) -> None:
        """Kill it: what it keeps is on its disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def write_properties(file: Path, properties: Mapping[str, str]) -> None:
    """A Java properties file."""
    file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))


@contextlib.contextmanager
def cluster_of(count: int, folder: Path, heap: str = "256m") -> Iterator[list[Broker]]:
    """`count` brokers that are one cluster: each record on all of them, acknowledged by all but one."""
    ports = free_ports(count)
    voters = dict(enumerate(ports, 1))
    cluster = _new_cluster()
    brokers = [
        Broker(folder / str(node), heap=heap, node=node, voters=voters, cluster=cluster) for node in voters
    ]
    try:
        for broker in brokers:
            broker.launch()
        for broker in brokers:
            broker.wait()
        yield brokers
    finally:
        for broker in brokers:
            # together they stop in an order; the last ones would wait for a quorum that is gone
            broker.kill()


def _new_cluster() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one broker until Ctrl-C."""
    parser = argparse.ArgumentParser(description="One Kafka broker on this machine, until Ctrl-C.")
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}")
    parser.add_argument("--folder", type=Path, help="keeps its data; default: a new one, removed at the end")
    parser.add_argument(
        "--version", default=VERSION, help=f"default: {VERSION}; tested: {', '.join((*OLDER, NEWEST))}"
    )
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = options.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="freshet-kafka-")))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            with Broker(folder, ports={"PLAINTEXT": options.port}, version=options.version) as broker:
                print(
                    f"{broker.version()} at {broker.address}, pid {broker.pid}; Ctrl-C stops it", flush=True
                )
                print(f'In freshet.toml: log = "kafka://{broker.address}"', flush=True)
                assert broker.process is not None
                broker.process.wait()
                print(f"the broker has ended:\n{tail(broker.log.read_text())}", file=sys.stderr)
        except KeyboardInterrupt:
            return 0
        except BrokerError as error:
            print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

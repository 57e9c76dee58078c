"""A cluster that says no: access rules, quotas, addresses that lead nowhere, topics made by look-ups."""

import logging
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from broker import Broker
from confluent_kafka import TopicCollection
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from jars import classpath
from patience import patient
from ports import free_ports
from shared_broker import with_kraft
from waiting import wait_until

from stream.errors import LogAwayError, LogError
from stream.log.base import Outgoing
from stream.log.kafka.log import KafkaLog
from stream.log.kafka.login import PASSWORD_VARIABLE
from stream.log.settings import KafkaSettings, LogSettings

pytestmark = [pytest.mark.process, with_kraft]

PASSWORD = "correct horse"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


@pytest.fixture(scope="module")
def dead_port() -> int:
    """A port on which nobody listens."""
    (port,) = free_ports(1)
    return port


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, kafka_broker: str, dead_port: int) -> Iterator[Broker]:
    """Makes topics that are asked for, and knows a user `ann` to whom rules may apply.

    Its listener ASTRAY sends clients to the dead port.
    """
    listeners = {"PLAINTEXT": "PLAINTEXT", "SCRAM": "SASL_PLAINTEXT", "ASTRAY": "PLAINTEXT"}
    ports = dict(zip(listeners, free_ports(len(listeners)), strict=True))
    advertised = {**ports, "ASTRAY": dead_port}
    settings = {
        "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in advertised.items()),
        "auto.create.topics.enable": "true",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "SCRAM-SHA-256",
        "listener.name.scram.scram-sha-256.sasl.jaas.config": SCRAM,
    }
    folder = tmp_path_factory.mktemp("strict")
    with Broker(
        folder, listeners=listeners, ports=ports, settings=settings, scram={"ann": PASSWORD}
    ) as broker:
        yield broker


@pytest.fixture
def admin(strict: Broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": strict.address})


@pytest.fixture
def ann(
    strict: Broker, admin: AdminClient, kafka_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KafkaLog]:
    """A log of ann's, who may do everything with what has its prefix."""
    for kind in (ResourceType.TOPIC, ResourceType.GROUP):
        set_rule(admin, kind, kafka_prefix, AclOperation.ALL, AclPermissionType.ALLOW)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    kafka = KafkaSettings(security="sasl_plaintext", mechanism="SCRAM-SHA-256", user="ann", away_after_s=60.0)
    log = KafkaLog(f"kafka://{strict.address_of('SCRAM')}/{kafka_prefix}", LogSettings(kafka=kafka))
    yield log
    log.close()


def deny(admin: AdminClient, kind: ResourceType, name: str, operation: AclOperation) -> None:
    """Take a right from ann."""
    set_rule(admin, kind, name, operation, AclPermissionType.DENY)


def set_rule(
    admin: AdminClient, kind: ResourceType, name: str, operation: AclOperation, permission: AclPermissionType
) -> None:
    rule = AclBinding(kind, name, ResourcePatternType.PREFIXED, "User:ann", "*", operation, permission)
    for future in admin.create_acls([rule]).values():
        future.result(60.0)


def test_rights_that_serve_housekeeping_are_missed_once_and_end_nothing(
    ann: KafkaLog, admin: AdminClient, kafka_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    ann.create_topic("t", 1)
    ann.append("t", [Outgoing(b"", b"%d" % i) for i in range(10)])
    deny(admin, ResourceType.GROUP, kafka_prefix, AclOperation.READ)
    deny(admin, ResourceType.TOPIC, kafka_prefix, AclOperation.DELETE)
    deny(admin, ResourceType.TOPIC, kafka_prefix, AclOperation.DESCRIBE_CONFIGS)
    with caplog.at_level(logging.WARNING, "freshet.kafka"):

        def missed() -> bool:
            ann.commit("g", "t", {0: 5})
            ann.trim("t", 0, 5)
            return len(caplog.records) >= 2

        wait_until(missed)
        for _ in range(3):
            ann.commit("g", "t", {0: 6})
            ann.trim("t", 0, 6)
        ann.create_topic("t", 1)
        ann.create_topic("t", 1)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert "right: READ" in told[0] + told[1] and "right: DELETE" in told[0] + told[1]
    assert "right: DESCRIBE_CONFIGS" in told[2]
    assert [r.value for r in ann.read("t", 0, 6)] == [b"6", b"7", b"8", b"9"]


@pytest.mark.parametrize("operation", [AclOperation.WRITE, AclOperation.READ])
def test_right_that_is_needed_is_named(
    ann: KafkaLog, admin: AdminClient, kafka_prefix: str, operation: AclOperation
) -> None:
    ann.create_topic("t", 1)
    ann.append("t", [Outgoing(b"", b"x")])
    deny(admin, ResourceType.TOPIC, kafka_prefix, operation)
    told: list[str] = []

    def refused() -> bool:
        try:
            if operation is AclOperation.WRITE:
                ann.append("t", [Outgoing(b"", b"x")])
            else:
                ann.read("t", 0, 1, wait_s=0.2)
        except LogAwayError:
            return False
        except LogError as error:
            told.append(str(error))
        return bool(told)

    wait_until(refused)
    assert "not allowed" in told[0] and "user 'ann'" in told[0]
    assert f"{kafka_prefix}.t" in told[0]


def test_look_up_makes_no_topic(strict: Broker, admin: AdminClient, kafka_prefix: str) -> None:
    # what is gone is looked for as long as a cluster that is away
    settings = LogSettings(kafka=KafkaSettings(away_after_s=10.0))
    log = KafkaLog(f"kafka://{strict.address}/{kafka_prefix}", settings)
    with pytest.raises(LogError, match="has no topic"):
        log.read("nope", 0, 0)
    log.create_topic("t", 3)
    log.append("t", [Outgoing(b"", b"x", 0)])
    assert len(log.read("t", 0, 0)) == 1
    name = f"{kafka_prefix}.t"
    admin.delete_topics([name])[name].result(60.0)
    for use in (lambda: log.read("t", 0, 1, wait_s=0.2), lambda: log.append("t", [Outgoing(b"", b"y", 0)])):

        def gone(use: Callable[[], object] = use) -> bool:
            try:
                use()
            except LogAwayError:
                return False
            except LogError as error:
                return "is gone" in str(error)
            return False

        wait_until(gone)
    log.close()
    with pytest.raises(Exception, match="UNKNOWN_TOPIC"):
        admin.describe_topics(TopicCollection([name]))[name].result(60.0)
    assert not [known for known in admin.list_topics(timeout=60.0).topics if known.startswith(kafka_prefix)]


def test_quota_that_holds_a_client_up_is_said(
    strict: Broker, kafka_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    command = [
        "java", "-cp", classpath(), "kafka.admin.ConfigCommand", "--bootstrap-server", strict.address,
        "--alter", "--add-config", "producer_byte_rate=20000", "--entity-type", "clients",
        "--entity-name", "freshet",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    log = KafkaLog(
        f"kafka://{strict.address}/{kafka_prefix}", LogSettings(kafka=KafkaSettings(away_after_s=2.0))
    )
    with closing(KafkaLog(log.url, patient())) as waits:
        waits.create_topic("t", 1)
    try:
        with (
            caplog.at_level(logging.WARNING, "freshet.kafka"),
            pytest.raises(LogAwayError, match="a quota of the cluster throttles this client"),
        ):
            for _ in range(20):
                log.append("t", [Outgoing(b"", b"x" * 100_000)])
        assert "a quota of the cluster is used up" in caplog.text
    finally:
        command[command.index("--add-config") + 1] = "producer_byte_rate"
        command[command.index("--add-config")] = "--delete-config"
        subprocess.run(command, capture_output=True, check=True)
        log.close()


def test_advertised_address_that_leads_nowhere_is_named(strict: Broker, dead_port: int) -> None:
    quick = KafkaSettings(away_after_s=2.0)
    said: list[str] = []

    def named() -> bool:  # a busy broker may not answer in time, and is asked again
        try:
            log = KafkaLog(f"kafka://{strict.address_of('ASTRAY')}/x", LogSettings(kafka=quick))
            with closing(log):
                log.create_topic("t", 1)
        except LogAwayError as error:
            said.append(str(error))
        return f"127.0.0.1:{dead_port}" in said[-1]

    wait_until(named)
    assert "correct advertised.listeners" in said[-1]

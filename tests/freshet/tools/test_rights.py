"""The table of access rules holds all that the roles need: each runs with its line alone."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import Broker
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, AdminClient
from confluent_kafka.admin import ResourcePatternType as Pattern
from confluent_kafka.admin import ResourceType as Resource
from patience import patient
from shared_broker import with_kraft

from freshet.cli.main import main
from freshet.config import load_config
from freshet.errors import ConfigError
from freshet.tools.check import run_checks
from freshet.tools.rights import acl_commands
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.kafka.log import KafkaLog
from stream.records.types import Impression, encode

PASSWORD = "correct horse"
USERS = ("join", "learn", "serve", "produce")


@pytest.fixture(scope="module")
def strict(kafka_broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that allows users only what a rule allows them, and its own machine everything."""
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "SCRAM-SHA-256",
        "listener.name.scram.scram-sha-256.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
    }
    listeners = {"PLAINTEXT": "PLAINTEXT", "SCRAM": "SASL_PLAINTEXT"}
    folder = tmp_path_factory.mktemp("rights")
    scram = dict.fromkeys((*USERS, "ann"), PASSWORD)
    with Broker(folder, listeners=listeners, settings=settings, scram=scram) as broker:
        yield broker


@pytest.fixture
def config(strict: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config whose topics exist already, made by somebody who may."""
    monkeypatch.setenv("FRESHET_KAFKA_PASSWORD", PASSWORD)
    file = tmp_path / "freshet.toml"
    file.write_text(
        f'log = "kafka://{strict.address_of("SCRAM")}/{tmp_path.name}"\n'
        "[features.item]\nkind = 'id'\n[server]\nport = 0\n[learner]\ndeep = 'none'\n"
        "[stream.log.kafka]\naway_after_s = 60.0\nsecurity = 'sasl_plaintext'\nmechanism = 'SCRAM-SHA-256'\n"
    )
    admin = KafkaLog(f"kafka://{strict.address}/{tmp_path.name}", patient())
    for topic in (EVENTS, EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES):
        admin.create_topic(topic, 1)
    admin.close()
    return file


def allow(broker: Broker, lines: Iterator[str]) -> None:
    """What kafka-acls.sh would do, with its own words."""
    rules = []
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "kafka-acls.sh" and "--add" in words
        operations = [words[i + 1] for i, word in enumerate(words) if word == "--operation"]
        kind = Resource.TOPIC if "--topic" in words else Resource.GROUP
        name = words[words.index(f"--{kind.name.lower()}") + 1]
        who = words[words.index("--allow-principal") + 1]
        spelled = {o.name.replace("_", "").lower(): o for o in AclOperation}
        rules += [
            AclBinding(
                kind, name, Pattern.LITERAL, who, "*", spelled[operation.lower()], AclPermissionType.ALLOW
            )
            for operation in operations
        ]
    admin = AdminClient({"bootstrap.servers": broker.address})
    for future in admin.create_acls(rules).values():
        future.result(60.0)


@pytest.mark.process
@with_kraft
def test_check_names_the_rights_that_are_missing_until_the_printed_rules_are_made(
    strict: Broker, config: Path, tmp_path: Path
) -> None:
    def log_check() -> tuple[bool, str]:
        checks = run_checks(str(config), ["stream.log.kafka.user=ann"], None)
        return next((check.ok, check.found) for check in checks if check.what == "log")

    fine, found = log_check()
    assert not fine
    events = f"{tmp_path.name}.events"
    assert f"READ on {events} (join, serve); WRITE on {events} (join, serve)" in found
    assert "freshet rights" in found
    loaded = load_config(config)
    allow(strict, acl_commands(loaded, "User:ann", USERS))
    deadline = time.monotonic() + 60.0
    while not fine:
        assert time.monotonic() < deadline, found
        fine, found = log_check()
    assert "go on without" not in found


@pytest.mark.process
@pytest.mark.long
@with_kraft
def test_each_role_runs_with_the_rights_of_its_line_alone_and_misses_none(
    strict: Broker, config: Path, tmp_path: Path
) -> None:
    for user in USERS:
        allow(strict, acl_commands(load_config(config), f"User:{user}", (user,)))
    roles = []
    try:
        for role in ("join", "learn", "serve"):
            command = [sys.executable, "-m", "freshet", role, "--config", str(config)]
            command += ["--set", f"stream.log.kafka.user={role}"]
            with (tmp_path / f"{role}.txt").open("w") as out:
                roles.append(subprocess.Popen(command, stdout=out, stderr=out, env=os.environ))
        admin = KafkaLog(f"kafka://{strict.address}/{tmp_path.name}", patient())
        admin.append(EVENTS, [Outgoing(b"bad", b"not an event")])
        deadline = time.monotonic() + 400.0  # compiling may take that long

        def end_of(topic: str) -> int:
            return admin.ends(topic)[0][1]

        def said(role: str) -> str:
            return (tmp_path / f"{role}.txt").read_text()

        sent = 0
        while not (
            end_of(EXAMPLES) and end_of(UPDATES) and end_of(DEAD_LETTERS) and "ready" in said("serve")
        ):
            assert time.monotonic() < deadline and all(role.poll() is None for role in roles), (
                said("join") + said("learn") + said("serve")
            )
            event = Impression(f"r{sent}", time.time(), [{"item": sent}], labels=[1.0])
            admin.append(EVENTS, [Outgoing(event.request_id.encode(), encode(event))])
            sent += 1
            time.sleep(0.2)
        admin.close()
        for role in roles:
            role.terminate()
            assert role.wait(60.0) == 0
        for name in ("join", "learn", "serve"):
            assert "not allowed" not in said(name), said(name)
    finally:
        for role in roles:
            role.kill()
            role.wait()


@pytest.mark.parametrize(
    ("log", "principal", "told"),
    [
        ("sqlite:log.db", "User:ann", "only a Kafka cluster has access rules"),
        ("kafka://h:1", "ann", "expected TYPE:NAME"),
        ("kafka://h:1", "User:", "expected TYPE:NAME"),
    ],
)
def test_rights_of_no_cluster_or_nobody_are_refused(
    tmp_path: Path, log: str, principal: str, told: str
) -> None:
    file = tmp_path / "freshet.toml"
    file.write_text(f'log = "{log}"\n[features.item]\nkind = "id"\n')
    with pytest.raises(ConfigError, match=told):
        list(acl_commands(load_config(file), principal, USERS))


def test_command_prints_the_rules_of_the_roles_that_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "freshet.toml"
    file.write_text('log = "kafka://h:1,i:2/shop"\n[features.item]\nkind = "id"\n')
    assert main(["rights", "--config", str(file), "produce"]) == 0
    assert capsys.readouterr().out == (
        "kafka-acls.sh --bootstrap-server h:1,i:2 --add --allow-principal User:freshet --operation Write "
        "--operation DescribeConfigs --topic shop.events\n"
    )
    assert main(["rights", "--config", str(file), "joiner"]) != 0
    assert "expected some of join, learn" in capsys.readouterr().err

"""TLS and log-ins to Kafka, against a real broker with certificates made for the test."""

import gc
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from broker import Broker

from stream.errors import LogError
from stream.log.base import Outgoing
from stream.log.kafka.log import KafkaLog
from stream.log.kafka.login import KEY_PASSWORD_VARIABLE, PASSWORD_VARIABLE
from stream.log.settings import KafkaSettings, LogSettings

pytestmark = [
    pytest.mark.process,
    # the library leaves the sockets of connections that fail to Python's collector
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]

PASSWORD = "correct horse"
QUICK = KafkaSettings(away_after_s=1.0)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


def kafka_log(address: str, prefix: str, kafka: KafkaSettings) -> KafkaLog:
    return KafkaLog(f"kafka://{address}/{prefix}", LogSettings(kafka=kafka))


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def secure(kafka_broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Path]]:
    """A broker that speaks TLS, and SCRAM with and without it; and the folder with the certificates."""
    folder = tmp_path_factory.mktemp("secure")
    openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=broker",
            "-addext", "subjectAltName=DNS:localhost",
            "-keyout", "broker.key", "-out", "broker.pem")  # fmt: skip
    openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=client",
            "-passout", "pass:opens", "-keyout", "client.key", "-out", "client.pem")  # fmt: skip
    openssl(folder, "pkcs12", "-export", "-in", "broker.pem", "-inkey", "broker.key",
            "-out", "broker.p12", "-passout", "pass:opens")  # fmt: skip
    subprocess.run(
        ["keytool", "-importcert", "-noprompt", "-alias", "client", "-file", "client.pem", "-keystore",
         "trust.p12", "-storetype", "PKCS12", "-storepass", "opens1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    settings = {
        "ssl.keystore.type": "PKCS12",
        "ssl.keystore.location": str(folder / "broker.p12"),
        "ssl.keystore.password": "opens",
        "ssl.truststore.type": "PKCS12",
        "ssl.truststore.location": str(folder / "trust.p12"),
        "ssl.truststore.password": "opens1",
        "listener.name.mutual.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "SCRAM-SHA-256",
        "listener.name.scram.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.scramtls.scram-sha-256.sasl.jaas.config": scram,
    }
    listeners = {
        "PLAINTEXT": "PLAINTEXT", "TLS": "SSL", "MUTUAL": "SSL",
        "SCRAM": "SASL_PLAINTEXT", "SCRAMTLS": "SASL_SSL",
    }  # fmt: skip
    with Broker(
        folder / "broker", listeners=listeners, settings=settings, scram={"ann": PASSWORD}, host="localhost"
    ) as broker:
        yield broker, folder


def settings_of(listener: str, folder: Path, **changes: object) -> KafkaSettings:
    """The right settings for a listener of the secure broker."""
    right: dict[str, object] = {
        "TLS": {"security": "tls"},
        "MUTUAL": {
            "security": "tls",
            "cert_file": str(folder / "client.pem"),
            "key_file": str(folder / "client.key"),
        },
        "SCRAM": {"security": "sasl_plaintext"},
        "SCRAMTLS": {"security": "sasl_tls"},
    }[listener]
    scram = {"mechanism": "SCRAM-SHA-256", "user": "ann"} if listener.startswith("SCRAM") else {}
    ca = {"ca_file": str(folder / "broker.pem")} if listener != "SCRAM" else {}
    return msgspec.convert({"away_after_s": 3.0, **right, **scram, **ca, **changes}, KafkaSettings)


@pytest.mark.parametrize("listener", ["TLS", "MUTUAL", "SCRAM", "SCRAMTLS"])
def test_log_works_through_every_kind_of_security(
    secure: tuple[Broker, Path], listener: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, folder = secure
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    monkeypatch.setenv(KEY_PASSWORD_VARIABLE, "opens")
    log = kafka_log(broker.address_of(listener), listener, settings_of(listener, folder))
    log.create_topic("t", 2)
    log.append("t", [Outgoing(b"", b"%d" % i, i % 2, "me", i) for i in range(100)])
    assert [r.seq for r in log.read("t", 1, 0)] == list(range(1, 100, 2))
    log.commit("g", "t", {0: 7})
    assert log.committed("g", "t") == {0: 7}
    log.close()


def test_password_comes_from_a_file_and_is_never_told(secure: tuple[Broker, Path], tmp_path: Path) -> None:
    broker, folder = secure
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    settings = settings_of("SCRAMTLS", folder, password_file=str(file))
    kafka_log(broker.address_of("SCRAMTLS"), "", settings).close()
    assert PASSWORD not in repr(settings)
    file.write_text("wrong horse")
    with pytest.raises(LogError, match=r"refuses the log-in: .*user 'ann'.*password_file") as refused:
        kafka_log(broker.address_of("SCRAMTLS"), "", settings)
    assert "horse" not in str(refused.value)


def test_settings_that_do_not_fit_the_broker_are_explained(
    secure: tuple[Broker, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, folder = secure
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)

    def refused(listener: str, settings: KafkaSettings) -> str:
        with pytest.raises(LogError) as told:
            kafka_log(broker.address_of(listener), "", settings)
        return str(told.value)

    assert PASSWORD_VARIABLE in refused("SCRAM", settings_of("SCRAM", folder))
    assert "set stream.log.kafka.user" in refused("SCRAM", KafkaSettings(security="sasl_plaintext"))
    assert "ca_file" in refused(
        "TLS", KafkaSettings(security="tls", away_after_s=1.0)
    )  # not signed by anybody known
    assert "cannot be read" in refused(
        "TLS", KafkaSettings(security="tls", ca_file=str(tmp_path / "none.pem"))
    )
    assert "does not answer as a Kafka broker with security = 'plaintext'" in refused("TLS", QUICK)
    address = broker.address_of("TLS").replace("localhost", "127.0.0.1")
    with pytest.raises(LogError, match="check_hostname"):
        kafka_log(address, "", settings_of("TLS", folder, away_after_s=1.0))
    kafka_log(address, "", settings_of("TLS", folder, check_hostname=False)).close()

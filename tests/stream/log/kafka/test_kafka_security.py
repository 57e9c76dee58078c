"""TLS and log-ins to Kafka, against a real broker with certificates made for the test."""

import base64
import gc
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote_plus

import msgspec
import pytest
from broker import Broker
from shared_broker import with_kraft
from waiting import wait_until

from stream.errors import LogError
from stream.log.base import Outgoing
from stream.log.kafka.log import KafkaLog
from stream.log.kafka.login import KEY_PASSWORD_VARIABLE, PASSWORD_VARIABLE
from stream.log.settings import KafkaSettings, LogSettings

pytestmark = [
    pytest.mark.process,
    with_kraft,
    # the library leaves the sockets of connections that fail to Python's collector
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]

PASSWORD = "correct horse"


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
        "listener.name.plain.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.plain.plain.sasl.jaas.config": (
            f'org.apache.kafka.common.security.plain.PlainLoginModule required user_ann="{PASSWORD}";'
        ),
        # the broker takes unsigned tokens: how it checks them is not ours
        "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.oauth.oauthbearer.sasl.jaas.config": (
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
        ),
    }
    listeners = {
        "PLAINTEXT": "PLAINTEXT", "TLS": "SSL", "MUTUAL": "SSL",
        "SCRAM": "SASL_PLAINTEXT", "SCRAMTLS": "SASL_SSL",
        "PLAIN": "SASL_PLAINTEXT", "OAUTH": "SASL_PLAINTEXT",
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
        "PLAIN": {"security": "sasl_plaintext", "mechanism": "PLAIN", "user": "ann"},
        "OAUTH": {"security": "sasl_plaintext", "mechanism": "OAUTHBEARER"},
    }[listener]
    scram = {"mechanism": "SCRAM-SHA-256", "user": "ann"} if listener.startswith("SCRAM") else {}
    ca = {"ca_file": str(folder / "broker.pem")} if "TLS" in listener or listener == "MUTUAL" else {}
    return msgspec.convert({"away_after_s": 60.0, **right, **scram, **ca, **changes}, KafkaSettings)


def explained(words: str, address: str, settings: KafkaSettings) -> str:
    """What a log says that does not open, once these words are in it.

    What fails is tried for as long as the settings say; a busy broker may give no answer at all in that time.
    """
    said: list[str] = []

    def refused() -> bool:
        with pytest.raises(LogError) as told:
            kafka_log(address, "", msgspec.structs.replace(settings, away_after_s=1.0))
        said.append(str(told.value))
        return re.search(words, said[-1]) is not None

    wait_until(refused, lambda: (words, said[-1]))
    return said[-1]


@pytest.mark.parametrize("listener", ["TLS", "MUTUAL", "SCRAM", "SCRAMTLS", "PLAIN"])
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
    said = explained(
        r"refuses the log-in: .*user 'ann'.*password_file", broker.address_of("SCRAMTLS"), settings
    )
    assert "horse" not in said


def test_settings_that_do_not_fit_the_broker_are_explained(
    secure: tuple[Broker, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, folder = secure
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)

    scram, tls = broker.address_of("SCRAM"), broker.address_of("TLS")
    explained(PASSWORD_VARIABLE, scram, settings_of("SCRAM", folder))
    explained(r"set stream\.log\.kafka\.user", scram, KafkaSettings(security="sasl_plaintext"))
    # not signed by anybody known
    explained("ca_file", tls, KafkaSettings(security="tls"))
    explained("cannot be read", tls, KafkaSettings(security="tls", ca_file=str(tmp_path / "none.pem")))
    explained("as a Kafka broker with security = 'plaintext' would", tls, KafkaSettings())
    address = tls.replace("localhost", "127.0.0.1")
    explained("check_hostname", address, settings_of("TLS", folder))
    kafka_log(address, "", settings_of("TLS", folder, check_hostname=False)).close()


# Tokens


class IdentityServer(ThreadingHTTPServer):
    """Issues tokens for client credentials (RFC 6749, 4.4) to one client who knows the secret."""

    def __init__(self, valid_s: float) -> None:
        super().__init__(("127.0.0.1", 0), IssueToken)
        self.valid_s = valid_s
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/token"


class IssueToken(BaseHTTPRequestHandler):
    """Answers one request for a token."""

    server: IdentityServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append(body)
        login = base64.b64encode(f"freshet:{PASSWORD}".encode()).decode()
        if self.headers["Authorization"] != f"Basic {login}" and quote_plus(PASSWORD) not in body:
            self.answer(401, {"error": "invalid_client"})
        else:
            token = {"access_token": unsigned_token(self.server.valid_s), "token_type": "Bearer"}
            self.answer(200, {**token, "expires_in": self.server.valid_s})

    def answer(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def unsigned_token(valid_s: float) -> str:
    def part(claims: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")

    now = time.time()
    return f"{part({'alg': 'none'})}.{part({'sub': 'ann', 'iat': now, 'exp': now + valid_s})}."


@pytest.fixture
def identity() -> Iterator[IdentityServer]:
    with IdentityServer(4.0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_token_from_an_identity_server_is_asked_for_again_before_it_expires(
    secure: tuple[Broker, Path], identity: IdentityServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, folder = secure
    settings = settings_of("OAUTH", folder, user="freshet", token_url=identity.url, token_scope="kafka")
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    log = kafka_log(broker.address_of("OAUTH"), "oauth", settings)
    log.create_topic("t", 1)
    log.append("t", [Outgoing(b"", b"0")])
    first = len(identity.asked)
    assert first and "scope=kafka" in identity.asked[0]
    wait_until(lambda: len(identity.asked) > first, "somebody to ask for another token")
    log.append("t", [Outgoing(b"", b"1")])
    assert [r.value for r in log.read("t", 0, 0)] == [b"0", b"1"]
    log.close()
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong horse")
    said = explained("client 'freshet' gets its token at http", broker.address_of("OAUTH"), settings)
    assert "horse" not in said


def test_token_from_a_file_opens_the_log_and_what_is_no_token_is_explained(
    secure: tuple[Broker, Path], tmp_path: Path
) -> None:
    broker, folder = secure
    file = tmp_path / "token"
    settings = settings_of("OAUTH", folder, token_file=str(file))

    address = broker.address_of("OAUTH")
    explained(f"token_file {file}", address, settings)
    for content in ("", "secret", "a.b.c", "e30.e30.", unsigned_token(60.0).replace(".", ",")):
        file.write_text(content)
        said = explained("holds no JWT with a time of expiry", address, settings)
        assert not content or content not in said.replace(str(file), "")
    file.write_text(unsigned_token(60.0) + "\n")
    log = kafka_log(broker.address_of("OAUTH"), "file", settings)
    log.create_topic("t", 1)
    log.append("t", [Outgoing(b"", b"x")])
    assert len(log.read("t", 0, 0)) == 1
    log.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mechanism": "OAUTHBEARER"}, "either token_file or token_url"),
        ({"mechanism": "OAUTHBEARER", "token_file": "f", "token_url": "http://x"}, "either"),
        ({"token_file": "f"}, "need mechanism"),
        ({"mechanism": "OAUTHBEARER", "token_file": "f", "token_scope": "s"}, "needs token_url"),
        ({"mechanism": "OAUTHBEARER", "token_url": "identity:80"}, "expected http"),
    ],
)
def test_settings_of_tokens_that_contradict_each_other_are_refused(
    changes: dict[str, str], said: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert({"security": "sasl_tls", **changes}, KafkaSettings)

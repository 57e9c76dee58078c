"""A connection to a Kafka cluster: reached when it is needed, its errors told in our words.

The client library does connections, TLS, SASL, metadata and administration; this module gives each call
a bounded time, tells what may pass (`LogAwayError`: call again) from what will not (`LogError`), and
finds out why a cluster cannot be reached.
"""

import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import kafka.errors
from kafka import KafkaAdminClient, TopicPartition
from kafka.net.compat import KafkaNetClient

from stream.errors import LogAwayError, LogError
from stream.log.settings import KafkaSettings

PASSWORD_VARIABLE = "FRESHET_KAFKA_PASSWORD"
KEY_PASSWORD_VARIABLE = "FRESHET_KAFKA_KEY_PASSWORD"
RETRY_S = 0.05  # after the first failure, doubled for each further one
RETRY_S_MAX = 1.0
CLOSE_MS_MAX = 1000.0  # that closing waits for a connection that is being made
RESPONSE_BYTES_MAX = 100 << 20
PROTOCOLS = {
    "plaintext": "PLAINTEXT",
    "tls": "SSL",
    "sasl_plaintext": "SASL_PLAINTEXT",
    "sasl_tls": "SASL_SSL",
}

T = TypeVar("T")

_library = logging.getLogger("kafka")
if _library.level == logging.NOTSET:
    # what it logs while it retries reaches the caller as one error; whoever sets a level sees it again
    _library.setLevel(logging.CRITICAL)

_PASSING = (
    kafka.errors.RetriableError,
    kafka.errors.UnknownBrokerIdError,  # until the metadata are read again
    kafka.errors.BrokerNotAvailableError,
    kafka.errors.KafkaStorageError,
    kafka.errors.FencedLeaderEpochError,
    kafka.errors.UnknownLeaderEpochError,
    kafka.errors.OffsetNotAvailableError,
)
_FORBIDDEN = (kafka.errors.AuthorizationError, kafka.errors.SaslAuthenticationFailedError)


class KafkaClient:
    """One connection to each broker that is needed. May be called from several threads.

    Args:
        servers: host:port of some brokers; the others are learnt from them.
        name: for the broker's own logs.
    """

    def __init__(self, servers: Sequence[str], settings: KafkaSettings, name: str) -> None:
        self.servers = list(servers)
        self.settings = settings
        self._name = name
        self._admin: KafkaAdminClient | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._options = _options(settings)

    def __str__(self) -> str:
        return f"log kafka://{','.join(self.servers)}"

    def admin(self) -> KafkaAdminClient:
        """The library's client, connected.

        Raises:
            LogAwayError: the cluster does not answer.
            LogError: it will not let us in, or the settings are not right.
        """
        with self._lock:
            if self._closed:
                raise LogError(f"{self} is closed")
            if self._admin is None:
                self._admin = self._connect()
            return self._admin

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            self._closed = True
            if self._admin is not None:
                _close_sockets(self._admin._manager)
                self._admin.close()
                self._admin = None

    def call(self, what: str, action: Callable[[KafkaAdminClient], T]) -> T:
        """`action` of the connected client, tried again while its error is one that passes.

        Args:
            what: what is done, for the message.

        Raises:
            LogAwayError: it has not succeeded within `away_after_s`.
            LogError: an error that does not pass.
        """
        attempts = Attempts(self.settings.away_after_s)
        while True:
            try:
                return action(self.admin())
            except kafka.errors.KafkaError as error:
                self.judge(what, error)
                if not attempts.wait():
                    raise self.away(what, error) from None

    def judge(self, what: str, error: kafka.errors.KafkaError) -> None:
        """Return if `error` is one that passes.

        Raises:
            LogError: it is not.
        """
        if isinstance(error, _FORBIDDEN):
            raise LogError(f"{self}: {what}: not allowed: {_text(error)}; {self._who()}") from None
        if not isinstance(error, _PASSING):
            raise LogError(f"{self}: {what}: {_text(error)}") from None

    def away(self, what: str, error: BaseException) -> LogAwayError:
        """What to raise when an error that passes has not passed in time."""
        return LogAwayError(
            f"{self}: {what}: no success within {self.settings.away_after_s:g} s ({_text(error)}); "
            "check that the brokers run"
        )

    def exchange(self, requests: Mapping[int, Any]) -> dict[int, Any]:
        """Send each node its request, at the same time; each one's response, or its KafkaError."""
        manager = self.admin()._manager

        async def send() -> dict[int, Any]:
            futures = {node: manager.send(request, node_id=node) for node, request in requests.items()}
            found: dict[int, Any] = {}
            for node, future in futures.items():
                try:
                    found[node] = await future
                except kafka.errors.KafkaError as error:
                    found[node] = error
            return found

        # get_connection raises, rather than fails the future, when there is no way to the node
        try:
            answers: dict[int, Any] = manager.run(send)
        except kafka.errors.KafkaError as error:
            return dict.fromkeys(requests, error)
        return answers

    def begin(self, node: int, request: Any) -> Any:
        """Send a request without waiting; the library's future of its response."""
        manager = self.admin()._manager
        return manager.call_soon(manager.send, request, node)

    def finish(self, future: Any) -> Any:
        """Wait for a response that `begin` asked for; the library's limit of time applies.

        Raises:
            KafkaError: there is none.
        """
        if not future.is_done:

            async def wait() -> Any:
                return await future

            return self.admin()._manager.run(wait)
        if future.exception is not None:
            raise future.exception
        return future.value

    def leaders(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """{partition: node that leads it}; those without a known leader are left out."""
        cluster = self.admin()._manager.cluster
        found = {}
        for partition in partitions:
            leader = cluster.leader_for_partition(TopicPartition(topic, partition))
            if leader is not None and leader >= 0:
                found[partition] = leader
        return found

    def refresh(self, topic: str) -> None:
        """Read again which brokers there are and who leads a topic's partitions; no error if that fails."""
        manager = self.admin()._manager

        async def update() -> None:
            manager.cluster.add_topic(topic)
            await manager.wait_for(manager.cluster.request_update(), 1000.0)

        with contextlib.suppress(kafka.errors.KafkaError):
            manager.run(update)

    def _connect(self) -> KafkaAdminClient:
        made: list[KafkaNetClient] = []

        def client(**options: Any) -> KafkaNetClient:
            made.append(KafkaNetClient(**options))
            return made[0]

        try:
            return KafkaAdminClient(
                bootstrap_servers=self.servers,
                client_id=self._name,
                kafka_client=client,
                bootstrap_timeout_ms=int(self.settings.away_after_s * 1e3),
                request_timeout_ms=int(self.settings.away_after_s * 1e3),
                reconnect_backoff_max_ms=1000,
                receive_message_max_bytes=RESPONSE_BYTES_MAX,
                **self._options,
            )
        except (kafka.errors.KafkaError, OSError, ssl.SSLError) as error:
            refused = _first_answer(made[0]._manager) if made else None
            for half_made in made:
                half_made._net.stop()
                half_made.close()
            if isinstance(refused, _FORBIDDEN):
                raise LogError(f"{self} refuses the log-in: {_text(refused)}; {self._who()}") from None
            raise self._reason(error) from None

    def _reason(self, error: BaseException) -> LogError:
        """Why no broker can be reached: the library only tells that time was up."""
        reasons = []
        for server in self.servers:
            host, _, port = server.rpartition(":")
            try:
                with socket.create_connection((host, int(port)), timeout=2.0) as plain:
                    if self.settings.security in ("tls", "sasl_tls"):
                        with _context(self.settings).wrap_socket(plain, server_hostname=host):
                            pass
                    reasons.append(
                        f"{server} accepts connections but does not answer as a Kafka broker with security "
                        f"= {self.settings.security!r} would"
                    )
            except ssl.SSLError as failed:
                return LogError(
                    f"{self}: no secure connection to {server}: {failed.reason or failed}; check "
                    "stream.log.kafka.ca_file, cert_file and check_hostname"
                )
            except (OSError, ValueError) as failed:
                reasons.append(f"{server}: {failed}")
        if isinstance(error, _PASSING):
            if self.settings.security.startswith("sasl"):
                # a broker that knows the user but not the password ends the connection without a word
                reasons.append(f"or it refuses the log-in: {self._who()}")
            return LogAwayError(
                f"{self} does not answer ({'; '.join(reasons)}); start the broker, or correct the address"
            )
        return LogError(f"{self} cannot be used: {_text(error)}")

    def _who(self) -> str:
        if not self.settings.security.startswith("sasl"):
            return "check the cluster's access rules"
        return (
            f"user {self.settings.user!r}, mechanism {self.settings.mechanism}: check them, the password "
            f"(stream.log.kafka.password_file or {PASSWORD_VARIABLE}) and the cluster's access rules"
        )


def _first_answer(manager: Any) -> Exception | None:
    """What a broker answers to a connection: the library tries on, and keeps to itself why it has to."""

    async def ask() -> Exception | None:
        node = manager.cluster.bootstrap_brokers()[0].node_id
        manager.reset_backoff(node)
        try:
            connection = manager.get_connection(node, timeout_ms=CLOSE_MS_MAX, refresh_metadata_on_err=False)
            await manager.wait_for(connection.init_future, CLOSE_MS_MAX)
        except (kafka.errors.KafkaError, OSError) as error:
            return error
        return None

    answer: Exception | None = manager.run(ask)
    return answer


def _close_sockets(manager: Any) -> None:
    """Close every connection now: the library leaves open those that are being made, or have yet to send."""

    async def close() -> None:
        for connection in list(manager._conns.values()):
            with contextlib.suppress(kafka.errors.KafkaError):
                await manager.wait_for(connection.init_future, CLOSE_MS_MAX)
            if connection.transport is not None:
                connection.transport.abort()

    with contextlib.suppress(kafka.errors.KafkaError):
        manager.run(close)


class Attempts:
    """Waits between attempts, longer and longer, until the time is up."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._pauses = self._growing()

    def wait(self) -> bool:
        """Wait for the next attempt; False when there is no time left for one."""
        pause_s = next(self._pauses)
        if time.monotonic() + pause_s > self._deadline:
            return False
        time.sleep(pause_s)
        return True

    def _growing(self) -> Iterator[float]:
        pause_s = RETRY_S
        while True:
            yield pause_s
            pause_s = min(2 * pause_s, RETRY_S_MAX)


def _options(settings: KafkaSettings) -> dict[str, Any]:
    """What the library is told of TLS and SASL.

    Raises:
        LogError: a file is missing or damaged, or there is no password.
    """
    options: dict[str, Any] = {"security_protocol": PROTOCOLS[settings.security]}
    if settings.security in ("tls", "sasl_tls"):
        options["ssl_context"] = _context(settings)
    if settings.security in ("sasl_plaintext", "sasl_tls"):
        if not settings.user:
            raise LogError(f'security = "{settings.security}" needs a user: set stream.log.kafka.user')
        options["sasl_mechanism"] = settings.mechanism
        options["sasl_plain_username"] = settings.user
        options["sasl_plain_password"] = _password(settings)
    return options


def _context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        context.check_hostname = settings.check_hostname
        if settings.cert_file:
            password = os.environ.get(KEY_PASSWORD_VARIABLE)
            context.load_cert_chain(settings.cert_file, settings.key_file or None, password)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(f for f in (settings.ca_file, settings.cert_file, settings.key_file) if f)
        raise LogError(f"the certificates or the key cannot be read ({files}): {error}") from None
    return context


def _password(settings: KafkaSettings) -> str:
    if settings.password_file:
        try:
            return Path(settings.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise LogError(f"password_file {settings.password_file}: {error.strerror}") from None
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is None:
        raise LogError(
            f"there is no password for user {settings.user!r}: set stream.log.kafka.password_file, or the "
            f"environment variable {PASSWORD_VARIABLE}"
        )
    return password


def _text(error: BaseException) -> str:
    name = type(error).__name__.removesuffix("Error")
    detail = str(error.args[0]) if error.args else ""
    # the library's own text may be a whole request, of any length
    return f"{name}: {detail[:200]}" if detail else name

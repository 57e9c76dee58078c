"""A Kafka cluster as the client library (confluent-kafka) sees it, with errors
that name the cause.

Each call has a time limit. A transient error becomes a `LogAwayError` (retry), a permanent one a `LogError`.
If no broker answers, a probe of its address finds out why.
"""

import concurrent.futures
import logging
import socket
import ssl
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, ThrottleEvent
from confluent_kafka.admin import AdminClient

from ground.retry import Backoff, Pauses
from stream.errors import LogAwayError, LogError
from stream.log.kafka.login import Options, login_options, tls_context, who
from stream.log.settings import KafkaSettings

RETRY_S = 0.05  # after the first failure, longer for each further one
RETRY_S_MAX = 1.0
PROBE_S = 2.0  # time limit of a probe
PROBE_EVERY_S = 30.0  # how often the advertised addresses are requested
THROTTLED_S = 10.0  # how long after throttling the messages name the quota
THROTTLE_LOG_S = 60.0
TEXT_MAX = 200  # characters of the library's text in a message
ANY_TOPIC = "freshet"  # to ask for when any answer will do; asking does not make it

T = TypeVar("T")

_log = logging.getLogger("freshet.kafka")
# errors of the library during its retries; the caller gets one error
_library = logging.getLogger("freshet.kafka.library")
_library.setLevel(logging.CRITICAL + 1)

_PASSING = frozenset(
    getattr(KafkaError, name)
    for name in (
        "_TRANSPORT", "_RESOLVE", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_TIMED_OUT_QUEUE", "_MSG_TIMED_OUT",
        "_PARTIAL", "_WAIT_COORD", "_WAIT_CACHE", "_IN_PROGRESS", "_RETRY", "_PURGE_QUEUE", "_PURGE_INFLIGHT",
        "_DESTROY", "_UNKNOWN_PARTITION", "_STATE", "UNKNOWN_TOPIC_OR_PART", "LEADER_NOT_AVAILABLE",
        "NOT_LEADER_FOR_PARTITION", "REQUEST_TIMED_OUT", "BROKER_NOT_AVAILABLE", "REPLICA_NOT_AVAILABLE",
        "NETWORK_EXCEPTION", "COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR",
        "NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND", "NOT_CONTROLLER", "KAFKA_STORAGE_ERROR",
        "FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH", "OFFSET_NOT_AVAILABLE", "THROTTLING_QUOTA_EXCEEDED",
        "UNSTABLE_OFFSET_COMMIT", "UNKNOWN_TOPIC_ID", "INCONSISTENT_TOPIC_ID",
        # brokers that are stopping or starting: there is no leader, or none is known
        "_NOENT", "_UNKNOWN_BROKER", "_UNKNOWN_TOPIC", "_DESTROY_BROKER", "_NODE_UPDATE", "_OUTDATED",
        "_INTR", "_PREV_IN_PROGRESS", "_CONFLICT", "_ISR_INSUFF", "ELIGIBLE_LEADERS_NOT_AVAILABLE",
        "PREFERRED_LEADER_NOT_AVAILABLE", "STALE_BROKER_EPOCH", "REBOOTSTRAP_REQUIRED",
        # "UNKNOWN" is an exception inside the broker; older ones answer so while they start
        "UNKNOWN", "UNKNOWN_CONTROLLER_ID", "CONCURRENT_TRANSACTIONS", "FETCH_SESSION_ID_NOT_FOUND",
        "INVALID_FETCH_SESSION_EPOCH", "OPERATION_NOT_ATTEMPTED", "LISTENER_NOT_FOUND",
        # the broker has forgotten what this producer sent: the next append begins under a new id
        "OUT_OF_ORDER_SEQUENCE_NUMBER", "UNKNOWN_PRODUCER_ID", "INVALID_PRODUCER_EPOCH", "_GAPLESS_GUARANTEE",
        "_FENCED", "_INCONSISTENT",
    )
    if hasattr(KafkaError, name)  # older releases of the library do not know all
)  # fmt: skip
_FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
    }
)


class AuthorizationError(LogError):
    """The cluster's access rules do not allow it."""


class MessageTooLargeError(LogError):
    """The cluster takes no messages as large as these."""


class KafkaClient:
    """The connection to the cluster: settings of the library's clients, the admin client, and error handling.

    May be used from several threads.

    Args:
        servers: host:port of some brokers; the others are learnt from them.
    """

    def __init__(self, servers: Sequence[str], settings: KafkaSettings) -> None:
        self.servers = list(servers)
        self.settings = settings
        self.closed = False
        self._lock = threading.Lock()
        self._admin: AdminClient | None = None
        self._login = login_options(settings)
        self._heard: dict[int, str] = {}  # the library's last error, by code
        self._throttled_at_s = self._throttle_logged_s = float("-inf")
        self._throttle_s = 0.0
        self._probed_at_s = float("-inf")

    def __str__(self) -> str:
        return f"log kafka://{','.join(self.servers)}"

    def options(self, name: str) -> Options:
        """Settings that all of the library's clients share; `name` is for the brokers' own logs."""
        return {
            "bootstrap.servers": ",".join(self.servers),
            "client.id": name,
            # a request for a deleted topic must not create it again
            "allow.auto.create.topics": False,
            "socket.timeout.ms": max(int(self.settings.away_after_s * 1e3), 1_000),
            "socket.connection.setup.timeout.ms": max(int(self.settings.away_after_s * 1e3), 1_000),
            "socket.nagle.disable": True,
            "reconnect.backoff.ms": int(RETRY_S * 1e3),
            "reconnect.backoff.max.ms": int(RETRY_S_MAX * 1e3),
            "retry.backoff.ms": int(RETRY_S * 1e3),
            "topic.metadata.refresh.interval.ms": 30_000,
            "error_cb": _weakly(self.hear),
            "throttle_cb": _weakly(self.throttled),
            "logger": _library,
            **self._login,
        }

    def connect(self) -> None:
        """Find out whether the cluster answers.

        Raises:
            LogAwayError: it does not.
            LogError: it refuses us, or the settings are not right.
        """
        timeout_s = self.settings.away_after_s
        try:
            admin = self.admin()
            ask(admin, ANY_TOPIC, timeout_s)
        except KafkaException as error:
            failed: KafkaError = error.args[0]
            admin.poll(0.0)  # process the library's callbacks
            raise self._reason(failed) from None

    def admin(self) -> AdminClient:
        """The library's client for administration."""
        with self._lock:
            if self.closed:
                raise LogError(f"{self} is closed")
            if self._admin is None:
                try:
                    self._admin = AdminClient(self.options("freshet"))
                except KafkaException as error:
                    raise LogError(f"{self} cannot be used: {text(error.args[0])}") from None
            return self._admin

    def close(self) -> None:
        """End the client for administration."""
        with self._lock:
            self.closed = True
            self._admin = None

    def call(self, what: str, action: Callable[[AdminClient, float], T]) -> T:
        """`action` of the client for administration and a time-out in seconds; the rest as `retry`."""
        return self.retry(
            what, lambda timeout_s: action(self.admin(), timeout_s), lambda: self.admin().poll(0.0)
        )

    def retry(self, what: str, action: Callable[[float], T], serve: Callable[[], object]) -> T:
        """`action` of a time-out in seconds, tried again while its error may pass.

        Args:
            what: what is done, for the message.
            serve: processes the callbacks of the library's client that was used.

        Raises:
            LogAwayError: it has not succeeded within `away_after_s`.
            LogError: an error that does not pass.
        """
        timeout_s = self.settings.away_after_s
        backoff = Backoff(Pauses(RETRY_S, RETRY_S_MAX, give_up_s=timeout_s))
        began_s = time.monotonic()
        while True:
            try:
                return action(max(timeout_s - (time.monotonic() - began_s), 0.1))
            except KafkaException as error:
                failed: KafkaError = error.args[0]
                serve()
                self.judge(what, failed)
                if not backoff.sleep():
                    raise self.away(what, failed) from None

    def judge(self, what: str, error: KafkaError) -> None:
        """Return if `error` is transient.

        Raises:
            LogError: it is not.
        """
        if error.code() in _FORBIDDEN:
            raise AuthorizationError(
                f"{self}: {what}: not allowed: {text(error)}; {who(self.settings)}"
            ) from None
        if error.code() not in _PASSING:
            kind = MessageTooLargeError if error.code() == KafkaError.MSG_SIZE_TOO_LARGE else LogError
            raise kind(f"{self}: {what}: {text(error)}") from None

    def away(self, what: str, error: KafkaError | None) -> LogAwayError:
        """The error to raise when a transient error has not passed in time."""
        why = f" ({text(error)})" if error is not None else ""
        begin = f"{self}: {what}: no success within {self.settings.away_after_s:g} s{why}"
        if time.monotonic() - self._throttled_at_s < THROTTLED_S:
            return LogAwayError(
                f"{begin}; a quota of the cluster throttles this client (by {self._throttle_s:g} s last): "
                "raise the quota, or send and read less"
            )
        return LogAwayError(f"{begin}; {self._lost() or 'check that the brokers run'}")

    def hear(self, error: KafkaError) -> None:
        """Store an error of the library; called by the library."""
        self._heard[error.code()] = text(error)

    def throttled(self, event: ThrottleEvent) -> None:
        """Note that a broker's quota throttles us; called by the library."""
        now_s = time.monotonic()
        self._throttled_at_s, self._throttle_s = now_s, event.throttle_time
        if now_s - self._throttle_logged_s > THROTTLE_LOG_S:
            self._throttle_logged_s = now_s
            _log.warning(
                "%s: broker %s throttles this client by %g s: a quota of the cluster is used up",
                self,
                event.broker_name,
                event.throttle_time,
            )

    def _lost(self) -> str:
        """Describe advertised addresses, other than the configured ones, that do not answer."""
        now_s = time.monotonic()
        if now_s - self._probed_at_s < PROBE_EVERY_S:
            return ""
        self._probed_at_s = now_s
        if all(self._look(server) is not None for server in self.servers):
            return ""  # no broker there
        try:
            # a client of its own: its first connection is to an address that we were given
            known = AdminClient(self.options("freshet-probe")).list_topics(timeout=PROBE_S).brokers
        except KafkaException:
            return ""
        found = [f"{broker.host}:{broker.port}" for broker in known.values()]
        lost = [a for a in found if a not in self.servers and self._look(a) is not None]
        if not lost:
            return ""
        return (
            f"the cluster advertises its brokers at {', '.join(lost)}, and from here there is no "
            "way to it: correct advertised.listeners of the brokers, or the network"
        )

    def _look(self, server: str) -> LogError | str | None:
        """What is wrong with an address: None if it takes connections, a LogError if TLS fails there."""
        host, _, port = server.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S) as plain:
                if self.settings.security in ("tls", "sasl_tls"):
                    with tls_context(self.settings).wrap_socket(plain, server_hostname=host.strip("[]")):
                        pass
        except ssl.SSLError as failed:
            return LogError(
                f"{self}: no secure connection to {server}: {failed.reason or failed}; check "
                "stream.log.kafka.ca_file, cert_file and check_hostname"
            )
        except (OSError, ValueError) as failed:
            return f"{server}: {failed}"
        return None

    def _reason(self, error: KafkaError) -> LogError:
        """Find out why no broker can be reached: the library reports only a timeout."""
        refused = self._heard.get(KafkaError._AUTHENTICATION)
        if refused is not None:
            return LogError(f"{self} refuses the log-in: {refused}; {who(self.settings)}")
        reasons = []
        for server in self.servers:
            found = self._look(server)
            if isinstance(found, LogError):
                return found
            reasons.append(
                found
                or f"{server} accepts connections but did not answer within {self.settings.away_after_s:g} s "
                f"as a Kafka broker with security = {self.settings.security!r} would"
            )
        if error.code() not in _PASSING:
            return LogError(f"{self} cannot be used: {text(error)}")
        lost = self._lost()
        if lost:
            return LogAwayError(f"{self} does not answer: {lost}")
        if self.settings.security.startswith("sasl"):
            # a broker may close the connection without an error if the password is wrong
            reasons.append(f"or it refuses the log-in: {who(self.settings)}")
        return LogAwayError(
            f"{self} does not answer ({'; '.join(reasons)}); start the broker, or correct the address"
        )


def _weakly(method: Callable[[T], None]) -> Callable[[T], None]:
    """A callback that does not keep the method's object alive.

    Otherwise object and library's client would be a cycle, for Python's garbage collector. That may run in
    a thread of the library, and there the library ends the process if the client is its own.
    """
    found = weakref.WeakMethod(method)

    def call(argument: T) -> None:
        bound = found()
        if bound is not None:
            bound(argument)

    return call


def ask(admin: AdminClient, name: str, timeout_s: float) -> None:
    """Ask the cluster for a topic's metadata, to see that it answers; the topic need not be there.

    Goes before each request to describe something. To an answer that is an error as a whole, or that names
    no broker, such as one gives that is just beginning or waking up, the library replies here with an
    error; in a describing request it would end the process (`rko_result` asserted, librdkafka 2.16).

    Raises:
        KafkaException: it did not answer, or with an error.
    """
    admin.list_topics(name, timeout=timeout_s)


def result(future: "concurrent.futures.Future[T]", timeout_s: float) -> T:
    """The result of a future of the library.

    Raises:
        KafkaException: it failed, or took too long.
    """
    try:
        return future.result(timeout_s + 1.0)
    except concurrent.futures.TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None


def text(error: KafkaError) -> str:
    """An error of the library in few words."""
    return f"{error.name().lstrip('_')}: {textwrap.shorten(error.str(), TEXT_MAX, placeholder=' …')}"

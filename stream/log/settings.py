"""Settings of a log: how long it keeps records, how large they may be, how a Kafka cluster is reached."""

from typing import Literal

import msgspec

from ground.short_repr import ShortRepr
from stream.limits import check_bounds

RECORD_BYTES_LIMIT = 1 << 29
"""The most that `record_bytes_max` may be: SQLite and Kafka take records of somewhat less than 1 GB."""
RETAIN_MAX = 1 << 50  # seconds or bytes


class KafkaSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a Kafka cluster is reached. Secrets are in files or in the environment, never here."""

    security: Literal["plaintext", "tls", "sasl_plaintext", "sasl_tls"] = "plaintext"
    ca_file: str = ""  # PEM, of who signed the brokers' certificates; empty: whom the system trusts
    cert_file: str = ""  # PEM, our own certificate, where brokers ask for one
    key_file: str = ""  # PEM, its key; FRESHET_KAFKA_KEY_PASSWORD opens it
    check_hostname: bool = True
    mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN", "OAUTHBEARER"] = "SCRAM-SHA-512"
    user: str = ""  # with OAUTHBEARER and token_url: the client id
    password_file: str = ""  # empty: FRESHET_KAFKA_PASSWORD; with token_url: the client secret
    token_file: str = ""  # OAUTHBEARER: a JWT that somebody keeps fresh; read again before it expires
    token_url: str = ""  # OAUTHBEARER: where tokens are issued for client credentials
    token_scope: str = ""  # what to ask for there
    replication: int = -1  # of topics that are made; -1: as the brokers are set up
    away_after_s: float = 3.0  # of trying, after which the cluster counts as away

    def __post_init__(self) -> None:
        if not 0.1 <= self.away_after_s <= 600.0:
            raise ValueError(f"away_after_s is {self.away_after_s}; expected 0.1 to 600")
        if self.mechanism == "OAUTHBEARER" and bool(self.token_file) == bool(self.token_url):
            raise ValueError('mechanism = "OAUTHBEARER" needs either token_file or token_url')
        if self.mechanism != "OAUTHBEARER" and (self.token_file or self.token_url or self.token_scope):
            raise ValueError('token_file, token_url and token_scope need mechanism = "OAUTHBEARER"')
        if self.token_scope and not self.token_url:
            raise ValueError("token_scope needs token_url")
        if self.token_url and not self.token_url.startswith(("http://", "https://")):
            raise ValueError(f"token_url is {self.token_url!r}; expected http://… or https://…")
        if self.replication != -1 and not 1 <= self.replication <= 1000:
            raise ValueError(f"replication is {self.replication}; expected 1 to 1000, or -1")


class LogSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of a log.

    `retain_s` and `retain_bytes` map a topic to the age in seconds and the bytes beyond which its
    oldest records may go; "*" stands for every topic without an entry of its own, 0 for no limit.
    """

    retain_s: dict[str, float] = {}
    retain_bytes: dict[str, int] = msgspec.field(default_factory=lambda: {"*": 16 << 30, "roles": 64 << 20})
    record_bytes_max: int = 32 << 20  # over the limit of a usable record, so that dead letters fit
    busy_timeout_s: float = 30.0  # how long to wait for another process's write
    poll_s: float = 0.005  # how often a waiting read looks again
    kafka: KafkaSettings = KafkaSettings()
    sync: bool = True  # append returns when the disk has it; False: when the operating system has it

    def __post_init__(self) -> None:
        check_bounds(
            self,
            ("record_bytes_max", 1, RECORD_BYTES_LIMIT),
            ("busy_timeout_s", 0.0, 3600.0),
            ("poll_s", 1e-4, 60.0),
        )
        for topic, limit in (*self.retain_s.items(), *self.retain_bytes.items()):
            if not 0 <= limit <= RETAIN_MAX:
                raise ValueError(
                    f"what is retained of {topic!r} is {limit}; expected 0 (no limit) to {RETAIN_MAX:,}"
                )

    def retention(self, topic: str) -> tuple[float, int]:
        """(seconds, bytes) that `topic` may keep, 0 where there is no limit."""
        return (
            self.retain_s.get(topic, self.retain_s.get("*", 0.0)),
            self.retain_bytes.get(topic, self.retain_bytes.get("*", 0)),
        )


LOG_DEFAULTS = LogSettings()

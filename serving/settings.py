"""The server's settings: where it listens, and the limit on everything that comes from outside."""

from typing import Literal

import msgspec

from stream.limits import CANDIDATES_MAX, RECORD_BYTES_MAX, REFUSE_S_MAX


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the server listens and what it takes. Every limit answers with a 4xx or 503 when reached."""

    host: str = "127.0.0.1"  # beyond loopback only with tokens
    port: int = 8470  # 0: any free one
    hosts: tuple[str, ...] = ()  # names, besides localhost, by which a server without tokens may be asked
    tokens: str = ""  # a file of bearer tokens, `NAME SCOPES TOKEN` a line; "": FRESHET_TOKENS, or none
    rate_max: float = 0.0  # requests a second of one token; those beyond get a 429. 0: no limit
    log_impressions: bool = True  # append what was served to topic `events`, before the answer goes out
    explore: Literal["greedy", "thompson"] = "greedy"  # the order of candidates, if not asked otherwise
    explore_draws: int = 127  # by which the propensities of an order that was drawn are counted
    explore_seed: int = 0  # with the request's id it decides what is drawn
    rows: Literal["float32", "float16", "int8"] = "float32"  # how rows are held in memory
    freeze_after_examples: int = 0
    """The base follows no updates once it has learnt so many candidates with their labels, and only its
    error memory goes on: a frozen model to compare with. 0: never. A restart begins from what is newest."""

    candidates_max: int = 2_000  # in one request
    explain_candidates_max: int = 100  # in one request to explain, which is for people
    body_bytes_max: int = 1 << 20
    header_bytes_max: int = 16 << 10  # of a request's line and headers; those beyond get a 431
    concurrency_max: int = 64  # requests at work at once; those beyond get a 503
    connections_max: int = 1_024  # open connections, idle ones included; those beyond get a 503
    read_timeout_s: float = 10.0  # for a request's head to arrive, its body, and an answer to be taken
    keep_alive_s: float = 75.0  # an idle connection is closed after this
    stop_s: float = 5.0  # for requests at work to end when the server stops

    log_wait_s: float = 5.0  # for the log to take what a request writes
    log_queue_max: int = 10_000  # records on their way to the log

    idempotency_s: float = 3_600.0  # for how long an answer is given again under the same Idempotency-Key
    idempotency_max: int = 20_000  # keys kept; of more the oldest goes
    idempotency_bytes_max: int = 32 << 20  # of their answers

    forget_refuse_s: float = (
        0.0  # event time for which ids that were forgotten are left out if they come again
    )

    ready_age_s_max: float = 30.0  # not ready when behind the log for longer
    backlog_max: int = 200_000  # examples that the error memory may be behind before it skips some
    marks_max: int = 4_096  # positions remembered to tell what the base has learnt of the memory's evidence
    window: int = 10_000  # examples in the recent metrics

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError("port must be 0 to 65535")
        if not 1 <= self.candidates_max <= CANDIDATES_MAX:
            raise ValueError(f"candidates_max must be 1 to {CANDIDATES_MAX}, what a record may hold")
        if not 1 <= self.explain_candidates_max <= CANDIDATES_MAX:
            raise ValueError(f"explain_candidates_max must be 1 to {CANDIDATES_MAX}")
        if not 1 <= self.body_bytes_max <= RECORD_BYTES_MAX:
            raise ValueError(f"body_bytes_max must be 1 to {RECORD_BYTES_MAX}, what a record may hold")
        if self.freeze_after_examples < 0:
            raise ValueError("freeze_after_examples must not be negative")
        for name in (
            "concurrency_max", "connections_max", "log_queue_max", "backlog_max", "window",
            "idempotency_max", "idempotency_bytes_max",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 1 << 10 <= self.header_bytes_max <= 1 << 20:
            raise ValueError("header_bytes_max must be 1 KiB to 1 MiB")
        if not 0.0 < self.idempotency_s <= 7 * 86_400.0:
            raise ValueError("idempotency_s must be over 0 and at most a week")
        if not 0.0 <= self.rate_max <= 1e6:
            raise ValueError("rate_max must be 0 to 1000000 requests a second")
        if not 0.0 <= self.forget_refuse_s <= REFUSE_S_MAX:
            raise ValueError(f"forget_refuse_s must be 0 to {REFUSE_S_MAX:.0f} seconds, ten years")
        if not 1 <= self.explore_draws <= 10_000:
            raise ValueError("explore_draws must be 1 to 10000")
        if self.marks_max < 2:
            raise ValueError("marks_max must be at least 2")
        for name in ("read_timeout_s", "keep_alive_s", "stop_s", "log_wait_s", "ready_age_s_max"):
            if not 0.0 < getattr(self, name) <= 3600.0:
                raise ValueError(f"{name} must be over 0 and at most 3600 seconds")

"""The server's settings: the address, and the limits on all input."""

from typing import Literal

import msgspec

from ground.short_repr import ShortRepr
from learner.settings import WINDOW_MAX
from serving.nearest.settings import NearestSettings
from serving.nearest.settings import check_nearest as check_nearest
from stream.limits import CANDIDATES_MAX, RECORD_BYTES_MAX, REFUSE_S_MAX

CONNECTIONS_LIMIT = 1_000_000
"""The most that `connections_max` may be."""


class RankSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section [rank]: by what the server orders candidates."""

    by: str = ""  # arithmetic over targets and numbers of the candidates; "": the first target


class GuardSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section [server.guard]: a model that has become worse than a constant goes back by itself."""

    enabled: bool = False  # needs group.snapshots_kept of more than 2
    margin: float = 0.05  # nats a candidate, by which its log loss is above that of the best constant
    against: str = ""  # a model that is held, with which it is compared too; "": the constant only
    for_s: float = 10.0  # over so many seconds of event time
    examples_min: int = 500  # candidates in them; with fewer nothing is said

    def __post_init__(self) -> None:
        if not 0.0 < self.margin <= 10.0:
            raise ValueError("margin must be over 0 and at most 10 nats")
        if not 1.0 <= self.for_s <= 3_600.0:
            raise ValueError("for_s must be 1 to 3600 seconds of event time")
        if self.examples_min < 1:
            raise ValueError("examples_min must be at least 1")


class ServerSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The address and the limits of the server. A request over a limit is answered with a 4xx or 503."""

    host: str = "127.0.0.1"  # an address other than loopback needs tokens
    port: int = 8470  # 0: any free one
    hosts: tuple[str, ...] = ()  # `Host` names, besides localhost, that a server without tokens accepts
    tokens: str = ""  # file of bearer tokens, one `NAME SCOPES TOKEN` per line; "": FRESHET_TOKENS, or none
    rate_max: float = 0.0  # requests per second of one token; more are answered with 429. 0: no limit
    log_impressions: bool = True  # append each impression to topic `events` before it is answered
    show: int = 0  # candidates that are shown of an order whose request does not say; 0: all
    explore: Literal["greedy", "thompson"] = "greedy"  # the default order of candidates
    explore_draws: int = 127  # sampled orders per request, to estimate propensities
    explore_seed: int = 0  # the seed of a drawn order, together with the request id
    route_by: str = ""  # feature of the context whose value decides which of several models answers
    rows: Literal["float32", "float16", "int8"] = "float32"  # number format of rows in memory
    freeze_after_examples: int = 0
    """After so many labelled candidates the base model applies no more updates, and only the error memory
    continues: a frozen model for comparisons. 0: never. A restart starts from the newest snapshot."""

    candidates_max: int = 2_000  # in one request
    explain_candidates_max: int = 100  # in one request to /v1/explain
    body_bytes_max: int = 1 << 20
    header_bytes_max: int = 16 << 10  # request line and headers; more are answered with 431
    concurrency_max: int = 64  # running requests; more are answered with 503
    connections_max: int = 1_024  # open connections, including idle ones; more are answered with 503
    read_timeout_s: float = 10.0  # limit each for reading the head, reading the body, and writing the answer
    keep_alive_s: float = 75.0  # an idle connection is closed after this
    stop_s: float = 5.0  # time for running requests to finish when the server stops

    log_wait_s: float = 5.0  # time for the log to confirm the records of a request
    log_queue_max: int = 10_000  # pending records

    idempotency_s: float = 3_600.0  # how long an answer is kept and repeated for the same Idempotency-Key
    idempotency_max: int = 20_000  # keys kept; above this the caller with most keys loses its oldest
    idempotency_bytes_max: int = 32 << 20  # total size of the kept answers

    forget_refuse_s: float = (
        0.0  # event time after a forget request during which its ids are dropped from new records
    )

    ready_age_s_max: float = 30.0  # not ready if behind the log for longer
    backlog_max: int = 200_000  # examples; if the error memory is further behind, it skips some
    marks_max: int = 4_096  # positions kept to match base updates with the evidence of the memory
    window: int = 10_000  # examples in the recent metrics
    nearest: NearestSettings = NearestSettings()

    guard: GuardSettings = GuardSettings()

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError("port must be 0 to 65535")
        if not 1 <= self.candidates_max <= CANDIDATES_MAX:
            raise ValueError(f"candidates_max must be 1 to {CANDIDATES_MAX}, what a record may hold")
        if not 1 <= self.explain_candidates_max <= CANDIDATES_MAX:
            raise ValueError(f"explain_candidates_max must be 1 to {CANDIDATES_MAX}")
        if not 1 <= self.body_bytes_max <= RECORD_BYTES_MAX:
            raise ValueError(f"body_bytes_max must be 1 to {RECORD_BYTES_MAX}, what a record may hold")
        if not 0 <= self.show <= CANDIDATES_MAX:
            raise ValueError(f"show must be 0 (all) to {CANDIDATES_MAX}")
        if self.freeze_after_examples < 0:
            raise ValueError("freeze_after_examples must not be negative")
        for name in (
            "concurrency_max", "connections_max", "log_queue_max", "backlog_max", "window",
            "idempotency_max", "idempotency_bytes_max",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.window > WINDOW_MAX:
            raise ValueError(f"window must be at most {WINDOW_MAX:,}")
        if self.connections_max > CONNECTIONS_LIMIT:
            raise ValueError(f"connections_max must be at most {CONNECTIONS_LIMIT:,}")
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

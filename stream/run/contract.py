"""What a runner needs (a handler, a subscription, settings), and what it counts."""

from collections.abc import Collection, Sequence
from typing import Literal, Protocol

import msgspec

from ground.short_repr import ShortRepr
from stream.limits import check_bounds
from stream.log.base import Record
from stream.state.repeats import PRODUCERS_MAX
from stream.state.role_state import Commit


class Handler(Protocol):
    """The part of a role that processes records. It decides from its state and the records alone.

    How records are cut into calls of `handle`, and when a flush comes, must not change what it does. A class
    that names this one as its base is never `full` unless it says so.
    """

    def handle(self, records: Sequence[Record], commit: Commit) -> int | None:
        """Take records of one partition, in order; may emit into the commit.

        Returns:
            None: all were taken. A number: so many were, and the next one is in part. The runner commits, and
            then hands over that record and those after it again. Only if `may_cut` allows it.
        """

    def may_cut(self) -> bool:
        """Whether `handle` may take less than all records."""
        return False

    def flush(self, commit: Commit) -> None:
        """Write what has changed into the commit, which is written right after."""

    def committed(self) -> None:
        """A commit is written. What it emits is sent when this returns."""
        return

    def full(self) -> bool:
        """Whether so much has changed that the next commit should come early."""
        return False


class Subscription(msgspec.Struct, frozen=True):
    """The topic that a role reads, and its group."""

    topic: str
    group: str  # the name under which the log's lag tools see the role
    partitions: Collection[int] | None = None  # to begin with; None: all of the topic
    commits_offsets: bool = True  # to the log, for lag tools


class RunnerSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a role reads and commits."""

    commit_every_s: float = 0.1  # counted from the first record that is not committed
    commit_records_max: int = 20_000  # commit at once when so many are not
    commit_bytes_max: int = 64 << 20  # or so many bytes: what they change waits in memory
    read_max: int = 2000  # records per read
    read_bytes_max: int = 8 << 20
    wait_s: float = 0.05  # how long to wait for a record when there is none
    producers_max: int = (
        PRODUCERS_MAX  # per partition, whose last sequence numbers are kept; the stalest goes
    )
    journal_max: int = 1_000_000  # commits that the journal keeps, about 50 bytes each; the oldest go
    on_gap: Literal["stop", "skip"] = "stop"  # when the log has dropped records that were not consumed yet

    def __post_init__(self) -> None:
        check_bounds(
            self,
            ("commit_every_s", 0.0, 1e9),
            ("commit_records_max", 1, 1 << 30),
            ("commit_bytes_max", 1, 1 << 40),
            ("read_max", 1, 1_000_000),
            ("read_bytes_max", 1, 1 << 30),
            ("wait_s", 0.0, 60.0),
            ("producers_max", 1, 10_000_000),
            ("journal_max", 1, 1 << 30),
        )


RUNNER_DEFAULTS = RunnerSettings()


class Progress(msgspec.Struct):
    """What a runner has done since it was made; times are wall clock, Unix ms."""

    records: int = 0  # handed to the handler
    duplicates: int = 0  # dropped as sent twice
    skipped: int = 0  # gone from the log before they were read (on_gap="skip")
    commits: int = 0
    commit_s: float = 0.0  # spent in them, until the state was written
    sent: int = 0
    lag_records: int = 0  # in the log, not consumed yet
    newest_ingest_ms: int = 0

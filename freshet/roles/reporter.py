"""Reports of a role that reads the log: to Prometheus, to topic `roles`, and as log lines."""

import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec
from prometheus_client.metrics_core import Metric

from freshet.roles.joined_metrics import joined_metrics, joined_share
from freshet.roles.role_metrics import MetricValues, RoleMetrics, RoleSource, Tables, TargetQuality
from freshet.roles.voice import Voice
from stream.group.membership import Member
from stream.group.signs import MemberStatus
from stream.join.joiner import Joiner
from stream.log.base import Log
from stream.run.runner import Runner

if TYPE_CHECKING:
    # a joiner reports without loading what only learners need
    from learner.role.learner import Learner
    from learner.shards.live.kept import KeptShard

SAY_EVERY_S = 10.0
REPORT_EVERY_S = 1.0
RETENTION_EVERY_S = 60.0


def of_joiner(joiner: Joiner, runner: Runner) -> RoleSource:
    """The metrics of a joiner and of the partitions that its runner holds."""

    def values() -> MetricValues:
        counts = msgspec.to_builtins(joiner.counts)
        return {
            "undecided": joiner.undecided,
            "partitions": len(runner.partitions),
            **(
                {"waiting": waiting, "waiting_bytes": joiner.waiting_bytes}
                if (waiting := joiner.waiting)
                else {}
            ),
            "joined_share": joined_share(joiner.counts),
            **(
                {"skew": round(skew.largest, 3), "largest_entity": round(skew.largest_entity, 3)}
                if (skew := joiner.skew)
                else {}
            ),
            **{name: count for name, count in counts.items() if count},
        }

    def clocks() -> Mapping[int, float]:
        return {p: clock for p in runner.positions() if (clock := joiner.clock(p))}

    def more() -> Iterator[Metric]:
        sent = [] if joiner.skew is None else joiner.skew.sent
        return joined_metrics(joiner.meetings.counts(), joiner.keys.misplaced(), sent)

    return RoleSource(values, clocks=clocks, ahead=joiner.ahead.counts, more=more)


def of_learner(learner: "Learner | KeptShard", more: Callable[[], MetricValues] = dict) -> RoleSource:
    """The metrics of a learner. Table counts are relative to now, because loading a state counts too.

    Args:
        more: gives further metrics by name.
    """
    before = learner.table_counts()

    def tables() -> Tables:
        return {
            name: [rows, *(n - then for n, then in zip(counts, before[name][1:], strict=True))]
            for name, (rows, *counts) in learner.table_counts().items()
        }

    def targets() -> TargetQuality:
        further = list(learner.saved_metrics.by_name.items())[1:]
        return {
            name: {
                metric: value for metric, value in metrics.recent().items() if isinstance(value, int | float)
            }
            for name, metrics in further
        }

    return RoleSource(lambda: {**learner.metric_values(), **more()}, tables, targets)


class Reporter:
    """Reports on one role, and applies the log's retention once a minute.

    A context manager: inside it the role answers `/metrics`.

    Args:
        runner: the role's runner.
        source: the role's own metrics.
        metrics: the endpoint for Prometheus.
        trim: drops records that no reader needs; called once a minute.
    """

    def __init__(
        self,
        voice: Voice,
        log: Log,
        member: Member,
        runner: Runner,
        source: RoleSource,
        metrics: RoleMetrics,
        trim: Callable[[], None] = lambda: None,
    ) -> None:
        self._voice = voice
        self._log = log
        self._member = member
        self._progress = runner.progress
        self._source = source
        self._metrics = metrics
        self._trim = trim
        self._reported_s = float("-inf")
        self._said_s = self._retained_s = time.monotonic()
        self._records = 0  # when it was last logged

    def __enter__(self) -> Self:
        self._metrics.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.__exit__(kind, error, trace)
        if error is None:
            self._say("stopped")

    def report(self) -> None:
        """Do the reports that are due; call it a few times a second."""
        now_s = time.monotonic()
        if now_s - self._reported_s >= REPORT_EVERY_S:
            self._reported_s = now_s
            self._tell()
        if now_s - self._retained_s >= RETENTION_EVERY_S:
            self._retained_s = now_s
            self._log.enforce_retention()
            self._trim()
        records = self._progress.records
        if now_s - self._said_s >= SAY_EVERY_S and records != self._records:
            rate = (records - self._records) / (now_s - self._said_s)
            self._said_s, self._records = now_s, records
            self._say("working", per_second=round(rate, 1))

    def _tell(self) -> None:
        """Refresh the metrics for Prometheus, and those in topic `roles` for servers and `freshet status`."""
        values, tables = self._source.values(), self._source.tables()
        self._metrics.refresh(values, tables, self._source.targets())
        numbers = {"records": self._progress.records, "skipped": self._progress.skipped, **values}
        if clocks := self._source.clocks():
            numbers["clock"] = max(clocks.values())  # a partition without events lags
        known = {name: float(value) for name, value in numbers.items() if value is not None}
        self._member.report(MemberStatus(known, {name: list(counts) for name, counts in tables.items()}))

    def _say(self, event: str, **more: object) -> None:
        fields: dict[str, object] = {
            "records": self._progress.records,
            **more,
            "lag": self._progress.lag_records,
            "duplicates": self._progress.duplicates,
            "commits": self._progress.commits,
            **self._source.values(),
        }
        self._voice.log(event, "info", **fields)

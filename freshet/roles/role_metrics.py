"""Prometheus metrics of a role that reads the log: an HTTP endpoint in threads of its own.

Names follow Prometheus' conventions: base units, `_total` for counters, the prefix `freshet_`. The
role's loop only copies its numbers, about once a second.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from freshet.errors import ConfigError
from freshet.roles.metrics_port import MetricsPort
from freshet.sections.stream_and_metrics import MetricsSettings
from ground.prometheus import counter, gauge
from stream.log.base import Log
from stream.log.lag import Lag, LagMeter
from stream.log.lag_metrics import lag_metrics
from stream.run.contract import Progress
from stream.run.runner import Runner

MetricValues = Mapping[str, Any]
"""A role's own metrics by name, as in its log lines; None: not known yet."""


Tables = Mapping[str, Sequence[int]]
"""For each table: rows, then the counts of `TABLES`."""

TargetQuality = Mapping[str, Mapping[str, float]]
"""For each further target: its known metrics by name."""


class RoleSource(NamedTuple):
    """Functions that return a role's own metrics; the first three are called in the role's thread.

    Attributes:
        values: metrics by name.
        tables: table -> rows, then the counts of `TABLES`.
        targets: further target -> its metrics over the recent window.
        clocks: partition -> event time, Unix seconds.
        ahead: producer -> events ahead of the log's clock since the role was started.
        more: further metrics, ready for Prometheus.
    """

    values: Callable[[], MetricValues]
    tables: Callable[[], Tables] = dict
    targets: Callable[[], TargetQuality] = dict
    clocks: Callable[[], Mapping[int, float]] = dict
    ahead: Callable[[], Mapping[str, int]] = dict
    more: Callable[[], Iterable[Metric]] = tuple


class Series(NamedTuple):
    """The name, help text and type of one metric."""

    name: str  # without `_total`
    text: str
    counts: bool = True  # a counter, else a gauge


JOIN = {
    "impressions": Series("freshet_join_impressions", "Impressions accepted."),
    "actions": Series("freshet_join_actions", "Actions accepted before their request was decided."),
    "examples": Series("freshet_join_examples", "Examples emitted: decided requests."),
    "positives": Series("freshet_join_positives", "Labels of 1 in emitted examples."),
    "negatives": Series("freshet_join_negatives", "Labels of 0 in emitted examples."),
    "duplicate_impressions": Series("freshet_join_duplicate_impressions", "Duplicate impressions, dropped."),
    "duplicate_actions": Series(
        "freshet_join_duplicate_actions", "Actions dropped as duplicates, or because a later one had arrived."
    ),
    "late": Series("freshet_join_late_actions", "Actions that arrived after their request was decided."),
    "orphans": Series("freshet_join_orphan_actions", "Actions and exposures whose impression never arrived."),
    "subsampled": Series("freshet_join_subsampled_candidates", "Negatives dropped by negative_rate."),
    "emptied": Series("freshet_join_emptied_requests", "Requests without a kept candidate, dropped."),
    "early": Series("freshet_join_early_requests", "Requests decided early because pending_max was reached."),
    "forgotten_early": Series(
        "freshet_join_forgotten_early_requests",
        "Decided requests forgotten early because pending_max was reached.",
    ),
    "forgets": Series("freshet_join_forgets", "Forget requests forwarded, counted per partition."),
    "forgotten": Series("freshet_join_forgotten_requests", "Waiting requests changed by a forget request."),
    "ahead": Series(
        "freshet_join_ahead_events", "Events further ahead of the log's clock than clock_ahead_s."
    ),
    "exposures": Series("freshet_join_exposures", "Exposures accepted before their request was decided."),
    "duplicate_exposures": Series(
        "freshet_join_duplicate_exposures",
        "Exposures that said nothing new, or that a later one had overtaken.",
    ),
    "late_exposures": Series(
        "freshet_join_late_exposures", "Exposures that arrived after their request was decided, dropped."
    ),
    "exposed": Series(
        "freshet_join_exposed_requests", "Requests decided of which somebody had said what was shown."
    ),
    "unshown": Series(
        "freshet_join_unshown_candidates", "Candidates left out of examples because they were not shown."
    ),
    "shown_by_click": Series(
        "freshet_join_shown_by_click_candidates",
        "Clicked candidates that were said not to be shown; trained on all the same.",
    ),
    "corrections": Series(
        "freshet_join_corrections", "Labels that were trained on and have changed since: corrected."
    ),
    "implied": Series(
        "freshet_join_implied_labels", "Labels that no action said, but one of a further target implies."
    ),
    "long_unsaid": Series(
        "freshet_join_long_unsaid_requests",
        "Requests of more than 10 candidates decided as if all were shown: nobody had said which.",
    ),
    "entities": Series("freshet_join_entity_events", "Entity events forwarded."),
    "without_entity": Series(
        "freshet_join_examples_without_entity",
        "Examples sharded by their request's id, because they do not name join.shard_by's entity.",
    ),
    "skew": Series(
        "freshet_join_skew",
        "Of sharded examples: the share of the partition that got most, over an equal share.",
        False,
    ),
    "largest_entity": Series(
        "freshet_join_largest_entity_share",
        "Of sharded examples, the share that the most frequent entity has at least.",
        False,
    ),
    "joined_share": Series(
        "freshet_join_joined_share", "Of the actions, the share that met their impression.", False
    ),
    "partitions": Series("freshet_join_partitions", "Partitions that this joiner holds.", False),
    "undecided": Series("freshet_join_undecided_requests", "Requests whose window is open.", False),
    "waiting": Series("freshet_join_waiting_requests", "Requests that wait for further targets only.", False),
    "waiting_bytes": Series("freshet_join_waiting_bytes", "Bytes of these requests.", False),
}
LEARN = {
    "examples": Series("freshet_learn_examples", "Candidates trained on."),
    "updates": Series("freshet_learn_updates", "Model updates published."),
    "quarantined": Series(
        "freshet_learn_quarantined_groups",
        "Groups skipped: their loss was not finite, or your network failed.",
    ),
    "forgets": Series("freshet_learn_forgets", "Forget requests applied, counted per partition."),
    "of_history": Series(
        "freshet_learn_history_examples", "Examples of the log skipped because `freshet train` had used them."
    ),
    "order": Series(
        "freshet_learn_order", "Offset in topic `models` of the last order obeyed; -1: none.", False
    ),
    "held": Series(
        "freshet_learn_held", "1 if nothing is learned since the model went back (`freshet resume`).", False
    ),
    "passed_over": Series(
        "freshet_learn_passed_over_candidates", "Candidates passed over since the model went back."
    ),
    "refused": Series(
        "freshet_learn_refused_candidates", "Candidates skipped because they have a forgotten id."
    ),
    "full": Series("freshet_learn_sightings_full", "Occurrences of new ids that a full table refused."),
    "rows": Series("freshet_learn_rows", "Rows of the embedding tables.", False),
    "entities": Series("freshet_learn_entities", "Entities of which attributes are known.", False),
    "rows_at_rest": Series(
        "freshet_learn_rows_at_rest", "Those of the rows that are on disk. Absent without memory_rows.", False
    ),
    "rows_read": Series(
        "freshet_learn_rows_read", "Rows that came back from the disk. Absent without memory_rows."
    ),
    "turns": Series("freshet_learn_turns", "Turns with requests, of a learner in shards."),
    "turn_s": Series("freshet_learn_turn_seconds", "Time spent in turns with requests."),
    "turn_bytes": Series("freshet_learn_turn_sent_bytes", "Bytes that this shard has sent to the others."),
    "busiest_over_fair_share": Series(
        "freshet_learn_busiest_over_fair_share",
        "Requests of the busiest shard of each turn, over its fair share: 1 is best.",
        False,
    ),
    "auc": Series("freshet_learn_auc", "Progressive AUC over the recent window.", False),
    "logloss": Series("freshet_learn_logloss", "Progressive log loss over the recent window, nats.", False),
}
TABLES = (
    Series("freshet_learn_rows_admitted", "Rows created, one for each admitted id."),
    Series(
        "freshet_learn_sightings_refused",
        "Occurrences that created no row: the id is not admitted yet, or the table is full.",
    ),
    Series("freshet_learn_rows_expired", "Rows removed because their id had not occurred for ttl_s."),
    Series("freshet_learn_rows_evicted", "Rows removed to make room for new ones at rows_max."),
)
"""The counts of each of a learner's tables, in the order of `learner.table_counts` after the rows."""
FIGURES = {"join": JOIN, "learn": LEARN}
STAGES = {"join": "joiner", "learn": "learner"}


class RoleMetrics:
    """Answers `/metrics` for one role; a context manager. With port 0 it does nothing.

    Args:
        role: "join" or "learn".
        topic: the topic that the role reads.
        runner: the role's runner.
        source: the role's metrics; read once now, then replaced by `refresh`.
    """

    def __init__(
        self,
        settings: MetricsSettings,
        role: str,
        log: Log,
        topic: str,
        runner: Runner,
        source: RoleSource,
    ) -> None:
        self._address = settings.host, getattr(settings, f"{role}_port")
        self._role = role
        self._meter = LagMeter(log, topic, runner.positions)
        self._state = RoleCollector(
            role, runner.progress, source.values(), self._meter, source.clocks, source.ahead, source.more
        )
        self._port: MetricsPort | None = None

    def refresh(self, values: MetricValues, tables: Tables, targets: TargetQuality) -> None:
        """Replace the metrics.

        Raises:
            Exception: the error that ended a thread that measures lag or answers.
        """
        self._meter.check()
        if self._port is not None:
            self._port.check()
        self._state.values = values
        self._state.tables = tables
        self._state.targets = targets

    def __enter__(self) -> Self:
        host, port = self._address
        if not port:
            return self
        registry = CollectorRegistry()
        registry.register(self._state)
        try:
            self._port = MetricsPort(host, port, registry)
        except OSError as error:
            raise ConfigError(
                f"metrics.{self._role}_port = {port}: cannot listen on {host}: {error.strerror or error}; "
                "choose another port, or 0 for no metrics"
            ) from None
        self._meter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._meter.stop()
        if self._port is not None:
            self._port.close()


class Lags(Protocol):
    """The part of a lag meter that is used here."""

    @property
    def lags(self) -> list[Lag]: ...
    @property
    def up(self) -> bool: ...


class RoleCollector(Collector):
    """A role's metrics for Prometheus.

    The role's thread replaces `values`, `tables` and `targets` and never changes them in place.
    """

    def __init__(
        self,
        role: str,
        progress: Progress,
        values: MetricValues,
        meter: Lags,
        clocks: Callable[[], Mapping[int, float]],
        ahead: Callable[[], Mapping[str, int]],
        more: Callable[[], Iterable[Metric]] = tuple,
    ) -> None:
        self.values = values
        self.tables: Tables = {}
        self.targets: TargetQuality = {}
        self._role = role
        self._progress = progress
        self._meter = meter
        self._clocks = clocks
        self._ahead = ahead
        self._more = more

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        progress = self._progress
        role = self._role
        yield _labelled(
            "freshet_records_taken", "Records read from the log, without duplicates.", role, progress.records
        )
        yield _labelled(
            "freshet_records_repeated", "Records dropped as duplicates.", role, progress.duplicates
        )
        yield _labelled(
            "freshet_records_skipped",
            "Records that the log had dropped before they were read.",
            role,
            progress.skipped,
        )
        yield _labelled("freshet_records_sent", "Records sent to the log.", role, progress.sent)
        yield _labelled("freshet_commits", "Commits of the role's state.", role, progress.commits)
        yield _labelled(
            "freshet_commit_seconds", "Time spent in commits of the role's state.", role, progress.commit_s
        )
        newest = GaugeMetricFamily(
            "freshet_newest_record_timestamp_seconds",
            "Ingest time of the newest record read, Unix time.",
            labels=["role"],
        )
        newest.add_metric([role], progress.newest_ingest_ms / 1e3 if progress.newest_ingest_ms else math.nan)
        yield newest
        yield from self._own()
        yield from lag_metrics(STAGES[role], self._meter.lags)
        yield gauge("freshet_log_up", "1 if the log answered the last request, else 0.", self._meter.up)

    def _own(self) -> Iterator[Metric]:
        values = self.values
        for name, series in FIGURES[self._role].items():
            value = values.get(name)
            if series.counts:
                yield counter(series.name, series.text, value or 0)
            else:
                yield gauge(series.name, series.text, math.nan if value is None else value)
        letters = CounterMetricFamily(
            "freshet_dead_letters", "Records that could not be used.", labels=["stage"]
        )
        letters.add_metric([STAGES[self._role]], values.get("dead_letters") or 0)
        yield letters
        yield from self._of_tables()
        yield from self._of_targets()
        yield from self._more()
        clocks = self._clocks()
        if clocks:
            family = GaugeMetricFamily(
                "freshet_join_clock_timestamp_seconds",
                "Event time of a partition, Unix time. Requests are decided only when it advances.",
                labels=["partition"],
            )
            for partition, clock in sorted(clocks.items()):
                family.add_metric([str(partition)], clock)
            yield family
        offenders = self._ahead()
        if offenders:
            counts = CounterMetricFamily(
                "freshet_join_ahead_events_by_producer",
                "Events further ahead of the log's clock than clock_ahead_s, since the role was started, by "
                "producer: at most 100 names, the rest as (others).",
                labels=["producer"],
            )
            for producer, events in sorted(offenders.items()):
                counts.add_metric([producer], events)
            yield counts

    def _of_tables(self) -> Iterator[Metric]:
        if not self.tables:
            return
        for column, series in enumerate(TABLES, start=1):
            family = CounterMetricFamily(series.name, series.text, labels=["table"])
            for table, counts in self.tables.items():
                family.add_metric([table], counts[column])
            yield family

    def _of_targets(self) -> Iterator[Metric]:
        if not self.targets:
            return
        family = GaugeMetricFamily(
            "freshet_learn_target_quality",
            "Progressive metrics over the recent window of each further target of `[targets]`, by metric. "
            "Absent with one target.",
            labels=["target", "metric"],
        )
        for target, metrics in self.targets.items():
            for metric, value in metrics.items():
                family.add_metric([target, metric], value)
        yield family


def _labelled(name: str, text: str, role: str, value: float) -> Metric:
    family = CounterMetricFamily(name, text, labels=["role"])
    family.add_metric([STAGES[role]], value)
    return family

"""Reports of ingest: to Prometheus, to topic `roles`, and as log lines; of each source."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from freshet.errors import ConfigError
from freshet.roles.metrics_port import MetricsPort
from freshet.roles.role_metrics import Series
from freshet.roles.voice import Voice
from freshet.sections.stream_and_metrics import MetricsSettings
from ground.prometheus import gauge
from stream.group.membership import Member
from stream.group.signs import MemberStatus
from stream.log.base import Log
from stream.log.lag import Lag, LagMeter
from stream.log.lag_metrics import lag_metrics
from stream.run.contract import Progress
from stream.run.runner import Runner

SAY_EVERY_S = 10.0
REPORT_EVERY_S = 1.0
STAGE = "ingest"

INGEST = {
    "records": Series("freshet_ingest_records", "Records of a source that were taken."),
    "impressions": Series("freshet_ingest_impressions", "Impressions made of a source's records."),
    "actions": Series("freshet_ingest_actions", "Actions made of a source's records."),
    "entities": Series("freshet_ingest_entity_events", "Entity events made of a source's records."),
    "skipped": Series("freshet_ingest_skipped_records", "Records that `only` leaves out."),
    "deletions": Series("freshet_ingest_deletions", "Records without a value and deleted rows, ignored."),
    "dead_letters": Series("freshet_ingest_dead_letters", "Records of a source that could not be used."),
    "showings": Series("freshet_match_showings", "Impressions among which actions look for theirs."),
    "seeking": Series("freshet_match_actions", "Actions that look for their impression."),
    "matched": Series("freshet_match_matched_actions", "Actions whose impression and candidate were found."),
    "unmatched": Series("freshet_match_unmatched_actions", "Actions whose impression was not found in time."),
    "early": Series(
        "freshet_match_early_actions", "Actions that gave up early because waiting_max was reached."
    ),
}


class SourceView(NamedTuple):
    """What is reported of one source, or of topic `matches`."""

    name: str
    member: Member
    runner: Runner
    log: Log
    topic: str
    counts: Callable[[], Mapping[str, int]]


class SourceReport(NamedTuple):
    """One source at a moment."""

    name: str
    progress: Progress
    counts: Mapping[str, int]
    lags: Sequence[Lag]


class IngestCollector(Collector):
    """Ingest's metrics for Prometheus; `look` returns all sources as they are."""

    def __init__(self, look: Callable[[], tuple[list[SourceReport], bool]]) -> None:
        self._look = look

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        sources, up = self._look()
        for name, series in INGEST.items():
            family = CounterMetricFamily(series.name, series.text, labels=["source"])
            for source in sources:
                if name in source.counts:
                    family.add_metric([source.name], source.counts[name])
            yield family
        letters = CounterMetricFamily(
            "freshet_dead_letters", "Records that could not be used.", labels=["stage"]
        )
        letters.add_metric([STAGE], sum(source.counts.get("dead_letters", 0) for source in sources))
        yield letters
        repeated = CounterMetricFamily(
            "freshet_ingest_repeated_records",
            "Records with a number that their producer had sent before, dropped.",
            labels=["source"],
        )
        for source in sources:
            repeated.add_metric([source.name], source.progress.duplicates)
        yield repeated
        yield from lag_metrics(STAGE, [lag for source in sources for lag in source.lags])
        yield gauge("freshet_log_up", "1 if the log answered the last request, else 0.", up)


class IngestMetrics:
    """Answers `/metrics` of ingest, and reports on its sources; a context manager."""

    def __init__(self, settings: MetricsSettings, voice: Voice, views: Sequence[SourceView]) -> None:
        self._address = settings.host, settings.ingest_port
        self._voice = voice
        self._views = views
        self._meters = [LagMeter(view.log, view.topic, view.runner.positions) for view in views]
        self._port: MetricsPort | None = None
        self._reported_s = float("-inf")
        self._said_s = time.monotonic()
        self._records = [0] * len(views)

    def __enter__(self) -> Self:
        host, port = self._address
        if port:
            registry = CollectorRegistry()
            registry.register(IngestCollector(self._look))
            try:
                self._port = MetricsPort(host, port, registry)
            except OSError as error:
                raise ConfigError(
                    f"metrics.ingest_port = {port}: cannot listen on {host}: {error.strerror or error}; "
                    "choose another port, or 0 for no metrics"
                ) from None
        for meter in self._meters:
            meter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for meter in self._meters:
            meter.stop()
        if self._port is not None:
            self._port.close()
        if error is None:
            self._say("stopped")

    def report(self) -> None:
        """Do the reports that are due; call it a few times a second.

        Raises:
            Exception: the error that ended a thread that measures lag or answers.
        """
        now_s = time.monotonic()
        if now_s - self._reported_s >= REPORT_EVERY_S:
            self._reported_s = now_s
            for meter in self._meters:
                meter.check()
            if self._port is not None:
                self._port.check()
            for view in self._views:
                numbers = {name: float(count) for name, count in view.counts().items()}
                view.member.report(MemberStatus(numbers))
        if now_s - self._said_s >= SAY_EVERY_S:
            self._said_s = now_s
            self._say("working")

    def _look(self) -> tuple[list[SourceReport], bool]:
        seen = [
            SourceReport(view.name, view.runner.progress, view.counts(), meter.lags)
            for view, meter in zip(self._views, self._meters, strict=True)
        ]
        return seen, all(meter.up for meter in self._meters)

    def _say(self, event: str) -> None:
        for index, (view, meter) in enumerate(zip(self._views, self._meters, strict=True)):
            records = view.runner.progress.records
            if records != self._records[index] or event != "working":
                self._records[index] = records
                lag = sum(lag.records for lag in meter.lags)
                self._voice.log(event, "info", source=view.name, lag=lag, **view.counts())

"""Metrics for Prometheus: of requests as they end, and of the replica's state when Prometheus asks.

Names follow Prometheus' conventions: base units, `_total` for counters, the prefix `freshet_`.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from ground.prometheus import counter, gauge
from serving.replica.status import HeldModel, ModelStatus, NearestStatus, Quality, ShownStatus, TargetStatus
from serving.watch.pulse import SCORE_PATH, Totals
from stream.log.lag_metrics import lag_metrics

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
WATCHING = ("/live.", "/v1/live", "/v1/model", "/v2/health/", "/metrics", "/openapi.json")
"""Prefixes of the paths that monitoring reads; `/` is one too."""

BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class Known(Protocol):
    """The metrics of the replica."""

    def status(self) -> ModelStatus: ...


class Written(Protocol):
    """The metrics of the writer."""

    @property
    def records(self) -> int: ...
    @property
    def batches(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class Telemetry:
    """The metrics of one server, in its own registry."""

    def __init__(self, replica: Known, writer: Written) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "freshet_requests",
            "Requests that ended, by path and status.",
            ["path", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "freshet_request_seconds",
            "Time from a request's first byte to its answer.",
            ["path"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.candidates = Counter("freshet_candidates", "Candidates scored.", registry=self.registry)
        self.unlogged = Counter(
            "freshet_impressions_unlogged",
            "Impressions served that the log did not confirm.",
            registry=self.registry,
        )
        self.repeated = Counter(
            "freshet_requests_repeated",
            "Requests answered as another with the same idempotency key was.",
            registry=self.registry,
        )
        self.registry.register(_State(replica, writer))
        self._ended: dict[tuple[str, int], tuple[Counter, Histogram]] = {}  # a cache of the children

    def request_ended(self, path: str, status: int, seconds: float) -> None:
        """Count one request. A metric's lookup by labels costs more than counting, so it is cached."""
        found = self._ended.get((path, status))
        if found is None:
            found = self.requests.labels(path, str(status)), self.seconds.labels(path)
            self._ended[path, status] = found
        count, times = found
        count.inc()
        times.observe(seconds)

    def request_repeated(self) -> None:
        """Count one retry."""
        self.repeated.inc()

    def totals(self) -> Totals:
        """Requests so far, without those of monitoring."""
        requests = errors = 0.0
        for sample in _samples(self.requests, "_total"):
            if sample.labels["path"].startswith(WATCHING) or sample.labels["path"] == "/":
                continue
            requests += sample.value
            errors += sample.value if sample.labels["status"].startswith("5") else 0.0
        buckets = sorted(
            (float(sample.labels["le"]), sample.value)
            for sample in _samples(self.seconds, "_bucket")
            if sample.labels["path"] == SCORE_PATH
        )
        (scored,) = _samples(self.candidates, "_total")
        (unlogged,) = _samples(self.unlogged, "_total")
        return Totals(requests, errors, scored.value, unlogged.value, tuple(buckets))

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def _samples(metric: Counter | Histogram, ending: str) -> list[Sample]:
    return [s for family in metric.collect() for s in family.samples if s.name.endswith(ending)]


class _State(Collector):
    """Reads the replica and the writer whenever metrics are requested."""

    def __init__(self, replica: Known, writer: Written) -> None:
        self.replica = replica
        self.writer = writer

    def describe(self) -> list[Metric]:
        return []  # names are known in advance: registration must not read a replica that still loads

    def collect(self) -> Iterator[Metric]:
        status = self.replica.status()
        yield from _gauges(status)
        yield from _counters(status)
        yield from lag_metrics("server", status.lag)
        if status.shown:
            yield from _shown(status.shown)
        if status.nearest:
            yield from _nearest(status.nearest)
        yield counter("freshet_log_records", "Records appended to the log.", self.writer.records)
        yield counter("freshet_log_batches", "Appends that they took.", self.writer.batches)
        yield counter("freshet_log_failures", "Appends that the log refused.", self.writer.failures)
        yield gauge("freshet_log_waiting_records", "Records on their way to the log.", self.writer.waiting)


def _gauges(status: ModelStatus) -> Iterator[Metric]:
    yield gauge("freshet_ready", "1 if the server should be sent requests.", status.ready)
    yield gauge(
        "freshet_freshness_seconds",
        "Now less the ingest time of the newest example in what answers (weights and error memory).",
        math.nan if status.freshness_s is None else status.freshness_s,
    )
    yield gauge(
        "freshet_base_freshness_seconds",
        "Now less the ingest time of the newest example in the weights.",
        math.nan if status.base_freshness_s is None else status.base_freshness_s,
    )
    yield gauge("freshet_behind_seconds", "For how long the log's end was not reached.", status.behind_s)
    yield gauge("freshet_frozen", "1 if the base follows no updates any more.", status.frozen)
    yield gauge("freshet_held", "1 if nothing is learned since the model went back.", status.held)
    if status.guard:
        excess = status.guard.excess
        yield gauge(
            "freshet_guard_excess_nats",
            "Log loss of what was served over the best constant's, or over that of `server.guard.against`.",
            math.nan if excess is None else excess,
        )
        yield gauge("freshet_guard_armed", "1 if the guard may let the model go back.", status.guard.armed)
    yield gauge("freshet_memory_evidence", "Examples the error memory stands on.", status.memory.evidence)
    yield gauge("freshet_memory_gate_ratio", "Share of the correction that is applied.", status.memory.gate)
    yield gauge("freshet_memory_bytes", "Bytes of the error memory.", status.memory.bytes)
    rows = GaugeMetricFamily("freshet_table_rows", "Rows of the embedding tables.", labels=["table"])
    for table, count in status.table_rows.items():
        rows.add_metric([table], count)
    yield rows
    info = GaugeMetricFamily("freshet_model_info", "1; its label names the model.", labels=["version"])
    info.add_metric([status.version], 1.0)
    yield info
    trust = GaugeMetricFamily(
        "freshet_trust_ratio",
        "By target, the share of the model beside the running rate: 1 until it has lost to that.",
        labels=["target"],
    )
    for target, share in status.trust.items():
        trust.add_metric([target], share)
    yield trust
    quality = GaugeMetricFamily(
        "freshet_quality",
        "Progressive metrics of the predictions, by metric, prediction and span.",
        labels=["metric", "prediction", "span"],
    )
    for labels, value in _qualities(status.base, status.corrected):
        quality.add_metric(labels, value)
    yield quality
    if further := status.further:
        yield from _target_quality(further)
    if held := status.several:
        yield from _model_gauges(held)


def _shown(status: ShownStatus) -> Iterator[Metric]:
    """Absent until a request had several items."""
    texts: dict[str, tuple[str, float | None]] = {
        "candidates": ("Candidates that were shown lately, behind these numbers.", status.candidates),
        "items": ("Different items among them.", status.items),
        "coverage_ratio": ("Those items over all items with a row in the model.", status.coverage),
        "gini_ratio": ("Of how often each of them was shown: 0 all alike, to 1 one of many.", status.gini),
        "young_ratio": ("Share that was first shown less than a day before.", status.young),
    }
    for name, (text, value) in texts.items():
        yield gauge(f"freshet_shown_{name}", text, math.nan if value is None else value)


def _nearest(status: NearestStatus) -> Iterator[Metric]:
    yield gauge("freshet_nearest_ready", "1 if the index of items is built.", status.ready)
    yield gauge("freshet_nearest_items", "Items that can be found.", status.items)
    yield gauge("freshet_nearest_entries", "Distinct values and pairs of the items.", status.entries)
    yield counter("freshet_nearest_evicted", "Items that had to make room (items_max).", status.evicted)
    yield counter("freshet_nearest_examples_read", "Examples read for the index.", status.examples_read)


def _target_quality(further: Mapping[str, TargetStatus]) -> Iterator[Metric]:
    """A metric of its own: queries and alerts on `freshet_quality` go on to see the first target alone."""
    quality = GaugeMetricFamily(
        "freshet_target_quality",
        "Progressive metrics of each further target of `[targets]`, among the candidates that it is learned "
        "of: of an event given its `of`, of a value `mae`, `rmse`, `mean` and `calibration` (ratio of sums). "
        "Absent with one target.",
        labels=["target", "metric", "prediction", "span"],
    )
    for name, target in further.items():
        for labels, value in _qualities(target.base, target.corrected):
            quality.add_metric([name, *labels], value)
    yield quality
    complete = GaugeMetricFamily(
        "freshet_target_complete",
        "1 if a further target's metrics see all labels; 0 if some come after `observe_s`, which no metric "
        "counts. Absent with one target.",
        labels=["target"],
    )
    for name, target in further.items():
        complete.add_metric([name], float(target.complete))
    yield complete


def _model_gauges(held: Mapping[str, HeldModel]) -> Iterator[Metric]:
    """Metrics of their own: those without the label `model` are of the model with the largest share."""
    texts = {
        "share": "Share of the entities that a model answers. These metrics are absent with one model.",
        "ready": "1 if a model can answer.",
        "freshness_seconds": "`freshet_freshness_seconds` of a model.",
    }
    for name, text in texts.items():
        family = GaugeMetricFamily(f"freshet_model_{name}", text, labels=["model"])
        for model, one in held.items():
            value = getattr(one, name.replace("_seconds", "_s"))
            family.add_metric([model], math.nan if value is None else float(value))
        yield family
    duels = GaugeMetricFamily(
        "freshet_model_difference",
        "A model's difference from the one with the largest share, with the interval of a confidence "
        "sequence (`bound` is `low`, `high` or `value`): `logloss` in nats a candidate, of all requests; "
        "`clicks` a request, of those that each answered.",
        labels=["model", "metric", "bound"],
    )
    for model, one in held.items():
        if one.duel is not None:
            pairs = (("logloss", one.duel.logloss_difference), ("clicks", one.duel.clicks_difference))
            for metric, interval in pairs:
                for bound, value in zip(("value", "low", "high"), interval or (), strict=False):
                    duels.add_metric([model, metric, bound], value)
    yield duels
    quality = GaugeMetricFamily(
        "freshet_model_quality",
        "Progressive metrics of each model's predictions, over all requests, whichever model answered.",
        labels=["model", "metric", "prediction", "span"],
    )
    for model, one in held.items():
        for labels, value in _qualities(one.base, one.corrected):
            quality.add_metric([model, *labels], value)
    yield quality


def _model_counters(held: Mapping[str, HeldModel]) -> Iterator[Metric]:
    texts = {
        "answered": "Requests that a model answered.",
        "failed": "Requests that another model answered and that this one could not score.",
    }
    for name, text in texts.items():
        family = CounterMetricFamily(f"freshet_model_{name}", text, labels=["model"])
        for model, one in held.items():
            family.add_metric([model], getattr(one, name))
        yield family


def _qualities(base: Quality, corrected: Quality) -> Iterator[tuple[list[str], float]]:
    """Each known metric, with its labels metric, prediction and span."""
    for prediction, record in (("base", base), ("corrected", corrected)):
        for span, summary in (("overall", record.overall), ("recent", record.recent)):
            for metric, value in summary.items():
                if isinstance(value, int | float):
                    yield [metric, prediction, span], value


def _feature_counters(status: ModelStatus) -> Iterator[Metric]:
    """By feature; Prometheus asks for one family at a time."""
    texts = {
        "ids": "Ids of scored candidates that were looked up.",
        "unknown_ids": "Ids of scored candidates that have no row in the model.",
        "missing": "Scored candidates without a value of the feature.",
    }
    for name, text in texts.items():
        family = CounterMetricFamily(f"freshet_scored_{name}", text, labels=["feature"])
        for feature, counts in status.scored_features.items():
            family.add_metric([feature], getattr(counts, name.removesuffix("_ids")))
        yield family


def _counters(status: ModelStatus) -> Iterator[Metric]:
    yield counter("freshet_updates_applied", "Updates applied to the model.", status.updates_applied)
    yield from _feature_counters(status)
    yield counter(
        "freshet_update_gaps",
        "Times that updates were missing or damaged, and a snapshot had to come.",
        status.update_gaps,
    )
    yield counter(
        "freshet_examples_learnt", "Candidates with their labels in the weights.", status.examples_learnt
    )
    yield counter(
        "freshet_examples_observed", "Requests shown to the error memory.", status.examples_observed
    )
    yield counter(
        "freshet_examples_skipped",
        "Requests that the error memory need not or could not see.",
        status.examples_skipped,
    )
    yield counter("freshet_examples_bad", "Requests that could not be read.", status.examples_bad)
    if held := status.several:
        yield from _model_counters(held)
    if status.guard:
        yield counter("freshet_guard_rollbacks", "Rollbacks that the guard ordered.", status.guard.rollbacks)
    if status.network:
        yield counter(
            "freshet_network_failures",
            "Batches that a network of your own could not score, so that the fast part answered alone.",
            status.network.failures,
        )

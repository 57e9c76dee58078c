"""Lag as Prometheus metrics."""

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from stream.log.lag import Lag


def lag_metrics(role: str, lags: Iterable[Lag]) -> Iterator[Metric]:
    """How far a role is behind what it reads."""
    labels = ["role", "topic", "partition"]
    records = GaugeMetricFamily(
        "freshet_lag_records", "Records in the log that are not taken.", labels=labels
    )
    seconds = GaugeMetricFamily(
        "freshet_lag_seconds",
        "Age of the oldest record that is not taken, 0 if there is none.",
        labels=labels,
    )
    for lag in lags:
        labels = [role, lag.topic, str(lag.partition)]
        records.add_metric(labels, lag.records)
        seconds.add_metric(labels, lag.seconds)
    yield records
    yield seconds

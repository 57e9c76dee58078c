"""Prometheus metrics without labels, in one call each."""

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric


def gauge(name: str, text: str, value: float) -> Metric:
    """One gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)


def counter(name: str, text: str, value: float) -> Metric:
    """One counter without labels; `_total` is added to its name."""
    return CounterMetricFamily(name, text, value=value)

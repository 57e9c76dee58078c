"""Prometheus metrics of the joined share: which producers' actions meet their impressions."""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, Metric

from stream.join.producers.meeting import EventSender, Met
from stream.join.settings import JoinCounts


def joined_share(counts: JoinCounts) -> float | None:
    """Of the actions, how many met their impression; None: there was none."""
    met = counts.actions + counts.late + counts.duplicate_actions
    return met / (met + counts.orphans) if met + counts.orphans else None


def joined_metrics(
    senders: Mapping[EventSender, Met], misplaced: Mapping[str, int], sharded: Sequence[int] = ()
) -> Iterator[Metric]:
    """By producer and partition of `events`, and by partition of `examples`, since the role was started.

    Args:
        sharded: examples by their partition, if they are sharded.
    """
    for name, text in (
        ("met", "Actions whose impression was there, or came while they waited, since the role was started."),
        ("unmet", "Actions whose impression never came, since the role was started."),
    ):
        family = CounterMetricFamily(
            f"freshet_join_{name}_actions",
            f"{text} By producer and partition of topic events: at most 500, the rest as (others).",
            labels=["producer", "partition"],
        )
        for sender, counts in sorted(senders.items()):
            family.add_metric([sender.producer, str(sender.partition)], getattr(counts, name))
        yield family
    family = CounterMetricFamily(
        "freshet_join_misplaced_keys",
        "Records in another partition than their key's by murmur2, of a sample, since the role was started.",
        labels=["producer"],
    )
    for producer, count in sorted(misplaced.items()):
        family.add_metric([producer], count)
    yield family
    family = CounterMetricFamily(
        "freshet_join_sharded_examples",
        "Sharded examples sent since the role was started, by partition of topic examples.",
        labels=["partition"],
    )
    for partition, count in enumerate(sharded):
        family.add_metric([str(partition)], count)
    yield family

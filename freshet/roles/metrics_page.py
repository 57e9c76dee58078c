"""docs/metrics.md, made from the metrics themselves:

python -m freshet.roles.metrics_page > docs/metrics.md
"""

import sys
from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client.metrics_core import Metric

from freshet.roles.ingest.metrics import INGEST, IngestCollector, SourceReport
from freshet.roles.joined_metrics import joined_metrics
from freshet.roles.role_metrics import STAGES, TABLES, RoleCollector
from learner.metrics import Metrics
from serving.replica.coverage import FeatureCounts
from serving.replica.status import (
    DuelStatus,
    GuardStatus,
    HeldModel,
    MemoryStatus,
    ModelStatus,
    NearestStatus,
    NetworkStatus,
    Quality,
    ShownStatus,
    TargetStatus,
)
from serving.watch.telemetry import Telemetry
from stream.join.producers.meeting import EventSender, Met
from stream.log.base import EVENTS, EXAMPLES, UPDATES
from stream.log.lag import Lag
from stream.run.contract import Progress

_HEAD = (
    "# Metrics\n\n"
    "Prometheus' text format, on `/metrics`. The server uses its own port; ingest, joiner and learner use "
    "`metrics.ingest_port`, `metrics.join_port` and `metrics.learn_port` if they are set "
    "([configuration.md](configuration.md#metrics)). Rules and alerts for Prometheus are in "
    "[deploy/prometheus](../deploy/prometheus), a dashboard for Grafana in "
    "[deploy/grafana](../deploy/grafana); what to do when one fires is in "
    "[operations.md](operations.md#when-an-alert-fires).\n\n"
    "Units are seconds and bytes. Names ending in `_total` are counters, names ending in "
    "`_timestamp_seconds` are Unix times. A value that is not known yet is `NaN`. Ingest, joiner and "
    "learner keep their counts of events and examples in their state, so these counters survive a "
    "restart; all other counters begin at 0. Counting costs a server less than "
    "1 % of a request's time, and a learner less than 1 % of its own; `benchmarks/metrics.py` measures "
    "it.\n\n"
    "Where `[targets]` declares several, all metrics of quality that have no label `target` are of the first "
    "one, as they are with one target, so dashboards and alerts mean what they meant. The others have "
    "metrics of their own, `freshet_target_quality` and `freshet_learn_target_quality`, with the label "
    '`target`: `freshet_target_quality{metric="auc",span="recent"}`. The dashboard has a row for them.\n\n'
    "With several models, all metrics of a server that have no label `model` are of the model with the "
    "largest share; `freshet_model_share`, `freshet_model_quality` and the like are of each, with the label "
    "`model` ([models.md](models.md)). A learner's metrics are of its own model.\n\n"
    "This page is made from the code: `python -m freshet.roles.metrics_page > docs/metrics.md`.\n"
)

_SECTIONS = {
    "All roles": ("ingest", "joiner", "learner", "server"),
    "Ingest, joiner and learner": ("ingest", "joiner", "learner"),
    "Joiner and learner": ("joiner", "learner"),
    "Ingest": ("ingest",),
    "Joiner": ("joiner",),
    "Learner": ("learner",),
    "Server": ("server",),
}


class Family(NamedTuple):
    """One metric as Prometheus sees it."""

    name: str
    kind: str  # counter, gauge, histogram
    labels: tuple[str, ...]
    text: str


class _FixedMeter:
    """Constant lags, in place of a meter."""

    def __init__(self, *lags: Lag) -> None:
        self.lags = list(lags)
        self.up = True


class _FixedWriter:
    """Constant counts, in place of a writer."""

    records = batches = failures = waiting = 0


class _FixedScorer:
    """A replica whose status has a value for every metric."""

    def status(self) -> ModelStatus:
        metrics = Metrics()
        quality = Quality(overall=metrics.summary(), recent=metrics.recent())
        difference = (0.0, -0.1, 0.1)
        guard = GuardStatus(True, 0.0, 0)
        duel = DuelStatus("main", "challenger", 1, (0.5, 0.5), difference, (1, 1), (0.5, 0.5), difference)
        return ModelStatus(
            version="1-1", ready=True, why_not_ready="", frozen=False, held=False,
            freshness_s=1.0, base_freshness_s=1.0,
            behind_s=0.0, lag=[Lag(EXAMPLES, 0, 1, 1.0), Lag(UPDATES, 0, 1, 1.0)], examples_learnt=1,
            examples_observed=1, examples_skipped=0, examples_bad=0, updates_applied=1, update_gaps=0,
            features=["user"],
            table_rows={"user": 1}, scored_features={"user": FeatureCounts(1, 0, 0)},
            memory=MemoryStatus("residual", 1, 0.1, 1),
            base=quality, corrected=quality, trust={"click": 1.0},
            network=NetworkStatus("my_models:TwoTower", "1", 0, ""),
            nearest=NearestStatus("item", True, "", 0, 0, 0, 0, 0, 0),
            shown=ShownStatus("item", 0, 0, 0.0, 0.0, 0.0),
            targets={
                "click": TargetStatus("event", "", quality, quality),
                "buy": TargetStatus("event", "click", quality, quality),
            },
            models={
                "main": HeldModel(1.0, True, "", "1-1", 1.0, 1, 1, 0, quality, quality, False, guard, duel),
            },
            shares_from=-1, guard=guard,
        )  # fmt: skip


def families(role: str) -> dict[str, Family]:
    """The metrics of "ingest", "joiner", "learner" or "server" by name."""
    if role == "ingest":
        seen = SourceReport("clicks", Progress(), dict.fromkeys(INGEST, 1), [Lag("clicks", 0, 1, 1.0)])
        return _as_families(IngestCollector(lambda: ([seen], True)).collect())
    if role == "server":
        telemetry = Telemetry(_FixedScorer(), _FixedWriter())
        telemetry.request_ended("/v1/score", 200, 0.01)
        return _as_families(telemetry.registry.collect())
    command = next(name for name, stage in STAGES.items() if stage == role)
    topic = EVENTS if role == "joiner" else EXAMPLES
    clocks = {0: 1.0} if role == "joiner" else {}
    ahead = {"web": 1} if role == "joiner" else {}
    meter = _FixedMeter(Lag(topic, 0, 1, 1.0))
    joined = joined_metrics({EventSender("web", 0): Met(1, 1)}, {"web": 1}, [1]) if role == "joiner" else ()
    collector = RoleCollector(command, Progress(), {}, meter, lambda: clocks, lambda: ahead, lambda: joined)
    if role == "learner":
        collector.tables = {"user": [1] * (1 + len(TABLES))}
        collector.targets = {"buy": {"auc": 0.5}}
    return _as_families(collector.collect())


def page() -> str:
    """The whole page."""
    by_role = {role: families(role) for role in ("ingest", "joiner", "learner", "server")}
    parts = [_HEAD]
    for title, roles in _SECTIONS.items():
        names = [
            name
            for name in by_role[roles[0]]
            if tuple(role for role in by_role if name in by_role[role]) == roles
        ]
        rows = [_row(by_role[roles[0]][name]) for name in names]
        parts.append(f"\n## {title}\n\n| metric | type | labels | |\n|---|---|---|---|\n" + "".join(rows))
    return "".join(parts)


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.text} |\n"


def _as_families(metrics: Iterable[Metric]) -> dict[str, Family]:
    found = {}
    for metric in metrics:
        labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        found[name] = Family(name, metric.type, tuple(sorted(labels)), metric.documentation)
    return found


if __name__ == "__main__":
    sys.stdout.write(page())

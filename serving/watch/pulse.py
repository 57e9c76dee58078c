"""The status of a server, once a second: for its own page, and for its beats in the log."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from learner.metrics import Summary
from serving.replica.status import HeldModel, Scorer, TargetStatus
from serving.watch.alerts import TARGET, TRUST
from serving.watch.live import ModelRow, TargetRow
from stream.group.signs import MemberStatus

SPAN_TICKS = 300
"""Number of calls, one a second, over which the share of errors and the slowest answers are measured."""
SCORE_PATH = "/v1/score"

MODEL = "model/"
"""Begins the names of several models' numbers: `model/NAME/FIELD`; `answered` is a count."""


class Own(NamedTuple):
    """The status of this server."""

    status: MemberStatus
    version: str
    why_not_ready: str


class Totals(NamedTuple):
    """Requests so far."""

    requests: float
    errors: float  # answered with a 5xx
    scored: float  # candidates
    unlogged: float  # served impressions that the log did not confirm
    score_buckets: tuple[tuple[float, float], ...]  # (seconds, answers of /v1/score within them), cumulative


class Counted(Protocol):
    """The counts that `Pulse` needs from the telemetry."""

    def totals(self) -> Totals:
        """Requests so far."""


class Pulse:
    """Collects the status of a replica and of its server. Call `take` once a second, from one thread."""

    def __init__(self, replica: Scorer, counted: Counted) -> None:
        self._replica = replica
        self._counted = counted
        self._recent: deque[Totals] = deque(maxlen=SPAN_TICKS + 1)

    def take(self) -> Own:
        """How it does now."""
        status = self._replica.status()
        totals = self._counted.totals()
        self._recent.append(totals)
        before = self._recent[0]
        asked = totals.requests - before.requests
        numbers: dict[str, float | None] = {
            "ready": float(status.ready),
            "frozen": float(status.frozen),
            "held": float(status.held),
            "freshness_s": status.freshness_s,
            "base_freshness_s": status.base_freshness_s,
            "behind_s": status.behind_s,
            "lag_records": sum(lag.records for lag in status.lag),
            "lag_s": max((lag.seconds for lag in status.lag), default=None),
            "requests": totals.requests,
            "errors": totals.errors,
            "errors_share": (totals.errors - before.errors) / asked if asked else 0.0,
            "errors_lately": totals.errors - before.errors,
            "scores_lately": _count(totals) - _count(before),
            "unlogged": totals.unlogged,
            "scored": totals.scored,
            "score_p99_s": quantile(0.99, before.score_buckets, totals.score_buckets),
            "gate": status.memory.gate,
            "evidence": status.memory.evidence,
            "learnt": status.examples_learnt,
        }
        numbers |= _quality("base", status.base.recent) | _quality("corrected", status.corrected.recent)
        if status.shown:
            numbers |= {
                f"shown_{name}": getattr(status.shown, name) for name in ("coverage", "gini", "young")
            }
        numbers |= target_numbers(status.further) | model_numbers(status.several)
        numbers |= {f"{TRUST}{name}": share for name, share in status.trust.items()}
        if status.several:
            numbers["shares_from"] = float(status.shares_from or 0)
        known = {name: float(value) for name, value in numbers.items() if value is not None}
        features = status.scored_features
        tables = {
            name: [rows, *(msgspec.structs.astuple(features[name]) if name in features else ())]
            for name, rows in status.table_rows.items()
        }
        return Own(MemberStatus(known, tables), status.version, status.why_not_ready)


def target_numbers(further: Mapping[str, TargetStatus]) -> dict[str, float | None]:
    """The recent metrics of further targets as numbers of a member's status, for `target_rows` and alerts."""
    numbers: dict[str, float | None] = {}
    for name, target in further.items():
        base, recent = target.base.recent, target.corrected.recent
        is_value = target.kind == "value"
        rate = recent["positives"] / recent["examples"] if recent["examples"] else None
        fields: dict[str, float | None] = {
            "value": float(is_value),
            "examples": recent["examples"],
            "mean": recent.get("mean") if is_value else rate,
            "auc": recent["auc"],
            "logloss": recent["logloss"],
            "mae": recent.get("mae"),
            "calibration": recent["calibration"],
            "complete": float(target.complete),
            "positives": recent["positives"],
            "logloss_base": base["logloss"],
            "rmse": recent.get("rmse"),
            "rmse_base": base.get("rmse"),
        }
        numbers |= {f"{TARGET}{name}/{field}": number for field, number in fields.items()}
    return numbers


def target_rows(numbers: Mapping[str, float]) -> list[TargetRow]:
    """The further targets that a member's numbers tell of.

    >>> target_rows({"target/buy/value": 0.0, "target/buy/auc": 0.7, "gate": 1.0})[0].auc
    0.7
    """
    rows: dict[str, TargetRow] = {}
    for key, number in numbers.items():
        name, _, field = key.removeprefix(TARGET).rpartition("/")
        if not (key.startswith(TARGET) and name) or field not in TargetRow.__struct_fields__[1:]:
            continue  # for alerts, of a newer version, or of no target
        row = rows.setdefault(name, TargetRow(name, False))
        setattr(row, field, bool(number) if field == "value" else number)
    return list(rows.values())


def model_numbers(held: Mapping[str, HeldModel]) -> dict[str, float | None]:
    """The shares and recent metrics of several models as numbers of a member's status, for `model_rows`."""
    numbers: dict[str, float | None] = {}
    for name, model in held.items():
        recent = model.corrected.recent
        fields: dict[str, float | None] = {
            "share": model.share,
            "answered": float(model.answered),
            "ready": float(model.ready),
            "auc": recent["auc"],
            "logloss": recent["logloss"],
            "calibration": recent["calibration"],
            "freshness_s": model.freshness_s,
        }
        if (duel := model.duel) is not None:
            fields["compared"] = float(duel.requests)
            found = {"difference": duel.logloss_difference, "clicks": duel.clicks_difference}
            for field, interval in found.items():
                names = (field, f"{field}_low", f"{field}_high")
                fields |= dict(zip(names, interval or (None,) * 3, strict=True))
        numbers |= {f"{MODEL}{name}/{field}": number for field, number in fields.items()}
    return numbers


def model_rows(numbers: Mapping[str, float]) -> list[ModelRow]:
    """The models that a member's numbers tell of, without rates.

    >>> model_rows({"model/main/share": 0.9, "model/main/auc": 0.7, "gate": 1.0})[0].share
    0.9
    """
    rows: dict[str, ModelRow] = {}
    for key, number in numbers.items():
        name, _, field = key.removeprefix(MODEL).rpartition("/")
        if key.startswith(MODEL) and name and field in ModelRow.__struct_fields__[1:]:
            setattr(rows.setdefault(name, ModelRow(name)), field, number)
    return list(rows.values())


def _count(totals: Totals) -> float:
    return totals.score_buckets[-1][1] if totals.score_buckets else 0.0


def quantile(
    share: float, before: Iterable[tuple[float, float]], after: Iterable[tuple[float, float]]
) -> float | None:
    """The quantile `share` of the values between two readings of a cumulative histogram, computed as by
    Prometheus.

    >>> quantile(0.5, [(1.0, 4.0), (2.0, 4.0)], [(1.0, 4.0), (2.0, 8.0)])
    1.5
    """
    was = dict(before)
    steps = [(bound, count - was.get(bound, 0.0)) for bound, count in after]
    if not steps or steps[-1][1] <= 0:
        return None
    rank = share * steps[-1][1]
    below_bound = below = 0.0
    for bound, count in steps:
        if count >= rank:
            if math.isinf(bound):
                return below_bound
            return below_bound + (bound - below_bound) * (rank - below) / max(count - below, 1e-12)
        below_bound, below = bound, count
    return below_bound


def _quality(prediction: str, summary: Summary) -> dict[str, float | None]:
    return {
        f"auc_{prediction}": summary["auc"],
        f"logloss_{prediction}": summary["logloss"],
        f"calibration_{prediction}": summary["calibration"],
        f"examples_{prediction}": summary["examples"],
        f"positives_{prediction}": summary["positives"],
        f"mean_{prediction}": summary.get("mean"),  # of the labels: of a value only, and so are the errors
        f"mae_{prediction}": summary.get("mae"),
        f"rmse_{prediction}": summary.get("rmse"),
    }

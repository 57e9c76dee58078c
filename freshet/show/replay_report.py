"""A replay's report as a page: metrics of base and corrected, overall, last half, and over time."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from freshet.files import JsonView
from freshet.show.report import Chart, Line, ReportPage, ReportTable, Tile

METRICS = (
    ("auc", "AUC"),
    ("request_auc", "AUC within requests"),
    ("ndcg", "NDCG within requests"),
    ("mrr", "mean reciprocal rank"),
    ("recall", "recall within requests"),
    ("gauc", "AUC per user (biased by order)"),
    ("logloss", "log loss"),
    ("normalized_entropy", "normalized entropy"),
    ("calibration", "calibration"),
    ("ece", "ECE"),
    ("brier", "Brier"),
)

SAME = (
    "Corrected equals base and is drawn once: in a replay the base learns from each request at once, so the "
    "error memory has nothing to correct."
)


def replay_page(report: JsonView, name: str = "") -> ReportPage:
    """The page of a replay's report."""
    base, corrected = report["base"], report["corrected"]
    half_base, half_corrected = base.get("last_half", base), corrected.get("last_half", corrected)
    whole_base, whole_corrected = base.get("overall", base), corrected.get("overall", corrected)
    gain = _number(half_corrected, "auc") - _number(half_base, "auc")
    lead = (
        "All labels are the same: is label in [data] the right column?"
        if whole_base.get("auc") is None
        else f"Over the last half of the stream the model reached an AUC of {_metric(half_base, 'auc')}, "
        "predicting each request before learning from it; with the error memory "
        f"{_metric(half_corrected, 'auc')} ({gain:+.4f})."
    )
    lead = " ".join([lead, *(f"Warning: {warning}." for warning in report.get("warnings", []))])
    tiles = (
        Tile("AUC, last half", _metric(half_corrected, "auc"), f"base {_metric(half_base, 'auc')}", "live"),
        Tile(
            "log loss, last half", _metric(half_corrected, "logloss"), f"base {_metric(half_base, 'logloss')}"
        ),
        Tile(
            "calibration, last half",
            _metric(half_corrected, "calibration"),
            "1 = as many clicks as predicted",
        ),
        Tile(
            "events", f"{report['events']:,}", f"{report.get('events_per_second', math.nan):,.0f} per second"
        ),
    )
    parts = (whole_base, whole_corrected, half_base, half_corrected)
    rows = [(title, *(_metric(part, key) for part in parts)) for key, title in METRICS]
    table = ReportTable(
        "Progressive metrics",
        ("", "base, all", "corrected, all", "base, last half", "corrected, last half"),
        rows,
        "Every number is out of sample: a request is predicted before the model trains on it.",
    )
    simple = (str, int, float, bool)
    facts = [
        (key.replace("_", " "), f"{value:,.0f}" if type(value) in (int, float) else str(value))
        for key, value in report.items()
        if isinstance(value, simple) and value != ""
    ]
    seconds = report.get("seconds")
    if isinstance(seconds, dict):
        facts += [(f"seconds, {phase}", f"{float(value):.2f}") for phase, value in seconds.items()]
    return ReportPage(
        title=f"Freshet replay{': ' + name if name else ''}",
        lead=lead,
        tiles=tiles,
        charts=_replay_charts(report.get("windows", [])),
        tables=(table,),
        facts=facts,
    )


def _replay_charts(windows: Sequence[JsonView]) -> list[Chart]:
    if not windows:
        return []
    x, x_title = _window_axis(windows)
    charts = []
    for key, title, note in (
        ("auc", "AUC over time", "Exact within each window. Higher is better."),
        ("logloss", "Log loss over time", "Lower is better."),
        ("calibration", "Calibration over time", "Mean prediction over mean label; 1 is right."),
    ):
        base = [_number(w.get("base", {}), key) for w in windows]
        corrected = [_number(w.get("corrected", {}), key) for w in windows]
        if _same(base, corrected):
            lines = [Line("base and corrected", x, base, "live")]
            note = f"{note} {SAME}"
        else:
            lines = [Line("base", x, base, "live"), Line("corrected", x, corrected, "live_memory")]
        if any(math.isfinite(y) for line in lines for y in line.y):
            charts.append(Chart(title, lines, x_title, dict(METRICS)[key], note))
    return charts


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two lines are equal; NaN equals NaN."""
    pairs = zip(one, other, strict=True)
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in pairs)


def _window_axis(windows: Sequence[JsonView]) -> tuple[list[float | str], str]:
    """Event times if every window has one, else window numbers."""
    times = [_number(window, "to_time") for window in windows]
    if all(time > 0.0 for time in times):
        return [datetime.fromtimestamp(time, UTC).isoformat() for time in times], "event time (UTC)"
    return [float(i + 1) for i in range(len(windows))], "window"


def _number(summary: JsonView, key: str) -> float:
    value = summary.get(key)
    return float(value) if isinstance(value, int | float) else math.nan


def _metric(summary: JsonView, key: str) -> str:
    value = _number(summary, key)
    return f"{value:.4f}" if math.isfinite(value) else "–"

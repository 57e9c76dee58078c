"""A replay's report as a page: metrics of base and corrected, overall, last half, and over time."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from freshet.files import JsonView
from freshet.show.report import Arm, Chart, Line, ReportPage, ReportTable, Tile

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

VALUE_METRICS = (
    ("mean", "mean label"),
    ("mae", "mean absolute error"),
    ("rmse", "root mean squared error"),
    ("loglik", "log likelihood"),
    ("calibration", "calibration (ratio of sums)"),
)
COLUMNS = ("", "base, all", "corrected, all", "base, last half", "corrected, last half")

SAME = (
    "Corrected equals base and is drawn once: in a replay the base learns from each request at once, so the "
    "error memory has nothing to correct."
)


def replay_page(report: JsonView, name: str = "") -> ReportPage:
    """The page of a replay's report."""
    base, corrected = report["base"], report["corrected"]
    half_base, half_corrected = base.get("last_half", base), corrected.get("last_half", corrected)
    whole_base = base.get("overall", base)
    gain = _number(half_corrected, "auc") - _number(half_base, "auc")
    is_value = "mae" in whole_base
    lead = (
        f"Over the last half of the stream the predicted values are off by {_metric(half_corrected, 'mae')} "
        f"in the mean; the mean label is {_metric(half_corrected, 'mean')}."
        if is_value
        else "All labels are the same: is label in [data] the right column?"
        if whole_base.get("auc") is None
        else f"Over the last half of the stream the model reached an AUC of {_metric(half_base, 'auc')}, "
        "predicting each request before learning from it; with the error memory "
        f"{_metric(half_corrected, 'auc')} ({gain:+.4f})."
    )
    lead = " ".join([lead, *(f"Warning: {warning}." for warning in report.get("warnings", []))])
    tiled: tuple[tuple[str, str, Arm | None], ...] = (("auc", "AUC", "live"), ("logloss", "log loss", None))
    if is_value:
        tiled = (("mae", "mean absolute error", "live"), ("rmse", "root mean squared error", None))
    tiles = (
        *(
            Tile(f"{title}, last half", _metric(half_corrected, key), f"base {_metric(half_base, key)}", arm)
            for key, title, arm in tiled
        ),
        Tile(
            "calibration, last half",
            _metric(half_corrected, "calibration"),
            "1 = as much as predicted" if is_value else "1 = as many clicks as predicted",
        ),
        Tile(
            "events", f"{report['events']:,}", f"{report.get('events_per_second', math.nan):,.0f} per second"
        ),
    )
    table = ReportTable(
        "Progressive metrics",
        COLUMNS,
        _rows(base, corrected),
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
        tables=(
            table,
            *_further_tables(report.get("targets", {})),
            *_exposure_tables(report.get("exposure", {}), report.get("played", {}).get("top")),
        ),
        facts=facts,
    )


def _rows(base: JsonView, corrected: JsonView) -> list[tuple[str, ...]]:
    """A row for each metric, with the columns `COLUMNS`."""
    wholes, halves = (
        [part.get(name, part) for part in (base, corrected)] for name in ("overall", "last_half")
    )
    metrics = VALUE_METRICS if "mae" in wholes[0] else METRICS
    return [(title, *(_metric(part, key) for part in (*wholes, *halves))) for key, title in metrics]


def _further_tables(targets: JsonView) -> list[ReportTable]:
    """A table for each target after the first."""
    tables = []
    for name, part in list(targets.items())[1:]:
        of = f" of {part['of']}" if part["of"] else ""
        rows = _rows(part["base"], part["corrected"]) if part["candidates"] else []
        note = f"{part['candidates']:,} candidates, those that it is learned of."
        tables.append(ReportTable(f"Target {name}{of}", COLUMNS, rows, note))
    return tables


def _exposure_tables(exposure: JsonView, top: object) -> list[ReportTable]:
    """Of the feature that names the items: which of them are among the first of each request."""
    titles = (("coverage", "share of the items"), ("gini", "Gini"), ("young", "share younger than a day"))
    note = f"Items among the first {top} candidates of a request. Gini is 0 if all have as many places."
    return [
        ReportTable(
            f"Exposure of {of}s",
            ("", "as shown", "by base", "by corrected"),
            [
                (title, *(_metric(found[who], key) for who in ("shown", "base", "corrected")))
                for key, title in titles
            ],
            note,
        )
        for of, found in exposure.items()
    ]


def _replay_charts(windows: Sequence[JsonView]) -> list[Chart]:
    if not windows:
        return []
    x, x_title = _window_axis(windows)
    charts = []
    for key, title, note in (
        ("auc", "AUC over time", "Exact within each window. Higher is better."),
        ("logloss", "Log loss over time", "Lower is better."),
        ("mae", "Mean absolute error over time", "Lower is better."),
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
            charts.append(Chart(title, lines, x_title, dict((*VALUE_METRICS, *METRICS))[key], note))
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

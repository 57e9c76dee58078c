"""The terminal view of `freshet up`: the metrics of the live page, redrawn in place."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from freshet.show.report import LINE_STYLE
from freshet.show.view import CHART_COLUMNS_MAX, CHART_ROWS, draw_lines, number_text, role_text
from serving.watch.alerts import Alert
from serving.watch.history import Readings
from serving.watch.live import Live, ModelRow, Now, TableRow, TargetRow
from serving.watch.overview import TITLES

ALERTS_SHOWN = 4
TABLES_SHOWN = 8
TARGETS_SHOWN = 4  # of the further ones, where there is room for a chart
CHART_FROM_ROWS = 30  # with fewer rows there is no chart
TABLES_FROM_ROWS = 44
_ARMS = (
    ("frozen", "frozen", str(LINE_STYLE["frozen"]["color"])),
    ("base", "base", str(LINE_STYLE["live"]["color"])),
    ("corrected", "corrected", str(LINE_STYLE["live_memory"]["color"])),
)


def render_up(
    live: Live,
    columns: Mapping[str, Readings],
    states: Sequence[tuple[str, str]],
    page: str,
    foot: str,
    width: int = 100,
    height: int = 40,
) -> RenderableType:
    """One frame, at most `width` columns wide; a low terminal omits the tables, then the chart.

    Args:
        columns: metrics over time, for the chart.
        states: each role's name and "ready", "starting" or "gone".
        page: URL of the live page; "" while no server answers.
    """
    now = live.now
    head = Table.grid(expand=True)
    head.add_column()
    head.add_column(justify="right")
    head.add_row(Text("Freshet", style="bold"), Text(f"page  {page}" if page else "starting", style="dim"))
    parts: list[RenderableType] = [
        head,
        Columns((role_text(TITLES.get(name, name), state) for name, state in states), padding=(0, 3)),
        Text(""),
        Columns((number_text(name, value) for name, value in _numbers(now)), padding=(0, 3)),
        Text(""),
        _quality(
            now,
            live.targets[:TARGETS_SHOWN] if height >= CHART_FROM_ROWS else (),
            live.models if height >= CHART_FROM_ROWS else (),
        ),
    ]
    if height >= CHART_FROM_ROWS:
        lines = [(_finite(columns.get(f"auc_{key}", [])), color) for key, _, color in _ARMS]
        chart = draw_lines(lines, min(width - 14, CHART_COLUMNS_MAX), CHART_ROWS, 120)
        parts += [
            Text("AUC, last ten minutes", style="dim"),
            chart or Text("waiting for the first labels ..."),
        ]
    if height >= TABLES_FROM_ROWS and live.tables:
        parts += [Text(""), _tables(live.tables)]
    parts += [Text(""), *_alerts(live.alerts), Text(foot, style="dim")]
    return Panel(Group(*parts), box=box.ROUNDED, width=width, border_style="dim")


def count(x: float) -> str:
    """A count in few digits.

    >>> count(9876), count(12_345), count(4_200_000)
    ('9,876', '12.3k', '4.20M')
    """
    for unit, size, digits in (("G", 1e9, 2), ("M", 1e6, 2), ("k", 1e5, 0), ("k", 1e4, 1)):
        if x >= size:
            return f"{x / (1e3 if unit == 'k' else size):.{digits}f}{unit}"
    return f"{x:,.0f}"


def rate(x: float) -> str:
    """A rate in few digits.

    >>> rate(0.25), rate(4321)
    ('0.2', '4,321')
    """
    return f"{x:.1f}" if 0 < x < 10 else count(x)


def seconds(s: float) -> str:
    """A duration in the largest fitting unit.

    >>> seconds(0.0321), seconds(4.56), seconds(600)
    ('32 ms', '4.6 s', '10 min')
    """
    if s < 0.9995:
        return f"{s * 1e3:.0f} ms"
    if s < 120.0:
        return f"{s:.1f} s" if s < 10.0 else f"{s:.0f} s"
    return f"{s / 60.0:.0f} min" if s < 7200.0 else f"{s / 3600.0:.1f} h"


def _or_dash(form: Callable[[float], str], value: float | None) -> str:
    return "–" if value is None else form(value)


def _numbers(now: Now) -> list[tuple[str, str]]:
    lag_s = [s for s in (now.joiner_lag_s, now.learner_lag_s) if s is not None]
    records = [r for r in (now.joiner_lag_records, now.learner_lag_records) if r is not None]
    lag = f"{count(sum(records))} records, {seconds(max(lag_s))}" if records else "–"
    return [
        ("events/s", _or_dash(rate, now.events_per_s)),
        ("examples/s", _or_dash(rate, now.examples_per_s)),
        ("requests/s", _or_dash(rate, now.requests_per_s)),
        ("lag", lag),
        ("freshness", _or_dash(seconds, now.freshness_s)),
        ("gate", _or_dash(lambda share: f"{share:.0%}", now.gate)),
        ("evidence", _or_dash(count, now.evidence)),
        ("table rows", _or_dash(count, now.table_rows)),
        ("dead letters", _or_dash(count, now.dead_letters)),
    ]


def _quality(now: Now, targets: Sequence[TargetRow], models: Sequence[ModelRow]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    table.add_column("answered by", no_wrap=True)
    for title in ("AUC", "log loss", "calibration"):
        table.add_column(title, justify="right")
    for key, name, color in _ARMS:
        values = [getattr(now, f"{metric}_{key}", None) for metric in ("auc", "logloss", "calibration")]
        if key == "frozen" and values[0] is None:
            continue
        table.add_row(
            Text.assemble(("━━ ", color), name), *(_or_dash(lambda value: f"{value:.3f}", v) for v in values)
        )
    for target in targets:
        auc, logloss, calibration = (
            _or_dash(lambda value: f"{value:.3f}", v)
            for v in (target.auc, target.logloss, target.calibration)
        )
        error = "error " + _or_dash(lambda value: f"{value:.3g}", target.mae)
        table.add_row(f"{target.target}, corrected", error if target.value else auc, logloss, calibration)
    for model in models:
        share = _or_dash(lambda value: f"{value:.0%}", model.share)
        numbers = (
            _or_dash(lambda value: f"{value:.3f}", v) for v in (model.auc, model.logloss, model.calibration)
        )
        table.add_row(f"model {model.model}, share {share}", *numbers)
    return table


def _tables(rows: Sequence[TableRow]) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("feature", style="dim", header_style="dim")
    for title in ("rows", "admitted/s", "refused/s", "expired/s", "evicted/s"):
        table.add_column(title, justify="right", header_style="dim")
    for row in rows[:TABLES_SHOWN]:
        rates = (row.admitted_per_s, row.refused_per_s, row.expired_per_s, row.evicted_per_s)
        table.add_row(row.feature, count(row.rows), *(_or_dash(rate, value) for value in rates))
    return table


def _alerts(alerts: Sequence[Alert]) -> list[Text]:
    firing = [alert for alert in alerts if alert.until is None]
    if not firing:
        return [Text.assemble(("✓ ", "green"), ("no alert fires", "dim"))]
    lines = []
    for alert in firing[:ALERTS_SHOWN]:
        since = time.strftime("%H:%M", time.localtime(alert.since))
        color = "red" if alert.severity == "page" else "yellow"
        lines.append(
            Text.assemble((f"▲ {alert.name}", color), f"  {alert.summary} ", (f"since {since}", "dim"))
        )
    if len(firing) > ALERTS_SHOWN:
        lines.append(Text(f"and {len(firing) - ALERTS_SHOWN} more", style="dim"))
    return lines


def _finite(column: Readings) -> list[float]:
    return [math.nan if value is None else value for value in column]

"""Reports as one self-contained HTML file, without server or network.

`ReportPage` holds the contents; `render` makes HTML of it, in which a script of our own (`report.js`) draws
the charts as SVG, as wide as the window. A content security policy in the page forbids every request to the
network, so the file can be mailed, archived, and opened in ten years.
"""

import html
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from freshet.files import Json
from ground import FreshetError

Arm = Literal["frozen", "frozen_memory", "live", "live_memory", "ceiling", "plain"]

# The hues of Okabe and Ito's palette, distinct for all kinds of colour vision, with a contrast of 3 : 1 on
# white and on dark pages. Where two lines coincide, such as a live base and its correction, the dashed one
# shows the solid one in its gaps.
LINE_STYLE: dict[Arm, Json] = {
    "frozen": {"color": "#838992", "width": 2.5},
    "frozen_memory": {"color": "#bf7a00", "width": 2.5},
    "live": {"color": "#0072b2", "width": 3.5},
    "live_memory": {"color": "#0e9c75", "width": 1.8, "dash": "5 4"},
    "ceiling": {"color": "#a274c2", "width": 1.3, "dash": "2 3"},
    "plain": {"color": "#0072b2", "width": 2},
}


class ReportError(FreshetError):
    """A report cannot be written; the message names the file."""


class Tile(msgspec.Struct, frozen=True):
    """One large number with its name and a note."""

    name: str
    value: str
    note: str = ""
    arm: Arm | None = None


class Line(msgspec.Struct, frozen=True):
    """One line of a chart; a NaN in `y` is a gap. `band` is an interval around it: (lower, upper)."""

    name: str
    x: Sequence[float | str]
    y: Sequence[float]
    arm: Arm = "plain"
    band: tuple[Sequence[float], Sequence[float]] | None = None


class Chart(msgspec.Struct, frozen=True):
    """Lines over one x axis; `marks` are moments (x, text) drawn as vertical lines."""

    title: str
    lines: Sequence[Line]
    x_title: str
    y_title: str
    note: str = ""
    marks: Sequence[tuple[float | str, str]] = ()
    log: bool = False
    from_zero: bool = False


class Forest(msgspec.Struct, frozen=True):
    """Estimates with intervals, one per row; `rows` are (name, value, low, high)."""

    title: str
    rows: Sequence[tuple[str, float, float, float]]
    x_title: str
    note: str = ""
    arm: Arm = "plain"


class ReportTable(msgspec.Struct, frozen=True):
    """A table of text; the first column names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class ReportPage(msgspec.Struct, frozen=True):
    """The contents of a report in order; `lead` is the result in a sentence or two."""

    title: str
    lead: str
    tiles: Sequence[Tile] = ()
    charts: Sequence[Chart | Forest] = ()
    tables: Sequence[ReportTable] = ()
    commands: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, str]] = ()


def write_html(page: ReportPage, path: Path) -> None:
    """Write the page to `path`; creates its folder if needed.

    Raises:
        ReportError: the file cannot be written.
    """
    text = render(page)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(
            f"{path}: the report cannot be written ({error.strerror}); name another file"
        ) from None


def render(page: ReportPage) -> str:
    """The page as HTML, with the script that draws its charts."""
    parts = [f"<header><h1>{_text(page.title)}</h1><p class=lead>{_text(page.lead)}</p></header>"]
    if page.tiles:
        parts.append('<section class="tiles">' + "".join(map(_tile, page.tiles)) + "</section>")
    parts += [_chart_frame(i, chart) for i, chart in enumerate(page.charts)]
    parts += [_table(table) for table in page.tables]
    if page.commands:
        items = "".join(f"<dt><code>{_text(c)}</code></dt><dd>{_text(n)}</dd>" for c, n in page.commands)
        parts.append(f"<section><h2>Next</h2><dl>{items}</dl></section>")
    if page.facts:
        rows = "".join(
            f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in page.facts
        )
        parts.append(f"<section><h2>What was run</h2><table class=facts>{rows}</table></section>")
    if page.charts:
        figures = [_forest(c) if isinstance(c, Forest) else _figure(c) for c in page.charts]
        # "<" is escaped, so that no text can end the script element
        data = json.dumps(figures).replace("<", "\\u003c")
        parts.append(f"<script>const figures = {data};\n{_asset('report.js')}</script>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(page.title)}</title>\n<style>{_asset('report.css')}</style></head>\n"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _asset(name: str) -> str:
    return resources.files("freshet.show").joinpath(name).read_text(encoding="utf-8")


def _text(value: str) -> str:
    """Text as HTML; bytes of a file name that are not UTF-8 are shown as escapes."""
    return html.escape(value.encode("utf-8", "backslashreplace").decode())


def _tile(tile: Tile) -> str:
    color = LINE_STYLE[tile.arm]["color"] if tile.arm else "var(--line)"
    return (
        f'<div class="tile" style="border-top-color:{color}"><span>{_text(tile.name)}</span>'
        f"<strong>{_text(tile.value)}</strong><small>{_text(tile.note)}</small></div>"
    )


def _chart_frame(index: int, chart: Chart | Forest) -> str:
    note = f"<p>{_text(chart.note)}</p>" if chart.note else ""
    legend = _legend(chart.lines) if isinstance(chart, Chart) and len(chart.lines) > 1 else ""
    return (
        f'<section><h2>{_text(chart.title)}</h2>{note}{legend}<div class="chart" id="chart{index}" '
        f'role="img" aria-label="{_text(chart.title)}"><noscript>A chart needs JavaScript.</noscript></div>'
        "</section>"
    )


def _legend(lines: Sequence[Line]) -> str:
    items = "".join(
        f'<li><svg width="26" height="8" aria-hidden="true"><line x1="1" x2="25" y1="4" y2="4" '
        f'stroke="{style["color"]}" stroke-width="{style["width"]}" '
        f'stroke-dasharray="{style.get("dash", "none")}"/></svg>{_text(line.name)}</li>'
        for line in lines
        for style in [LINE_STYLE[line.arm]]
    )
    return f'<ul class="legend">{items}</ul>'


def _table(table: ReportTable) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in table.header)
    body = "".join(
        f"<tr><th>{_text(row[0])}</th>"
        + "".join(
            f'<td data-name="{_text(name)}">{_text(cell)}</td>'
            for name, cell in zip(table.header[1:], row[1:], strict=False)
        )
        + "</tr>"
        for row in table.rows
    )
    note = f"<p>{_text(table.note)}</p>" if table.note else ""
    return (
        f'<section><h2>{_text(table.title)}</h2>{note}<div class="wide" tabindex="0">'
        f'<table class="stacked"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _figure(chart: Chart) -> Json:
    """A chart for `report.js`; a NaN becomes null, which is drawn as a gap."""
    time = any(isinstance(x, str) for line in chart.lines for x in line.x)
    return {
        "lines": [
            {
                "name": line.name,
                "x": [_moment(x) for x in line.x],
                "y": _ys(line.y),
                "band": None if line.band is None else [_ys(edge) for edge in line.band],
                "dash": "none",
                **LINE_STYLE[line.arm],
            }
            for line in chart.lines
        ],
        "x_title": chart.x_title,
        "y_title": chart.y_title,
        "marks": [(_moment(x), text) for x, text in chart.marks],
        "time": time,
        "log": chart.log,
        "from_zero": chart.from_zero,
    }


def _forest(forest: Forest) -> Json:
    """A forest for `report.js`: the first row on top."""
    return {
        "rows": [[name, *_ys(numbers)] for name, *numbers in forest.rows],
        "x_title": forest.x_title,
        "color": LINE_STYLE[forest.arm]["color"],
    }


def _moment(x: float | str) -> float:
    """A position on the x axis: a number, or a time (ISO 8601, UTC by default) as Unix ms."""
    if not isinstance(x, str):
        return x
    when = datetime.fromisoformat(x)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1e3


def _ys(values: Sequence[float]) -> list[float | None]:
    return [round(value, 6) if math.isfinite(value) else None for value in values]

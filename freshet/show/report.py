"""Reports as one HTML file that needs nothing else: no server, no network, nothing beside it.

`Page` says what is to be shown; `render` makes it HTML with plotly's JavaScript inside. A content
security policy in the page forbids it to ask anything of the outside, so it can be mailed,
archived, and opened in ten years. Replay, comparison and demo make a page each of what they found.
"""

import html
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from ground import FreshetError

Arm = Literal["frozen", "frozen_memory", "live", "live_memory", "ceiling", "plain"]

# The hues of Okabe and Ito's palette, told apart with any kind of colour vision, each of a lightness that
# reaches 3 : 1 on white and on a dark page: a page is read on either. Where two lines coincide, as a live
# base and its correction do, the dashed one lets the solid one be seen through it.
LINE_STYLE: dict[Arm, dict[str, Any]] = {
    "frozen": {"color": "#838992", "width": 2.5},
    "frozen_memory": {"color": "#bf7a00", "width": 2.5},
    "live": {"color": "#0072b2", "width": 3.5},
    "live_memory": {"color": "#0e9c75", "width": 1.8, "dash": "5px,4px"},
    "ceiling": {"color": "#a274c2", "width": 1.3, "dash": "dot"},
    "plain": {"color": "#0072b2", "width": 2},
}


class ReportError(FreshetError):
    """A report cannot be written; the message names the file."""


class Tile(msgspec.Struct, frozen=True):
    """One number worth a glance, with what it is and what to make of it."""

    name: str
    value: str
    note: str = ""
    arm: Arm | None = None


class Line(msgspec.Struct, frozen=True):
    """One line of a chart; a NaN in `y` is a gap. `band` is what lies around it: (lower, upper)."""

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
    """Estimates with intervals under each other; `rows` are (name, value, low, high)."""

    title: str
    rows: Sequence[tuple[str, float, float, float]]
    x_title: str
    note: str = ""
    arm: Arm = "plain"


class Table(msgspec.Struct, frozen=True):
    """A table of texts; the first column names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Page(msgspec.Struct, frozen=True):
    """All that a report shows, in its order; `lead` is the finding in a sentence or two."""

    title: str
    lead: str
    tiles: Sequence[Tile] = ()
    charts: Sequence[Chart | Forest] = ()
    tables: Sequence[Table] = ()
    commands: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, str]] = ()


def write_html(page: Page, path: Path) -> None:
    """Write the page to `path`, whose folder is made if need be.

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


def render(page: Page) -> str:
    """The page as HTML, plotly's JavaScript included when there is a chart (4.8 MB, once)."""
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
        from plotly.offline import get_plotlyjs

        figures = [_forest(c) if isinstance(c, Forest) else _figure(c) for c in page.charts]
        # "<" as an escape: no text of a figure can end the script element.
        data = msgspec.json.encode(figures).decode().replace("<", "\\u003c")
        parts.append(f"<script>{get_plotlyjs()}</script>")
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
    return html.escape(value)


def _tile(tile: Tile) -> str:
    color = LINE_STYLE[tile.arm]["color"] if tile.arm else "var(--line)"
    return (
        f'<div class="tile" style="border-top-color:{color}"><span>{_text(tile.name)}</span>'
        f"<strong>{_text(tile.value)}</strong><small>{_text(tile.note)}</small></div>"
    )


def _chart_frame(index: int, chart: Chart | Forest) -> str:
    note = f"<p>{_text(chart.note)}</p>" if chart.note else ""
    # A forest is as high as it has rows.
    style = f' style="height: {90 + 22 * len(chart.rows)}px"' if isinstance(chart, Forest) else ""
    return (
        f'<section><h2>{_text(chart.title)}</h2>{note}<div class="chart"{style} id="chart{index}" role="img" '
        f'aria-label="{_text(chart.title)}"><noscript>This chart needs JavaScript.</noscript></div></section>'
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in table.header)
    body = "".join(
        f"<tr><th>{_text(row[0])}</th>{''.join(f'<td>{_text(cell)}</td>' for cell in row[1:])}</tr>"
        for row in table.rows
    )
    note = f"<p>{_text(table.note)}</p>" if table.note else ""
    return (
        f'<section><h2>{_text(table.title)}</h2>{note}<div class="wide" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _figure(chart: Chart) -> dict[str, Any]:
    """A chart as plotly's JSON; a NaN becomes null, which plotly leaves open."""
    traces: list[dict[str, Any]] = [trace for line in chart.lines for trace in _band(line)]
    traces += [
        {
            "type": "scatter",
            "mode": "lines" if len(line.x) > 1 else "markers",
            "name": line.name,
            "x": list(line.x),
            "y": _ys(line.y),
            "line": {"shape": "linear", **LINE_STYLE[line.arm]},
            "hovertemplate": "%{y:.4~f}",
        }
        for line in chart.lines
    ]
    shapes = [
        {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1,
         "line": {"width": 1, "dash": "dash"}}
        for x, _ in chart.marks
    ]  # fmt: skip
    notes = [
        {"xref": "x", "yref": "paper", "x": x, "y": 1, "text": text, "showarrow": False,
         "xanchor": "left", "yanchor": "bottom", "font": {"size": 11}}
        for x, text in chart.marks
    ]  # fmt: skip
    y_axis: dict[str, Any] = {"title": {"text": chart.y_title}, "zeroline": False}
    if chart.log:
        y_axis["type"] = "log"
    if chart.from_zero:
        y_axis["rangemode"] = "tozero"
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": chart.x_title}, "zeroline": False},
            "yaxis": y_axis,
            "shapes": shapes,
            "annotations": notes,
            "showlegend": len(chart.lines) > 1,
        },
    }


def _band(line: Line) -> list[dict[str, Any]]:
    """The band around a line: its lower edge, and its upper edge filled down to that."""
    if line.band is None:
        return []
    color = str(LINE_STYLE[line.arm]["color"])
    edge = {"type": "scatter", "mode": "lines", "x": list(line.x), "line": {"width": 1, "color": color},
            "hoverinfo": "skip", "showlegend": False}  # fmt: skip
    lower, upper = line.band
    return [
        {**edge, "y": _ys(lower)},
        {**edge, "y": _ys(upper), "fill": "tonexty", "fillcolor": f"{color}33"},
    ]


def _forest(forest: Forest) -> dict[str, Any]:
    """A forest as plotly's JSON: the first row on top."""
    names, values, lows, highs = zip(*forest.rows, strict=True) if forest.rows else ((), (), (), ())
    color = LINE_STYLE[forest.arm]["color"]
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "x": _ys(values),
                "y": list(names),
                "marker": {"color": color, "size": 8},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": _ys([high - value for value, high in zip(values, highs, strict=True)]),
                    "arrayminus": _ys([value - low for value, low in zip(values, lows, strict=True)]),
                    "color": color,
                },
                "hovertemplate": "%{x:.3~f}<extra></extra>",
            }
        ],
        "layout": {
            "xaxis": {
                "title": {"text": forest.x_title},
                "zeroline": True,
                "zerolinewidth": 2,
                "nticks": 4,
                "tickangle": 0,
            },
            "yaxis": {"autorange": "reversed", "type": "category", "dtick": 1},
            "hovermode": "closest",
            "showlegend": False,
        },
    }


def _ys(values: Sequence[float]) -> list[float | None]:
    return [round(value, 6) if math.isfinite(value) else None for value in values]

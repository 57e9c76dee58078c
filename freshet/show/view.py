"""The view of a running demo: redrawn in place on a terminal, plain lines elsewhere.

`Show` holds the contents of one frame. The demo fills it in; this file measures nothing.
"""

import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec
from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_EVERY_S = 5.0
CHART_ROWS = 8
CHART_COLUMNS_MAX = 100


class ArmRow(msgspec.Struct):
    """One of the four answers and its metrics; NaN: not known yet."""

    name: str
    color: str
    auc_recent: float = math.nan
    auc: float = math.nan
    logloss: float = math.nan
    calibration: float = math.nan
    history: Sequence[float] = ()  # recent AUC, one value a tick


class Shown(msgspec.Struct):
    """One candidate of the newest answer: its name, its predictions, and whether it was clicked."""

    name: str
    base: float
    corrected: float
    clicked: bool = False


class Show(msgspec.Struct):
    """The contents of one frame."""

    title: str
    phase: str
    elapsed_s: float = 0.0
    total_s: float = 1.0
    roles: Sequence[tuple[str, str]] = ()  # name and "ready", "starting", "frozen", ...
    numbers: Sequence[tuple[str, str]] = ()
    arms: Sequence[ArmRow] = ()
    since: str = ""  # start of the columns that are not recent
    recent: str = ""  # length of the sliding window
    request: str = ""  # the newest request: user and time
    slate: Sequence[Shown] = ()
    ticks_total: int = 0  # expected final length of an arm's history, for the chart's x axis


class Screen:
    """A context manager that shows one `Show` after another.

    On a terminal it redraws in place; elsewhere (a pipe, a file) it prints a line every few seconds.
    It starts no thread, so that the process can fork while it is open.
    """

    def __init__(self, console: Console | None = None, plain: bool = False) -> None:
        self.console = console or Console()
        self.plain = plain or not self.console.is_terminal
        self._live = None if self.plain else Live(console=self.console, auto_refresh=False, transient=True)
        self._printed_at = -math.inf
        self._phase = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, show: Show) -> None:
        """Show a frame; without a terminal, only every few seconds."""
        if self._live is not None:
            width = min(self.console.width, CHART_COLUMNS_MAX + 16)
            self._live.update(render(show, width, self.console.height), refresh=True)
            return
        now = time.monotonic()
        if show.phase != self._phase or now - self._printed_at >= PLAIN_EVERY_S:
            self._phase, self._printed_at = show.phase, now
            self.console.print(plain_line(show), highlight=False, markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a permanent line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def plain_line(show: Show) -> str:
    """One frame as a line of text."""
    parts = [f"{show.elapsed_s:5.0f} s  {show.phase}"]
    scores = [f"{arm.name} {arm.auc_recent:.3f}" for arm in show.arms if math.isfinite(arm.auc_recent)]
    if scores:
        parts.append("AUC now: " + ", ".join(scores))
    parts += [f"{name} {value}" for name, value in show.numbers]
    return " | ".join(parts)


def render(show: Show, width: int = 100, height: int = 40) -> RenderableType:
    """One frame for rich, at most `width` columns wide; a low terminal omits the slate."""
    head = Table.grid(expand=True)
    head.add_column(ratio=1)
    head.add_column(justify="right")
    head.add_row(
        Text(show.title, style="bold"), Text(f"{show.elapsed_s:.0f} of {show.total_s:.0f} s", style="dim")
    )
    bar = ProgressBar(total=max(show.total_s, 1e-9), completed=min(show.elapsed_s, show.total_s))
    parts: list[RenderableType] = [
        head,
        _line(bar),
        Text(show.phase),
        Columns((role_text(name, state) for name, state in show.roles), padding=(0, 3)),
        Columns((number_text(name, value) for name, value in show.numbers), padding=(0, 3)),
    ]
    if show.arms:
        parts += [Text(""), _arms_table(show)]
        lines = [(arm.history, arm.color) for arm in show.arms]
        chart = draw_lines(lines, width - 14, CHART_ROWS, show.ticks_total)
        if chart is not None:
            parts += [Text(f"AUC over time, {show.recent}", style="dim"), chart]
    if show.slate and height >= 24 + CHART_ROWS + len(show.slate) - 8:
        parts += [Text(""), _slate_table(show)]
    return Panel(Group(*parts), box=box.ROUNDED, width=width, border_style="dim")


def _line(renderable: RenderableType) -> Table:
    """A full-width line."""
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_row(renderable)
    return grid


def role_text(name: str, state: str) -> Text:
    """A role with its state."""
    color = {"ready": "green", "frozen": "cyan", "starting": "yellow"}.get(state, "red")
    return Text.assemble(("● ", color), name, (f" {state}", "dim"))


def number_text(name: str, value: str) -> Text:
    """A number with its name."""
    return Text.assemble((f"{name} ", "dim"), (value, "bold"))


def _arms_table(show: Show) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    table.add_column("answered by", no_wrap=True)
    for title in (f"AUC {show.recent}", f"AUC {show.since}", "log loss", "calibration"):
        table.add_column(title, justify="right")
    for arm in show.arms:
        values = (arm.auc_recent, arm.auc, arm.logloss, arm.calibration)
        cells = [f"{value:.3f}" if math.isfinite(value) else "–" for value in values]
        table.add_row(Text.assemble(("━━ ", arm.color), arm.name), *cells)
    return table


def _slate_table(show: Show) -> Table:
    table = Table(box=None, pad_edge=False, title=Text(f"newest answer: {show.request}", style="dim"))
    table.title_justify = "left"
    table.add_column("")
    table.add_column("base", justify="right", style="dim")
    table.add_column("corrected", justify="right")
    table.add_column("")
    for shown in show.slate:
        mark = Text("clicked", style="green") if shown.clicked else Text("")
        table.add_row(shown.name, f"{shown.base:.3f}", f"{shown.corrected:.3f}", mark)
    return table


# --- a line chart in braille ------------------------------------------------------------------------

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # [column][row] of one braille cell


def draw_lines(
    lines: Sequence[tuple[Sequence[float], str]], columns: int, rows: int, expected: int = 0
) -> Text | None:
    """Lines in braille, 2 x 4 dots per cell, with the ends of the y axis at the left; None below two values.

    Lines share one x axis; `expected` values (or the actual number, if larger) fill the width. A cell has the
    color of the last line that crosses it.
    """
    values = [y for ys, _ in lines for y in ys if math.isfinite(y)]
    if len(values) < 2 or columns < 8:
        return None
    low, high = _axis(min(values), max(values))
    cells = [[0] * columns for _ in range(rows)]
    colors = [[""] * columns for _ in range(rows)]
    across = max(expected, *(len(ys) for ys, _ in lines))
    for ys, color in lines:
        last: int | None = None
        for dot_x in range(columns * 2):
            index = dot_x * across // (columns * 2)
            y = ys[index] if index < len(ys) else math.nan
            if not math.isfinite(y):
                last = None
                continue
            dot_y = round((high - y) / (high - low) * (rows * 4 - 1))
            start = dot_y if last is None else last
            for d in range(min(start, dot_y), max(start, dot_y) + 1):
                cells[d // 4][dot_x // 2] |= _DOTS[dot_x % 2][d % 4]
                colors[d // 4][dot_x // 2] = color
            last = dot_y
    text = Text()
    for row in range(rows):
        label = f"{high:.2f}" if row == 0 else f"{low:.2f}" if row == rows - 1 else ""
        text.append(f"{label:>6} ", style="dim")
        for mask, color in zip(cells[row], colors[row], strict=True):
            text.append(chr(0x2800 + mask), style=color)
        if row < rows - 1:
            text.append("\n")
    return text


def _axis(low: float, high: float) -> tuple[float, float]:
    """An axis with round ends that covers the values."""
    step = 0.02 if high - low < 0.2 else 0.1
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return (low, high) if high > low else (low, low + step)

"""Reports as a browser shows them: nothing is cut or lies over something else, on a desk and on a phone."""

import math
from pathlib import Path

import pytest
from browser import Browser

from freshet.show.report import Chart, Forest, Line, ReportPage, ReportTable, render

OVERLAPS = """
(() => {
  const found = [];
  const boxes = (root, what) => [...root.querySelectorAll(what)].map((e) => [
    e.textContent, e.getBoundingClientRect()
  ]);
  for (const section of document.querySelectorAll("section")) {
    const texts = [...boxes(section, "h2"), ...boxes(section, ".legend"), ...boxes(section, ".chart text")];
    texts.forEach(([one, a], i) => texts.slice(i + 1).forEach(([other, b]) => {
      const over = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (over > 2 && down > 3) found.push(`${one} / ${other}`);
    }));
  }
  for (const [said, box] of boxes(document, ".chart text, td, tbody th")) {
    if (box.width && (box.left < -1 || box.right > innerWidth + 1)) found.push(`cut: ${said}`);
  }
  return found;
})()
"""


@pytest.mark.process
def test_reports_are_whole_at_every_width(chromium: str, tmp_path: Path) -> None:
    x = [f"2026-01-{day:02d}T00:00:00" for day in range(1, 31)]
    lines = [
        Line("answers, error memory included", x, [0.8 + math.sin(i) / 50 for i in range(30)], "live_memory"),
        Line("weights alone", x, [math.nan] + [0.7] * 29, "live", band=([0.65] * 30, [0.75] * 30)),
    ]
    marks = [(x[10], "tastes shift"), (x[12], "tastes shift"), (x[28], "tastes shift once more")]
    page = ReportPage(
        "Freshet compare: a_rather_long_name and another_rather_long_name",
        "A lead.",
        charts=[
            Chart("AUC", lines, "event time (UTC)", "AUC, last 15 s", "A note.", marks),
            Chart("Log", [Line("a", [0.0, 5.0], [0.01, 100.0])], "x", "y", log=True),
            Chart("Zero", [Line("a", [0.0, 5.0], [0.0, 0.0])], "x", "y", from_zero=True),
            Chart("One", [Line("a", [3.0], [0.5])], "x", "y"),
            Forest(
                "f",
                [(f"item, requests before: {i}", i - 3.0, i - 4.0, i - 1.0) for i in range(9)],
                "per cent",
            ),
        ],
        tables=[
            ReportTable("t", ["", *(f"log loss, run {i}" for i in range(6))], [["row", *["0.12345"] * 6]])
        ],
    )
    file = tmp_path / "r.html"
    file.write_text(render(page))
    with Browser(chromium) as browser:
        for width in (1440, 820, 390):
            for dark in (False, True):
                browser.screen(width, 1000, dark=dark)
                browser.open(f"file://{file}")
                browser.until("document.querySelectorAll('.chart svg').length == 5")
                assert browser.value(OVERLAPS) == [], width
                assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.errors == []

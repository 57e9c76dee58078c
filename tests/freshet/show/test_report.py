"""The report is one file that asks nothing of the outside, whatever texts and numbers are in it."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from freshet.show.replay_report import replay_page
from freshet.show.report import Chart, Line, ReportError, ReportPage, ReportTable, Tile, render, write_html
from ground import FreshetError

SUMMARY = {
    "auc": 0.8012,
    "gauc": 0.61,
    "logloss": 0.5301,
    "normalized_entropy": 0.81,
    "calibration": 1.01,
    "ece": 0.01,
    "brier": None,
}


def figures_of(page: str) -> list[dict[str, Any]]:
    match = re.search(r"const figures = (.*);\n", page)
    assert match
    return json.loads(match[1])


def a_chart(name: str = "auc") -> Chart:
    return Chart(name, [Line("live", [1.0, 2.0, 3.0], [0.5, math.nan, 0.7], "live")], "seconds", "AUC")


def test_page_is_self_contained() -> None:
    page = render(ReportPage("t", "lead", charts=[a_chart()]))
    assert len(page) < 40_000
    assert "default-src 'none'" in page
    names = page.replace("http://www.w3.org/2000/svg", "")  # the name of SVG, which nobody asks for
    assert not re.search(r"https?://|src=|<link|@import|url\(", names)


def test_page_without_charts_carries_no_script() -> None:
    page = render(ReportPage("t", "lead", tiles=[Tile("a", "1")]))
    assert len(page) < 20_000 and "<script" not in page


def test_texts_are_escaped_everywhere() -> None:
    evil = "</script><script>alert(1)</script>"
    page = render(
        ReportPage(
            evil,
            evil,
            tiles=[Tile(evil, evil, evil)],
            charts=[
                Chart(evil, [Line(evil, [1.0], [1.0]), Line("b", [], [])], evil, evil, evil, [(1.0, evil)])
            ],
            tables=[ReportTable(evil, [evil], [[evil]], evil)],
            commands=[(evil, evil)],
            facts=[(evil, evil)],
        )
    )
    assert "<script>alert" not in page
    assert figures_of(page)[0]["lines"][0]["name"] == evil


def test_nan_is_a_gap() -> None:
    (figure,) = figures_of(render(ReportPage("t", "lead", charts=[a_chart()])))
    assert figure["lines"][0]["y"] == [0.5, None, 0.7]


def test_marks_become_lines_and_names() -> None:
    chart = Chart("c", [Line("a", [1.0], [1.0])], "x", "y", marks=[(4.0, "tastes shift")])
    (figure,) = figures_of(render(ReportPage("t", "lead", charts=[chart])))
    assert figure["marks"] == [[4.0, "tastes shift"]]


def test_replay_page_shows_base_and_corrected_over_event_time() -> None:
    halves = {"overall": SUMMARY, "last_half": SUMMARY}
    better = {"overall": SUMMARY, "last_half": {**SUMMARY, "auc": 0.8112}}
    windows = [{"to_time": 1.38e9 + i, "base": SUMMARY, "corrected": SUMMARY} for i in range(3)]
    report = {
        "events": 1234,
        "events_per_second": 5678.9,
        "state_hash": "abc",
        "base": halves,
        "corrected": better,
        "windows": windows,
        "seconds": {"read": 1.0},
    }
    page = render(replay_page(report, "ratings"))
    assert "ratings" in page and "0.8112" in page and "+0.0100" in page and "1,234" in page and "abc" in page
    assert "–" in page  # what is not known is not a zero
    auc = figures_of(page)[0]
    assert [line["name"] for line in auc["lines"]] == ["base and corrected"], "equal lines are drawn once"
    assert "Corrected equals base and is drawn once" in page
    assert auc["time"] and auc["lines"][0]["x"][0] == 1.38e12
    assert auc["lines"][0]["y"] == [0.8012] * 3
    windows[1]["corrected"] = {**SUMMARY, "auc": 0.9}
    auc = figures_of(render(replay_page(report, "ratings")))[0]
    assert [line["name"] for line in auc["lines"]] == ["base", "corrected"]


def test_stream_of_one_label_is_told_and_has_no_empty_charts() -> None:
    none = SUMMARY | {"auc": None, "gauc": None, "calibration": None}
    both = {"base": none, "corrected": none}
    report = {"events": 1_234_567, "events_per_second": 25325.374, "first_skipped": "", **both}
    page = replay_page(report | {"windows": [{"to_time": 10.0, **both}, {"to_time": 20.0, **both}]}, "a.csv")
    assert page.lead.startswith("All labels are the same")
    assert [chart.title for chart in page.charts] == ["Log loss over time"]
    assert page.facts == [("events", "1,234,567"), ("events per second", "25,325")]


def test_windows_without_times_are_numbered() -> None:
    both = {"base": SUMMARY, "corrected": SUMMARY}
    halves = {"overall": SUMMARY, "last_half": SUMMARY}
    report = {"events": 1, "state_hash": "", "base": halves, "corrected": halves, "windows": [both] * 3}
    charts = replay_page(report).charts
    assert charts and {chart.x_title for chart in charts} == {"window"}


def test_replay_page_without_windows_has_no_charts() -> None:
    halves = {"overall": SUMMARY, "last_half": SUMMARY}
    report = {"events": 1, "state_hash": "", "base": halves, "corrected": halves}
    assert replay_page(report).charts == []


def test_write_makes_the_folder(tmp_path: Path) -> None:
    write_html(ReportPage("t", "lead"), tmp_path / "new" / "r.html")
    assert (tmp_path / "new" / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_write_where_nothing_can_be_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReportError, match=r"r\.html.*name another file") as raised:
        write_html(ReportPage("t", "lead"), tmp_path / "file" / "r.html")
    assert isinstance(raised.value, FreshetError)

"""What is drawn and written stands out from what it is on, by day and by night (WCAG 2.1, 1.4.3 and 1.4.11).

Judged from the colours as style sheets and code state them, so it needs no browser. That texts of the live
page really stand on what is said here is seen in a browser (test_seen.py).
"""

import re

import pytest
from paths import ROOT

from freshet.show.report import LINE_STYLE

LIVE = (ROOT / "serving" / "watch" / "live.css").read_text()
REPORT = (ROOT / "freshet" / "show" / "report.css").read_text()
DRAWING = (ROOT / "freshet" / "show" / "report.js").read_text()
TEXT, GRAPHICS = 4.5, 3.0
MODES = ("light", "dark")

# What stands on what; nothing needs to be told by the rest, which only sets things apart.
LIVE_TEXTS = {
    "ink": ("paper", "card", "line", "bad-paper", "warn-paper"),
    "soft": ("paper", "card", "bad-paper", "warn-paper"),
    "link": ("paper", "card", "warn-paper"),
    "good": ("paper", "card", "good-paper"),
    "warn": ("warn-paper",),
    "bad": ("card", "bad-paper"),
}
LIVE_GRAPHICS = {
    **dict.fromkeys(("frozen", "base", "corrected", "third", "good", "bad"), ("card",)),
    "soft": ("card",),  # the frame of a field, the cross-hair
    "link": ("paper", "card"),  # the focus
    "warn": ("warn-paper",),
}
REPORT_TEXTS = {"ink": ("paper", "card"), "soft": ("paper", "card")}
DECORATION = {"paper", "card", "line", "grid", "good-paper", "warn-paper", "bad-paper"}

Colour = tuple[float, float, float]


def colour(text: str) -> Colour:
    """#rgb or #rrggbb, each part 0 to 255."""
    digits = text.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(digit * 2 for digit in digits)
    red, green, blue = (float(int(digits[i : i + 2], 16)) for i in (0, 2, 4))
    return red, green, blue


def luminance(of: Colour) -> float:
    """Relative luminance, as WCAG defines it."""
    red, green, blue = (
        (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4) for v in (p / 255 for p in of)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Colour, other: Colour) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def through(top: Colour, ground: Colour, opacity: float) -> Colour:
    """What is seen of a colour that lets its ground through."""
    red, green, blue = (t * opacity + g * (1.0 - opacity) for t, g in zip(top, ground, strict=True))
    return red, green, blue


def colours(css: str, mode: str) -> dict[str, Colour]:
    """The custom properties that are colours, as they are in this mode."""
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    told = light + dark if mode == "dark" else light
    return {name: colour(value) for name, value in re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", told)}


def number(css: str, rule: str, of: str) -> float:
    """A number that a rule gives to a property."""
    found = re.search(rf"^{re.escape(rule)} \{{[^}}]*\b{of}: ([\d.]+);", css, re.MULTILINE)
    assert found, (rule, of)
    return float(found[1])


def too_faint(known: dict[str, Colour], pairs: dict[str, tuple[str, ...]], least: float) -> dict[str, float]:
    return {
        f"{name} on {ground}": round(ratio, 2)
        for name, grounds in pairs.items()
        for ground in grounds
        if (ratio := contrast(known[name], known[ground])) < least
    }


def test_contrast_is_as_wcag_counts_it() -> None:
    assert contrast(colour("#fff"), colour("#000")) == pytest.approx(21.0)
    assert contrast(colour("#777"), colour("#ffffff")) == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("mode", MODES)
def test_live_page_can_be_read_and_its_lines_be_seen(mode: str) -> None:
    known = colours(LIVE, mode)
    assert set(known) == {*LIVE_TEXTS, *LIVE_GRAPHICS, *DECORATION}, (
        "judge each colour, or call it decoration"
    )
    assert too_faint(known, LIVE_TEXTS, TEXT) == {}
    assert too_faint(known, LIVE_GRAPHICS, GRAPHICS) == {}
    for rule, of, name in (
        (".plot path.wide", "stroke-opacity", "base"),
        (".swatch.wide", "opacity", "base"),
        (".plot .mark", "opacity", "soft"),
    ):
        seen = through(known[name], known["card"], number(LIVE, rule, of))
        assert contrast(seen, known["card"]) >= GRAPHICS, rule


def test_live_page_names_its_colours_in_one_place() -> None:
    rules = LIVE[LIVE.index("* {") :]
    assert re.findall(r"background: (#\w+); color: (#\w+)", rules) == [("#00588c", "#fff")]
    assert contrast(colour("#00588c"), colour("#fff")) >= TEXT
    assert len(re.findall(r"#[0-9a-f]{3,6}\b", rules)) == 2


@pytest.mark.parametrize("mode", MODES)
def test_reports_can_be_read_and_their_lines_be_seen(mode: str) -> None:
    known = colours(REPORT, mode)
    assert set(known) == {*REPORT_TEXTS, "paper", "card", "line"}
    assert too_faint(known, REPORT_TEXTS, TEXT) == {}
    lines = {arm: colour(str(style["color"])) for arm, style in LINE_STYLE.items()}
    grounds = {"card": known["card"], "paper": known["paper"]}
    assert too_faint({**lines, **grounds}, dict.fromkeys(lines, tuple(grounds)), GRAPHICS) == {}


def test_reports_take_all_other_colours_from_their_style_sheet() -> None:
    code = (ROOT / "freshet" / "show" / "report.py").read_text()
    outside = code[code.index("class ReportError") :] + DRAWING
    assert re.findall(r"#[0-9a-fA-F]{3,6}\b", outside) == []

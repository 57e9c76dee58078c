"""What is shown: on a terminal a picture, elsewhere lines, and never more than there is room for."""

import io
import math

from rich.console import Console

from freshet.show.view import ArmRow, Screen, Show, Shown, draw_lines, plain_line, render


def a_show() -> Show:
    return Show(
        title="Freshet demo",
        phase="playing",
        elapsed_s=12.0,
        total_s=60.0,
        roles=[("join", "ready"), ("learn", "gone")],
        numbers=[("events/s", "80")],
        arms=[
            ArmRow("frozen", "#8b919a", 0.61, 0.62, 0.33, 0.9, [math.nan, 0.6, 0.61]),
            ArmRow("live", "#0072b2", math.nan, 0.7, 0.31, 1.0, [math.nan, 0.69, 0.7]),
        ],
        since="since freezing",
        recent="last 15 s",
        request="user 7",
        slate=[Shown("item 3", 0.1, 0.2, True)],
        ticks_total=50,
    )


def drawn(show: Show, width: int, height: int) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    with console.capture() as capture:
        console.print(render(show, width, height))
    return capture.get()


def test_terminal_shows_everything() -> None:
    text = drawn(a_show(), 100, 50)
    for expected in (
        "Freshet demo",
        "playing",
        "join",
        "gone",
        "events/s",
        "0.610",
        "0.700",
        "user 7",
        "clicked",
    ):
        assert expected in text
    assert any(0x2800 < ord(character) < 0x2900 for character in text)


def test_low_terminal_loses_the_slate_only() -> None:
    text = drawn(a_show(), 100, 20)
    assert "user 7" not in text and "0.610" in text


def test_narrow_terminal_is_no_error() -> None:
    assert "frozen" in drawn(a_show(), 40, 50)


def test_plain_line_leaves_out_what_is_not_known() -> None:
    line = plain_line(a_show())
    assert "frozen 0.610" in line and "nan" not in line and "live" not in line


def test_plain_screen_prints_a_line_when_the_phase_changes() -> None:
    out = io.StringIO()
    with Screen(Console(file=out, width=40)) as screen:
        show = a_show()
        screen.show(show)
        screen.show(show)
        show.phase = "ending"
        screen.show(show)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2 and "playing" in lines[0] and "ending" in lines[1]


def test_lines_need_two_values() -> None:
    assert draw_lines([([0.5], "red"), ([math.nan], "blue")], 40, 4) is None
    assert draw_lines([([], "red")], 40, 4) is None


def test_higher_values_are_drawn_higher() -> None:
    text = draw_lines([([0.1, 0.1, 0.9, 0.9], "red")], 20, 6)
    assert text is not None
    rows = [line[7:] for line in text.plain.split("\n")]
    assert rows[0].strip("⠀")[0] != rows[-1].strip("⠀")[0] or rows[0].index(rows[0].strip("⠀")) > 5
    first = [next((i for i, c in enumerate(row) if c != "⠀"), 99) for row in rows]
    assert first[-1] < first[0]  # low at the left, high at the right


def test_each_value_is_drawn_at_its_height() -> None:
    text = draw_lines([([0.0, 1.0], "red")], 8, 2)
    assert text is not None
    assert [line[7:] for line in text.plain.split("\n")] == ["⠀⠀⠀⠀⡏⠉⠉⠉", "⣀⣀⣀⣀⡇⠀⠀⠀"]
    text = draw_lines([([3 / 7, math.nan, 0.0, math.nan, 1.0, math.nan], "red")], 12, 2)
    assert text is not None
    red = {i for span in text.spans if span.style == "red" for i in range(span.start, span.end)}
    assert red == {i for i, character in enumerate(text.plain) if "⠀" < character <= "⣿"}


def test_expected_values_set_the_scale() -> None:
    half = draw_lines([([0.5, 0.6] * 10, "red")], 40, 4, expected=40)
    assert half is not None
    rows = [line[7:] for line in half.plain.split("\n")]
    assert all(set(row[21:]) <= {"⠀"} for row in rows)

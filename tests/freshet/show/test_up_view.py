"""What `freshet up` draws: what is known, and never more than there is room for."""

import io

from rich.console import Console

from freshet.show.up_view import render_up
from serving.watch.alerts import Alert
from serving.watch.history import Span
from serving.watch.live import Live, Now, TableRow, TargetRow

STATES = [("join", "ready"), ("learn", "starting"), ("serve", "gone")]


def live(**numbers: float) -> Live:
    return Live(
        step=1, time=0.0, life="x", version="", ready=True, why_not_ready="", frozen=False, log_up=True,
        roles=[], now=Now(**numbers), tables=[TableRow("user", 12_345, 1.5, 0.0, 0.0, 0.0)],
        alerts=[Alert("FreshetLagging", "page", "learner", "the learner is 2 min behind", 0.0)],
        newest=Span(1.0, [], {}),
    )  # fmt: skip


def drawn(moment: Live, width: int = 100, height: int = 50) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    columns = {"auc_corrected": [None, 0.6, 0.7]}
    with console.capture() as capture:
        console.print(render_up(moment, columns, STATES, "http://here/", "the foot", width, height))
    return capture.get()


def test_terminal_shows_what_is_known() -> None:
    numbers = {"events_per_s": 1234.0, "freshness_s": 0.25, "gate": 0.5, "joiner_lag_records": 3.0}
    text = drawn(live(**numbers, joiner_lag_s=0.02, auc_corrected=0.7, logloss_corrected=0.3, auc_frozen=0.5))
    for expected in (
        "http://here/", "joiner", "starting", "gone", "1,234", "250 ms", "50%", "3 records, 20 ms", "0.700",
        "0.300", "frozen", "12.3k", "1.5", "FreshetLagging", "2 min behind", "the foot",
    ):  # fmt: skip
        assert expected in text, expected
    assert any(0x2800 < ord(character) < 0x2900 for character in text)


def test_terminal_shows_a_dash_for_what_is_not_known() -> None:
    text = drawn(live())
    assert "–" in text and "None" not in text and "nan" not in text and "frozen" not in text


def test_further_targets_have_a_line_each_where_there_is_room() -> None:
    moment = live(auc_corrected=0.7)
    alone = drawn(moment)
    moment.targets = [
        TargetRow("buy", False, 90.0, 0.05, 0.612, 0.181, None, 1.02),
        TargetRow("minutes", True, 90.0, 12.0, None, None, 4.25, 0.98),
    ]
    text = drawn(moment)
    (buy,) = (line for line in text.splitlines() if "buy, corrected" in line)
    (minutes,) = (line for line in text.splitlines() if "minutes, corrected" in line)
    assert all(number in buy for number in ("0.612", "0.181", "1.020"))
    assert all(number in minutes for number in ("error 4.25", "0.980", "–"))
    assert len(text.splitlines()) == len(alone.splitlines()) + 2
    assert "buy" not in drawn(moment, height=24)


def test_low_or_narrow_terminal_loses_tables_then_chart() -> None:
    assert "12.3k" not in drawn(live(), height=40) and "AUC, last" in drawn(live(), height=40)
    low = drawn(live(auc_base=0.6), height=24)
    assert "AUC, last" not in low and "0.600" in low and low.count("\n") <= 24
    assert "joiner" in drawn(live(), width=40)

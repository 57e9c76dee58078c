"""The demo's report: the metrics of each of the four answers over time."""

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from freshet.demo.history import HistoryCounts
from freshet.demo.known import KnownWorth
from freshet.demo.player import Player
from freshet.demo.scenes import Scene
from freshet.files import Json
from freshet.show.report import Arm, Chart, Line, ReportPage, ReportTable, Tile
from learner.metrics import Summary

NAMES: dict[str, tuple[str, Arm]] = {
    "ceiling": ("the world's true probabilities", "ceiling"),
    "frozen": ("frozen", "frozen"),
    "frozen + memory": ("frozen + error memory", "frozen_memory"),
    "live": ("live", "live"),
    "live + memory": ("live + error memory", "live_memory"),
}
FIRST_S = 2.0  # until then the newest example belongs to the history
_FIGURES = ("auc", "gauc", "logloss", "normalized_entropy", "calibration", "ece", "brier")


class PlaySample(msgspec.Struct, frozen=True):
    """The metrics at one moment of the play."""

    at_s: float
    auc: dict[str, float]  # of each arm, recent
    logloss: dict[str, float]
    freshness_s: float  # of the live answers, median since the last tick
    base_freshness_s: float  # of the live weights alone
    events_per_s: float
    lag: int  # records that joiner and learner have still to commit
    memory_live: float  # evidence in the live server's error memory
    memory_frozen: float
    table_rows: int


def demo_page(
    scene: Scene,
    history: HistoryCounts,
    player: Player,
    ticks: Sequence[PlaySample],
    seconds: float,
    worth: Sequence[KnownWorth] = (),
) -> ReportPage:
    """The report of a finished demo."""
    overall = player.board.overall()
    arms = [arm for arm in NAMES if arm != "ceiling" or not scene.labelled]
    notes = {
        "frozen": "stopped learning when the play began",
        "frozen + memory": _regained(overall),
        "live": "learns from every request",
        "live + memory": "corrected by examples not yet trained on",
    }
    tiles = [
        Tile(f"AUC, {NAMES[arm][0]}", _figure(overall[arm], "auc"), notes[arm], NAMES[arm][1])
        for arm in arms
        if arm != "ceiling"
    ]
    latency = np.array(player.latency_ms or [math.nan])
    facts = [
        ("stream", scene.title),
        ("history, trained on before freezing", history.sentence()),
        ("played", f"{player.asked:,} requests and {player.clicks:,} clicks in {seconds:.0f} s"),
        ("waited for slow answers, the world's clock too", f"{player.held_s:.1f} s"),
        (
            "answer time at the client, two servers asked at once",
            f"median {np.median(latency):.1f} ms, p99 {np.percentile(latency, 99):.1f} ms",
        ),
        (
            "median freshness",
            f"{_median([t.freshness_s for t in ticks if t.at_s > scene.settle_s + FIRST_S]):.2f} s",
        ),
        ("embedding table", f"{ticks[-1].table_rows if ticks else 0:,} rows at the end"),
    ]
    return ReportPage(
        title="Freshet demo",
        lead=_lead(overall),
        tiles=tiles,
        charts=_charts(scene, ticks, arms, seconds),
        tables=[_table(overall, arms), *_known(worth)],
        commands=(
            (
                "freshet replay --data ratings/ --report r.json --html r.html",
                "what would it do on your data?",
            ),
            ("freshet up --config freshet.toml", "the same three roles, with your own events"),
            ("freshet demo --keep demo/", "keep config, log and state of the demo"),
        ),
        facts=facts,
    )


def _charts(scene: Scene, ticks: Sequence[PlaySample], arms: Sequence[str], seconds: float) -> list[Chart]:
    x = [round(tick.at_s, 2) for tick in ticks]
    marks = [(share * seconds, "tastes shift") for share in scene.shifts]

    def by_arm(read: Callable[[PlaySample], dict[str, float]], shown: Sequence[str]) -> list[Line]:
        return [Line(NAMES[arm][0], x, [read(tick)[arm] for tick in ticks], NAMES[arm][1]) for arm in shown]

    later = [tick for tick in ticks if tick.at_s > scene.settle_s + FIRST_S]
    later_x = [round(tick.at_s, 2) for tick in later]
    seconds_title = "seconds since the model was frozen"
    return [
        Chart(
            "AUC",
            by_arm(lambda tick: tick.auc, arms),
            seconds_title,
            "AUC, last 15 s",
            "All lines are scored on the same requests, each predicted before its labels were known. "
            "Higher is better.",
            marks,
        ),
        Chart(
            "Log loss",
            by_arm(lambda tick: tick.logloss, arms),
            seconds_title,
            "log loss, last 15 s",
            "Lower is better.",
            marks,
        ),
        Chart(
            "Freshness",
            [
                Line(
                    "answers, error memory included", later_x, [t.freshness_s for t in later], "live_memory"
                ),
                Line("weights alone", later_x, [t.base_freshness_s for t in later], "live"),
            ],
            seconds_title,
            "seconds",
            "Age of the newest example reflected in the answers. "
            f"Labels are known {scene.settle_s:g} s after a request; from the first ones on.",
            from_zero=True,
        ),
        Chart(
            "What the error memories hold",
            [
                Line("beside the frozen model", x, [tick.memory_frozen for tick in ticks], "frozen_memory"),
                Line("beside the live model", x, [tick.memory_live for tick in ticks], "live_memory"),
            ],
            seconds_title,
            "examples",
            "Evidence not yet in the model: everything since freezing, or almost nothing.",
            from_zero=True,
        ),
        Chart(
            "Flow",
            [
                Line("events a second", x, [tick.events_per_s for tick in ticks], "live"),
                Line("records not yet committed", x, [float(tick.lag) for tick in ticks], "frozen"),
            ],
            seconds_title,
            "records",
            "Impressions and clicks per second, and the lag of joiner and learner.",
            from_zero=True,
        ),
    ]


def _table(overall: dict[str, Summary], arms: Sequence[str]) -> ReportTable:
    rows = [(NAMES[arm][0], *(_figure(overall[arm], key) for key in _FIGURES)) for arm in arms]
    header = ("", "AUC", "AUC per user", "log loss", "normalized entropy", "calibration", "ECE", "Brier")
    examples = overall["live"]["examples"]
    return ReportTable(
        "Since freezing", header, rows, f"Over {examples:,} candidates, each predicted before training on it."
    )


def _known(worth: Sequence[KnownWorth]) -> list[ReportTable]:
    if not worth:
        return []
    rows = [(row.features, f"{row.auc:.4f}", row.gain) for row in worth]
    note = (
        "Attributes are said once of each item; histories of people and rates of items are kept by Freshet "
        "itself. The requests named people and items alone. History and play were learned once more with and "
        "without, each request predicted before training on it; the second half is scored."
    )
    return [ReportTable("What Freshet knows by itself", ("", "AUC", "more"), rows, note)]


def _lead(overall: dict[str, Summary]) -> str:
    frozen, live = overall["frozen"]["auc"], overall["live + memory"]["auc"]
    if frozen is None or live is None:
        return "The play was too short to distinguish the answers."
    return (
        f"While the stream went on, a model that had stopped learning reached an AUC of {frozen:.3f}. "
        f"The same model, learning from each event, reached {live:.3f}. {_memory_sentence(overall)}"
    )


def _memory_sentence(overall: dict[str, Summary]) -> str:
    share = _share_regained(overall)
    if share is None:
        return ""
    beside = "With only an error memory, the frozen model regained"
    if share > 1.0:
        memory, live = (overall[arm]["auc"] for arm in ("frozen + memory", "live + memory"))
        return (
            f"{beside} all of that gain: its AUC of {memory:.3f} against {live:.3f} is a difference too "
            "small for a play this short."
        )
    return f"{beside} {share:.0%} of that gain." if share > 0.0 else f"{beside} nothing of that gain."


def _regained(overall: dict[str, Summary]) -> str:
    share = _share_regained(overall)
    if share is None:
        return "the same model, corrected"
    if share > 1.0:
        return "regains all of what learning gains"
    return f"regains {share:.0%} of what learning gains" if share > 0.0 else "regains nothing in this play"


def _share_regained(overall: dict[str, Summary]) -> float | None:
    """The share of the live model's gain in AUC that the memory regains; None without a gain."""
    frozen, memory, live = (overall[arm]["auc"] for arm in ("frozen", "frozen + memory", "live + memory"))
    if frozen is None or memory is None or live is None or live - frozen < 0.003:
        return None
    return (memory - frozen) / (live - frozen)


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.median(known)) if known else math.nan


def _figure(summary: Summary, key: str) -> str:
    value = summary.get(key)
    return figure(value if isinstance(value, float) else None)


def further_lines(model: Json) -> list[str]:
    """A line for each target beside the first, of the corrected predictions of the live model.

    Args:
        model: the answer of GET /v1/model.
    """
    lines = []
    for name, told in list(model.get("targets", {}).items())[1:]:
        overall = told["corrected"]["overall"]
        kind = "mae" if "mae" in overall else "auc"
        metric = "mean absolute error" if kind == "mae" else "AUC"
        lines.append(
            f"{f'{name}, of clicks':<24} {metric} {figure(overall[kind])}   "
            f"calibration {figure(overall['calibration'])}   ({overall['examples']:,} clicks)"
        )
    return lines


def figure(value: float | None) -> str:
    """A metric with four digits, or a dash."""
    return f"{value:.4f}" if value is not None else "–"
